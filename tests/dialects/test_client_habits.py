"""What clients really send: fields of other servers, misspelt ones, sizes no vector has."""

import pytest

from tests.server.serving import Served

LONG = "a" * 30


@pytest.mark.parametrize(
    ("path", "field", "body"),
    [
        ("/api/embed", "input", {"inputs": "x"}),
        ("/api/embed", "input", {"prompt": "x"}),
        ("/api/embed", "input", {"inptu": "x"}),
        ("/api/embed", "input", {"texts": ["x"], "input": None}),
        ("/api/embeddings", "prompt", {"inputs": "x"}),
        ("/api/embeddings", "prompt", {"text": "x"}),
    ],
)
async def test_inputs_under_another_name_keep_ollamas_answer_with_a_warning(
    path: str, field: str, body: dict[str, object], served: Served
) -> None:
    plain = await served.post(path, {"model": "tiny"})
    assert "X-Embedd-Warning" not in plain.headers
    reply = await served.post(path, {"model": "tiny", **body})
    assert (reply.status, reply.body) == (200, plain.body)
    name = next(iter(body))
    assert reply.headers["X-Embedd-Warning"] == f"{name} is not read on this route: send {field}"


async def test_a_field_of_another_server_beside_the_input_is_no_warning(served: Served) -> None:
    reply = await served.embed(input="x", prompt="y")
    assert "X-Embedd-Warning" not in reply.headers


@pytest.mark.parametrize("dimensions", [0, -1, 33, 4096])
async def test_a_size_that_no_vector_has_is_ignored_with_a_warning(
    dimensions: int, served: Served
) -> None:
    whole = await served.embed(input="x")
    reply = await served.embed(input="x", dimensions=dimensions)
    assert reply.json["embeddings"] == whole.json["embeddings"]
    assert reply.headers["X-Embedd-Warning"] == (
        f"dimensions={dimensions} is not between 1 and 32: the vectors have 32 numbers"
    )
    body = {"model": "tiny", "input": "x", "dimensions": dimensions}
    assert (await served.post("/v1/embeddings", body)).status == 400


@pytest.mark.parametrize(("number", "tokens"), [(5, 5), (32, 32), (-1, 32), (1000, 32), (None, 32)])
@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embeddings"])
async def test_vllms_limit_of_tokens_is_honoured(
    path: str, number: int | None, tokens: int, served: Served
) -> None:
    body = {"model": "tiny", "input": LONG, "truncate_prompt_tokens": number}
    reply = await served.post(path, body)
    assert reply.json["usage"]["prompt_tokens"] == tokens
    if tokens < 32:
        cut = await served.embed(input=LONG, options={"num_ctx": tokens})
        assert reply.json["data"][0]["embedding"] == cut.json["embeddings"][0]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"truncate_prompt_tokens": 0}, "must be at least 1, or -1"),
        ({"truncate_prompt_tokens": -2}, "must be at least 1, or -1"),
        ({"truncate_prompt_tokens": 5, "truncate": False}, "conflict"),
    ],
)
async def test_a_limit_of_tokens_that_makes_no_sense_is_refused(
    fields: dict[str, object], text: str, served: Served
) -> None:
    reply = await served.post("/v1/embeddings", {"model": "tiny", "input": "x", **fields})
    assert reply.status == 400
    assert text in reply.json["detail"]


@pytest.mark.parametrize(
    ("path", "inputs"),
    [
        ("/v1/embed", {"texts": ["x"]}),
        ("/v2/embed", {"texts": ["x"]}),
        ("/embed", {"inputs": "x"}),
        ("/embed_all", {"inputs": "x"}),
        ("/embedding", {"content": "x"}),
        ("/api/v3/inference/embeddings", {"input": "x"}),
    ],
)
async def test_chunks_are_refused_where_answers_have_no_place_for_them(
    path: str, inputs: dict[str, object], served: Served
) -> None:
    reply = await served.post(path, {"model": "tiny", "chunk": {"tokens": 3}, **inputs})
    assert reply.status == (422 if path.startswith("/embed") and "inputs" in inputs else 400)
    assert "use /api/embed or /v1/embeddings" in str(reply.json)
    assert served.loads.names == []


IMAGES = [
    ("/v1/images/generations", {"prompt": "x"}),
    ("/v1/images/generations", {"prompt": "x", "stream": True}),
    ("/api/v1/images/generation", {"prompt": "x"}),
    ("/api/v1/images/generation", {"prompt": "x", "stream": True}),
    ("/api/generate", {"prompt": "x", "stream": False}),
    ("/api/generate", {"prompt": "x"}),
    ("/sdapi/v1/txt2img", {"prompt": "x"}),
]


@pytest.mark.parametrize(("path", "body"), IMAGES)
async def test_the_time_of_a_request_holds_for_pictures(
    path: str, body: dict[str, object], served: Served
) -> None:
    served.add_image_model("klein")
    served.images.is_open = False
    reply = await served.send(
        "POST", path, json={"model": "klein", **body}, headers={"X-Request-Timeout": "0.1"}
    )
    assert b"X-Request-Timeout" in reply.body or b"time" in reply.body
    if "stream" not in body and path != "/api/generate":
        assert reply.status == 504
    [worker] = served.images.workers
    assert worker.closed or worker.death is not None
    wrong = {"X-Request-Timeout": "soon"}
    reply = await served.send("POST", path, json={"model": "klein", **body}, headers=wrong)
    assert reply.status == 400
