"""The requests that this server was made for, and the shape of the answer that each expects."""

from pathlib import Path
from typing import Any

import pytest

from tests.server.serving import Served
from tests.unit.stored import store_model

VECTOR = [float]
ITEM = {"object": "embedding", "embedding": VECTOR, "index": int}

# (path, body, what the answer must have, whether it may have more)
# A type stands for any value of it, a list for as many of its element as there are.
REQUESTS: dict[str, tuple[str, dict[str, Any], dict[str, Any], bool]] = {
    "Nebula Block": (
        "/v1/embeddings",
        {
            "model": "WhereIsAI/UAE-Large-V1",
            "input": [
                "Bananas are berries, but strawberries are not.",
                "The Eiffel Tower was originally intended to be a temporary structure.",
            ],
        },
        {
            "model": str,
            "data": [ITEM],
            "object": "list",
            "usage": {
                "completion_tokens": int,
                "prompt_tokens": int,
                "total_tokens": int,
                "completion_tokens_details": None,
                "prompt_tokens_details": None,
            },
        },
        True,
    ),
    "Nugen": (
        "/api/v3/inference/embeddings",
        {"model": "text-embedding-xyz", "input": "The quick brown fox jumps over the lazy dog"},
        {
            "id": str,
            "object": "embedding",
            "data": [ITEM],
            "model": str,
            "created": float,
            "usage": {"total_tokens": int},
        },
        False,
    ),
    "Nugen, several": (
        "/api/v3/inference/embeddings",
        {
            "model": "text-embedding-ada-002",
            "input": ["First document", "Second document", "Third document"],
        },
        {
            "id": str,
            "object": "embedding",
            "data": [ITEM],
            "model": str,
            "created": float,
            "usage": {"total_tokens": int},
        },
        False,
    ),
    "Ollama": (
        "/api/embed",
        {"model": "all-minilm", "input": ["Why is the sky blue?", "Why is the grass green?"]},
        {
            "model": str,
            "embeddings": [VECTOR],
            "total_duration": int,
            "load_duration": int,
            "prompt_eval_count": int,
        },
        False,
    ),
    "AIGNE Hub": (
        "/api/embeddings",
        {"model": "text-embedding-3-small", "input": "AIGNE Hub is a unified AI gateway."},
        {
            "object": "list",
            "data": [ITEM],
            "model": str,
            "usage": {"prompt_tokens": int, "total_tokens": int},
        },
        False,
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_an_answer_has_the_shape_that_its_service_documents(
    name: str, served: Served, tiny_store: Path
) -> None:
    path, body, shape, more = REQUESTS[name]
    store_model(served.store, body["model"], tiny_store.parent / "tiny.gguf", {"num_ctx": 64})
    headers = {"Authorization": "Bearer anything", "Content-Type": "application/json"}
    reply = await served.send("POST", path, json=body, headers=headers)
    assert reply.status == 200, reply.body
    assert (reply.json.keys() >= shape.keys()) if more else (reply.json.keys() == shape.keys())
    for key, wanted in shape.items():
        assert has_shape(reply.json[key], wanted), (key, reply.json[key])
    assert reply.json["model"] == body["model"]
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    assert len(reply.json.get("data") or reply.json["embeddings"]) == len(texts)


async def test_dimensions_are_for_models_that_were_made_to_be_cut(
    served: Served, tiny_store: Path
) -> None:
    gguf = tiny_store.parent / "tiny.gguf"
    store_model(served.store, "matryoshka-embed-model", gguf, {"matryoshka": [4]})
    body = {"model": "matryoshka-embed-model", "input": "Sample text to embed", "dimensions": 4}
    reply = await served.post("/api/v3/inference/embeddings", body)
    assert len(reply.json["data"][0]["embedding"]) == 4


def has_shape(value: object, wanted: object) -> bool:
    match wanted:
        case type():
            return type(value) is wanted
        case [element]:
            return isinstance(value, list) and all(has_shape(one, element) for one in value)
        case dict():
            return (
                isinstance(value, dict)
                and value.keys() == wanted.keys()
                and all(has_shape(value[key], wanted[key]) for key in wanted)
            )
        case _:
            return value == wanted
