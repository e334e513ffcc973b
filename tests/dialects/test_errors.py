"""Errors in every dialect: status, shape of the body, and headers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from embedd import errors
from embedd.engine.fake import NOT_A_NUMBER
from embedd.server.http.bodies import BodyLimits
from tests.server.serving import OpenServer, Reply, Served

LONG = "a" * 70


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An endpoint that embeds one text, and the family of its errors."""

    path: str
    field: str
    family: str

    def body(self, model: str, text: str) -> dict[str, object]:
        never_cut: dict[str, object] = {"truncate": "NONE" if self.family == "cohere" else False}
        texts = [text] if self.field == "texts" else text
        return {"model": model, self.field: texts, **never_cut}

    def shape(self, reply: Reply) -> tuple[str | None, str | None]:
        """Type and code of an error that has the dialect's shape and nothing else."""
        if self.family == "openai":
            error = reply.json["error"]
            assert reply.json.keys() == {"error", "detail"}
            assert error.keys() - {"index", "tokens", "limit"} == {
                "message", "type", "param", "code"
            }  # fmt: skip
            assert reply.json["detail"] == error["message"] != ""
            return error["type"], error["code"]
        if self.family == "tei":
            assert reply.json.keys() == {"error", "error_type"}
            assert reply.json["error"]
            return reply.json["error_type"], None
        if self.family == "llamacpp":
            assert reply.json.keys() == {"error"}
            error = reply.json["error"]
            assert error.keys() - {"n_prompt_tokens", "n_ctx"} == {"code", "message", "type"}
            assert error["code"] == reply.status
            return error["type"], None
        assert reply.json.keys() == {"id", "message"}
        assert reply.json["id"] == reply.headers["X-Request-Id"]
        assert reply.json["message"]
        return None, None


ENDPOINTS = {
    "openai": Endpoint(path="/v1/embeddings", field="input", family="openai"),
    "openai short": Endpoint(path="/embeddings", field="input", family="openai"),
    "aigne": Endpoint(path="/api/embeddings", field="input", family="openai"),
    "nugen": Endpoint(path="/api/v3/inference/embeddings", field="input", family="openai"),
    "cohere 1": Endpoint(path="/v1/embed", field="texts", family="cohere"),
    "cohere 2": Endpoint(path="/v2/embed", field="texts", family="cohere"),
    "tei": Endpoint(path="/embed", field="inputs", family="tei"),
    "tei root": Endpoint(path="/", field="inputs", family="tei"),
    "llama.cpp": Endpoint(path="/embedding", field="content", family="llamacpp"),
    "llama.cpp shared": Endpoint(path="/embeddings", field="content", family="llamacpp"),
}

Expected = tuple[int, str | None, str | None]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """An error: caused by the request, or raised by the load of the model."""

    openai: Expected
    cohere: int
    tei: tuple[int, str]
    llamacpp: tuple[int, str]
    model: str = "tiny"
    text: str = "a"
    load_error: Callable[[], Exception] | None = None

    def expected(self, endpoint: Endpoint) -> Expected:
        if endpoint.family == "cohere":
            return (self.cohere, None, None)
        if endpoint.family == "openai":
            return self.openai
        return (*(self.tei if endpoint.family == "tei" else self.llamacpp), None)


