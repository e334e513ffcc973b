"""The operator's default model: for every request that computes and names no model."""

from typing import Any

import msgspec
import pytest

from embedd.server.dialects.base import Policy
from tests.server.serving import OpenServer, Served

EMBEDDING = [
    ("/api/embed", {"input": "x"}),
    ("/api/embeddings", {"prompt": "x"}),
    ("/api/embeddings", {"input": "x"}),
    ("/api/generate", {}),
    ("/api/chat", {}),
    ("/api/show", {}),
    ("/embed", {"input": "x"}),
    ("/v1/embeddings", {"input": "x"}),
    ("/embeddings", {"input": "x"}),
    ("/api/v1/embeddings", {"input": "x"}),
    ("/openai/v1/embeddings", {"input": "x"}),
    ("/api/v3/inference/embeddings", {"input": "x"}),
    ("/v1/embed", {"texts": ["x"]}),
    ("/v2/embed", {"texts": ["x"]}),
    ("/embed", {"inputs": "x"}),
    ("/embed_all", {"inputs": "x"}),
    ("/embedding", {"content": "x"}),
    ("/tokenize", {"content": "x"}),
    ("/v1/tokenize", {"text": "x"}),
    ("/detokenize", {"tokens": [5]}),
]
RERANKING = [
    ("/v1/rerank", {"query": "x", "documents": ["y"]}),
    ("/v2/rerank", {"query": "x", "documents": ["y"]}),
    ("/rerank", {"query": "x", "texts": ["y"]}),
]
PAINTING = [
    ("/v1/images/generations", {"prompt": "x"}),
    ("/api/v1/images/generation", {"prompt": "x"}),
    ("/api/generate", {"prompt": "x", "stream": False}),
    ("/sdapi/v1/txt2img", {"prompt": "x"}),
]
MANAGING = [
    ("POST", "/api/pull", {}),
    ("POST", "/api/create", {"from": "tiny"}),
    ("POST", "/api/copy", {"source": "tiny"}),
    ("DELETE", "/api/delete", {}),
]


@pytest.mark.parametrize(("path", "body"), EMBEDDING)
@pytest.mark.parametrize("named", [{}, {"model": ""}, {"model": " "}, {"model": None}])
async def test_a_request_without_a_name_is_for_the_default_model(
    path: str, body: dict[str, Any], named: dict[str, Any], open_server: OpenServer
) -> None:
    served: Served = await open_server(policy=Policy(default_model="tiny"))
    reply = await served.post(path, body | named)
    assert reply.status == 200, reply.body
    assert set(served.loads.names + served.loads.vocabularies) <= {"tiny:latest"}


@pytest.mark.parametrize(("path", "body"), RERANKING)
@pytest.mark.parametrize(
    "policy",
    [Policy(default_model="ranker"), Policy(default_model="tiny", default_rerank_model="ranker")],
)
async def test_a_rerank_without_a_name_is_for_its_own_default_first(
    path: str, body: dict[str, Any], policy: Policy, open_server: OpenServer
) -> None:
    served: Served = await open_server(policy=policy)
    assert (await served.post(path, body)).status == 200


@pytest.mark.parametrize(("path", "body"), PAINTING)
async def test_a_default_that_paints_is_the_default_of_the_routes_for_images(
    path: str, body: dict[str, Any], open_server: OpenServer
) -> None:
    served: Served = await open_server(policy=Policy(default_model="second"))
    for name in ("first", "second"):
        served.add_image_model(name)
    assert (await served.post(path, body)).status == 200
    assert await served.loaded() == ["second:latest"]


async def test_a_default_that_does_not_paint_leaves_the_only_one_that_does(
    open_server: OpenServer,
) -> None:
    served: Served = await open_server(policy=Policy(default_model="tiny"))
    served.add_image_model("only")
    assert (await served.post("/v1/images/generations", {"prompt": "x"})).status == 200


@pytest.mark.parametrize(("method", "path", "body"), MANAGING)
async def test_no_default_is_managed(
    method: str, path: str, body: dict[str, Any], open_server: OpenServer
) -> None:
    served: Served = await open_server(policy=Policy(default_model="tiny"))
    assert (await served.send(method, path, json=body)).status == 400


async def test_without_a_default_a_required_name_stays_required(served: Served) -> None:
    reply = await served.post("/v1/embeddings", {"input": "x"})
    assert reply.json["detail"] == "you must provide a model parameter"
    assert (await served.post("/api/embed", {"input": "x"})).status == 404
    assert (await served.post("/api/embeddings", {"prompt": "x"})).status == 400


NAMELESS = [
    ("/api/embed", {"input": "x"}),
    ("/api/embeddings", {"prompt": "x"}),
    ("/api/embeddings", {"input": "x"}),
    ("/api/generate", {}),
    ("/api/chat", {}),
    ("/v1/embeddings", {"input": "x"}),
    ("/api/v3/inference/embeddings", {"input": "x"}),
    ("/v2/embed", {"texts": ["x"]}),
    ("/v2/rerank", {"query": "x", "documents": ["y"]}),
]


@pytest.mark.parametrize(("path", "body"), NAMELESS)
@pytest.mark.parametrize("field", ["modle", "Model"])
async def test_a_misspelt_model_is_named_in_the_error(
    path: str, body: dict[str, Any], field: str, served: Served
) -> None:
    reply = await served.post(path, body | {field: "tiny"})
    assert reply.status in (400, 404)
    text = msgspec.json.decode(reply.body, type=dict[str, Any])
    message = text.get("detail") or text.get("message") or text["error"]
    assert message.endswith(f'; "{field}" is not a field: did you mean "model"?')


async def test_other_fields_are_not_proposed_for_the_model(served: Served) -> None:
    for body in ({"input": "x", "mode": None}, {"input": "x", "name": "tiny"}):
        reply = await served.post("/api/embed", body)
        assert (reply.status, reply.json) == (404, {"error": "model '' not found"})
    reply = await served.post("/api/embed", {"input": "x", "model": "", "modle": "tiny"})
    assert reply.json == {"error": "model '' not found"}
