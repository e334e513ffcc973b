"""Every official client raises its own exception for each error."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cohere
import huggingface_hub
import litellm
import ollama
import openai
import pytest
import voyageai
from cohere.core.api_error import ApiError
from conftest import DAMAGED, KEY, MODEL

LONG = "word " * 600  # over the model's limit, within the limit of a body
HUGE = "word " * 2000
CLIENTS_AT_ONCE = 6

Embed = Callable[[str, str, str, str], Any]


def by_openai(url: str, key: str, model: str, text: str) -> Any:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
    return client.embeddings.create(model=model, input=text, extra_body={"truncate": False})


def by_cohere(url: str, key: str, model: str, text: str) -> Any:
    client = cohere.ClientV2(key, base_url=url)
    return client.embed(
        texts=[text],
        model=model,
        input_type="search_document",
        truncate="NONE",
        request_options={"max_retries": 0},
    )


def by_voyageai(url: str, key: str, model: str, text: str) -> Any:
    client = voyageai.Client(key, base_url=f"{url}/v1", max_retries=0)
    return client.embed([text], model, truncation=False)


def by_ollama(url: str, key: str, model: str, text: str) -> Any:
    client = ollama.Client(url, headers={"Authorization": f"Bearer {key}"})
    return client.embed(model, text, truncate=False)


def by_huggingface(url: str, key: str, model: str, text: str) -> Any:
    """Its requests name no model: the server's default answers."""
    del model
    client = huggingface_hub.InferenceClient(base_url=url, token=key)
    return client.feature_extraction(text, truncate=False)


def by_litellm(url: str, key: str, model: str, text: str) -> Any:
    return litellm.embedding(
        f"openai/{model}",
        [text],
        api_base=f"{url}/v1",
        api_key=key,
        max_retries=0,
        extra_body={"truncate": False},
    )


# What is wrong: key, model, text; and the status that says so.
CONDITIONS = {
    "wrong key": ("wrong", MODEL, "x", 401),
    "unknown model": (KEY, "nope", "x", 404),
    "too long": (KEY, MODEL, LONG, 400),
    "too large": (KEY, MODEL, HUGE, 413),
    "damaged model": (KEY, DAMAGED, "x", 500),
}
HUB = huggingface_hub.errors.HfHubHTTPError
CLIENTS: dict[str, tuple[Embed, dict[str, type[Exception]]]] = {
    "openai": (
        by_openai,
        {
            "wrong key": openai.AuthenticationError,
            "unknown model": openai.NotFoundError,
            "too long": openai.BadRequestError,
            "too large": openai.APIStatusError,
            "damaged model": openai.InternalServerError,
        },
    ),
    "cohere": (
        by_cohere,
        {
            "wrong key": cohere.UnauthorizedError,
            "unknown model": cohere.NotFoundError,
            "too long": cohere.BadRequestError,
            "too large": ApiError,
            "damaged model": cohere.InternalServerError,
        },
    ),
    "voyageai": (
        by_voyageai,
        {
            "wrong key": voyageai.error.AuthenticationError,
            "unknown model": voyageai.error.APIError,
            "too long": voyageai.error.InvalidRequestError,
            "too large": voyageai.error.APIError,
            "damaged model": voyageai.error.ServerError,
        },
    ),
    "ollama": (by_ollama, dict.fromkeys(CONDITIONS, ollama.ResponseError)),
    "huggingface_hub": (by_huggingface, dict.fromkeys(["wrong key", "too long", "too large"], HUB)),
    "litellm": (
        by_litellm,
        {
            "wrong key": litellm.AuthenticationError,
            "unknown model": litellm.NotFoundError,
            "too long": litellm.BadRequestError,
            "too large": litellm.APIError,
            "damaged model": litellm.InternalServerError,
        },
    ),
}
CASES = [(client, condition) for client, (_, known) in CLIENTS.items() for condition in known]
BUSY: dict[str, tuple[type[Exception], int]] = {
    "openai": (openai.RateLimitError, 429),
    "cohere": (cohere.TooManyRequestsError, 429),
    "voyageai": (voyageai.error.RateLimitError, 429),
    "ollama": (ollama.ResponseError, 503),
    "huggingface_hub": (HUB, 429),
    "litellm": (litellm.RateLimitError, 429),
}


def status_of(error: Any) -> int:
    """The HTTP status that a client's exception holds, wherever it keeps it."""
    for name in ("status_code", "http_status"):
        if isinstance(getattr(error, name, None), int):
            return int(getattr(error, name))
    return int(error.response.status_code)


@pytest.mark.parametrize(("client", "condition"), CASES)
def test_the_exception_is_that_of_the_condition(
    strict_url: str, client: str, condition: str
) -> None:
    embed, known = CLIENTS[client]
    key, model, text, status = CONDITIONS[condition]
    if client == "huggingface_hub" and condition == "too long":
        status = 422  # as text-embeddings-inference
    with pytest.raises(known[condition]) as caught:
        embed(strict_url, key, model, text)
    assert status_of(caught.value) == status


@pytest.mark.parametrize("client", CLIENTS)
def test_a_busy_server_raises_the_error_of_a_rate_limit(strict_url: str, client: str) -> None:
    """The first of the simultaneous requests loads the model; no other may wait here."""
    embed, _ = CLIENTS[client]

    def ask(_: int) -> Exception | None:
        try:
            embed(strict_url, KEY, MODEL, "x")
        except Exception as error:
            return error
        return None

    with ThreadPoolExecutor(CLIENTS_AT_ONCE) as pool:
        outcomes = list(pool.map(ask, range(CLIENTS_AT_ONCE)))
    kind, status = BUSY[client]
    refused = [error for error in outcomes if error is not None]
    assert refused
    assert len(refused) < CLIENTS_AT_ONCE
    assert {type(error) for error in refused} == {kind}
    assert {status_of(error) for error in refused} == {status}