INVALID = "invalid_request_error"
CONDITIONS = {
    "unknown model": Condition(
        model="nope",
        openai=(404, "not_found_error", "model_not_found"),
        cohere=404,
        tei=(404, "Validation"),
        llamacpp=(404, "not_found_error"),
    ),
    "an invalid model name": Condition(
        model="a b",
        openai=(404, "not_found_error", "model_not_found"),
        cohere=404,
        tei=(404, "Validation"),
        llamacpp=(404, "not_found_error"),
    ),
    "a language model": Condition(
        model="talker",
        openai=(400, INVALID, "model_not_supported"),
        cohere=400,
        tei=(424, "Backend"),
        llamacpp=(501, "not_supported_error"),
    ),
    "a reranker": Condition(
        model="ranker",
        openai=(400, INVALID, "model_not_supported"),
        cohere=400,
        tei=(424, "Backend"),
        llamacpp=(501, "not_supported_error"),
    ),
    "over-long": Condition(
        text=LONG,
        openai=(400, INVALID, "context_length_exceeded"),
        cohere=400,
        tei=(422, "Validation"),
        llamacpp=(400, "exceed_context_size_error"),
    ),
    "a vector that is not finite": Condition(
        text=NOT_A_NUMBER,
        openai=(500, "api_error", None),
        cohere=500,
        tei=(424, "Backend"),
        llamacpp=(500, "server_error"),
    ),
    "no key": Condition(
        load_error=lambda: errors.UnauthorizedError("invalid API key"),
        openai=(401, INVALID, "invalid_api_key"),
        cohere=401,
        tei=(401, "Unauthorized"),
        llamacpp=(401, "authentication_error"),
    ),
    "queue full": Condition(
        load_error=lambda: errors.OverloadedError("queue full", retry_after=7),
        openai=(429, "rate_limit_error", "rate_limit_exceeded"),
        cohere=429,
        tei=(429, "Overloaded"),
        llamacpp=(503, "unavailable_error"),
    ),
    "deadline passed": Condition(
        load_error=errors.DeadlineError,
        openai=(504, "api_error", "timeout"),
        cohere=504,
        tei=(504, "Backend"),
        llamacpp=(504, "server_error"),
    ),
    "load timed out": Condition(
        load_error=lambda: errors.LoadTimeoutError("no progress"),
        openai=(503, "api_error", "unavailable"),
        cohere=503,
        tei=(503, "Unhealthy"),
        llamacpp=(503, "unavailable_error"),
    ),
    "out of memory": Condition(
        load_error=lambda: errors.InsufficientMemoryError("too large"),
        openai=(503, "api_error", "unavailable"),
        cohere=503,
        tei=(503, "Unhealthy"),
        llamacpp=(503, "unavailable_error"),
    ),
    "draining": Condition(
        load_error=errors.ShuttingDownError,
        openai=(503, "api_error", "unavailable"),
        cohere=503,
        tei=(503, "Unhealthy"),
        llamacpp=(503, "unavailable_error"),
    ),
    "cannot be loaded": Condition(
        load_error=lambda: errors.ModelLoadError("bad file"),
        openai=(500, "api_error", None),
        cohere=500,
        tei=(424, "Backend"),
        llamacpp=(500, "server_error"),
    ),
    "a bug": Condition(
        load_error=lambda: RuntimeError("/secret/path"),
        openai=(500, "api_error", None),
        cohere=500,
        tei=(424, "Backend"),
        llamacpp=(500, "server_error"),
    ),
}


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=ENDPOINTS)
@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
async def test_an_error_has_the_status_and_shape_of_its_dialect(
    condition: Condition, endpoint: Endpoint, served: Served
) -> None:
    served.loads.error = condition.load_error() if condition.load_error else None
    reply = await served.post(endpoint.path, endpoint.body(condition.model, condition.text))
    assert (reply.status, *endpoint.shape(reply)) == condition.expected(endpoint)
    assert "secret" not in reply.body.decode()
    assert reply.headers["X-Request-Id"]
    assert ("Retry-After" in reply.headers) == (reply.status in (429, 503))
    assert reply.headers.get("WWW-Authenticate") == ("Bearer" if reply.status == 401 else None)
    one_input = condition.text == NOT_A_NUMBER
    is_final = (one_input and reply.status == 500) or reply.status == 501
    assert reply.headers.get("x-should-retry") == ("false" if is_final else None)


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=ENDPOINTS)
async def test_the_message_says_what_to_wait_for(endpoint: Endpoint, served: Served) -> None:
    messages = {
        errors.OverloadedError("x", retry_after=7): "server busy, please try again",
        errors.LoadTimeoutError("x"): 'model "tiny" is still loading',
        errors.ShuttingDownError(): "server is shutting down",
        RuntimeError("x"): "internal error: request id mine",
        errors.StoreError("cannot read /secret"): "internal error: request id mine",
    }
    for error, message in messages.items():
        served.loads.error = error
        reply = await served.send(
            "POST",
            endpoint.path,
            json=endpoint.body("tiny", "a"),
            headers={"X-Request-Id": "mine"},
        )
        in_teis_words = endpoint.family == "tei" and reply.status == 429
        wanted = "Model is overloaded" if in_teis_words else message
        assert message_of(reply.json) == wanted
        retry = {429: "7", 503: "1"}.get(reply.status)
        if isinstance(error, errors.OverloadedError):
            retry = "7"
        assert reply.headers.get("Retry-After") == retry


def message_of(body: Any) -> str:
    error = body.get("error", body)
    message: str = error if isinstance(error, str) else error["message"]
    return message


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=ENDPOINTS)
async def test_a_body_that_is_too_large_is_refused_before_it_is_read(
    endpoint: Endpoint, open_server: OpenServer
) -> None:
    served: Served = await open_server(bodies=BodyLimits(max_body=200, max_in_flight=10_000))
    reply = await served.post(endpoint.path, endpoint.body("tiny", "a" * 200))
    assert reply.status == 413
    limit = "request body too large: the limit is 200 bytes (EMBEDD_MAX_BODY)"
    if endpoint.path == "/api/embeddings":  # which dialect it is for is not known yet
        assert reply.json["error"] == limit
        return
    if endpoint.path == "/embeddings":
        assert reply.json["detail"] == limit
        return
    assert message_of(reply.json) == limit
    if endpoint.family == "openai":
        assert endpoint.shape(reply) == (INVALID, "request_too_large")
    assert await served.loaded() == []
    assert (await served.post(endpoint.path, endpoint.body("tiny", "a"))).status == 200


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=ENDPOINTS)
async def test_bad_input_is_refused_before_the_model_is_loaded(
    endpoint: Endpoint, served: Served
) -> None:
    reply = await served.post(endpoint.path, {"model": "tiny", endpoint.field: [None]})
    assert reply.status == (422 if endpoint.family == "tei" else 400)
    assert served.loads.names == []
