"""Where models' files are read: not on the event loop, which serves all other requests."""

import asyncio
from typing import Any

import pytest

from embedd.resolve import AnyModel, Resolver
from embedd.server.app import DIALECTS
from tests.server.serving import OpenServer, Served

EMBED = {"model": "tiny", "input": "a"}
RERANK = {"model": "ranker", "query": "a", "documents": ["b"]}
PICTURE = {"model": "painter", "prompt": "a cat"}
SIMILARITY = {"model": "tiny", "inputs": {"source_sentence": "a", "sentences": ["b"]}}

# A request to every route that names a model.
REQUESTS: list[tuple[str, str, Any]] = [
    ("GET", "/api/ps", None),
    ("GET", "/api/tags", None),
    ("GET", "/ui/catalogue", None),
    ("POST", "/api/embed", EMBED),
    ("POST", "/api/embeddings", {"model": "tiny", "prompt": "a"}),
    ("POST", "/api/embeddings", EMBED),
    ("POST", "/api/generate", {"model": "tiny"}),
    ("POST", "/api/generate", {"model": "tiny", "prompt": "a"}),
    ("POST", "/api/generate", {"model": "tiny", "keep_alive": 0}),
    ("POST", "/api/generate", {**PICTURE, "stream": False}),
    ("POST", "/api/generate", PICTURE),
    ("POST", "/api/chat", {"model": "tiny"}),
    ("POST", "/api/show", {"model": "tiny"}),
    ("POST", "/api/copy", {"source": "tiny", "destination": "copied"}),
    ("DELETE", "/api/delete", {"model": "copied"}),
    *(
        ("POST", path, EMBED)
        for path in (
            "/v1/embeddings",
            "/embeddings",
            "/api/v1/embeddings",
            "/openai/v1/embeddings",
            "/openai/deployments/tiny/embeddings",
        )
    ),
    *(("GET", path, None) for path in ("/v1/models", "/models", "/v1/models/tiny")),
    ("POST", "/v1/images/generations", PICTURE),
    *(
        (method, f"{prefix}/v1/images/generation", body)
        for prefix in ("", "/api")
        for method, body in (("POST", PICTURE), ("POST", EMBED), ("GET", PICTURE))
    ),
    ("POST", "/sdapi/v1/txt2img", {"prompt": "a cat"}),
    ("POST", "/sdapi/v1/options", {"sd_model_checkpoint": "painter"}),
    ("GET", "/sdapi/v1/options", None),
    ("GET", "/sdapi/v1/sd-models", None),
    ("POST", "/api/v3/inference/embeddings", EMBED),
    ("POST", "/v1/embed", {"model": "tiny", "texts": ["a"]}),
    (
        "POST",
        "/v2/embed",
        {"model": "tiny", "texts": ["a"], "input_type": "query", "embedding_types": ["float"]},
    ),
    ("POST", "/v2/rerank", RERANK),
    ("POST", "/v1/tokenize", {"model": "tiny", "text": "a"}),
    ("POST", "/v1/detokenize", {"model": "tiny", "tokens": [5]}),
    *(
        ("POST", f"{prefix}/{word}", body)
        for prefix in ("", "/v1")
        for word in ("rerank", "reranking")
        for body in (RERANK, {"model": "ranker", "query": "a", "texts": ["b"]})
    ),
    ("POST", "/embed", {"model": "tiny", "inputs": "a"}),
    ("POST", "/embed_all", {"model": "tiny", "inputs": "a"}),
    ("POST", "/similarity", SIMILARITY),
    ("POST", "/", {"model": "ranker", "query": "a", "texts": ["b"]}),
    ("POST", "/", SIMILARITY),
    ("POST", "/", {"model": "tiny", "inputs": "a"}),
    ("POST", "/tokenize", {"model": "tiny", "inputs": "a"}),
    ("POST", "/tokenize", {"model": "tiny", "content": "a"}),
    ("POST", "/decode", {"model": "tiny", "ids": [5]}),
    ("POST", "/detokenize", {"model": "tiny", "tokens": [5]}),
    ("GET", "/info?model=tiny", None),
    ("GET", "/props?model=tiny", None),
    ("POST", "/embedding", {"model": "tiny", "content": "a"}),
]
# Routes that read no model of the store by its name, or in a job that has its own thread.
OTHERS = {
    "/",
    "/api/version",
    "/api/pull",
    "/api/push",
    "/api/create",
    "/api/blobs/{digest}",
    "/v1/files",
    "/v1/files/{id}",
    "/v1/files/{id}/content",
    "/v1/batches",  # its requests are computed as those of the routes are
    "/v1/batches/{id}",
    "/v1/batches/{id}/cancel",
    "/sdapi/v1/progress",
    "/sdapi/v1/interrupt",
    "/sdapi/v1/samplers",
    "/sdapi/v1/schedulers",
    "/health",
    "/ready",
    "/v1/health",
    "/ping",
    "/openapi.json",
    "/docs",
    "/docs/{file}",
    "/favicon.ico",
    "/metrics",
    "/ui",
    "/ui/access",
    "/ui/live",  # a stream of what is in memory
    "/ui/{file}",
}


def on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def test_no_route_reads_a_models_files_on_the_event_loop(
    open_server: OpenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: Served = await open_server()
    served.add_image_model("painter")
    for name in ("tiny", "painter"):  # `ps` has both
        await served.post("/api/generate", {"model": name})
    places = {False: 0, True: 0}
    read = Resolver._read

    def read_somewhere(self: Resolver, text: str) -> AnyModel:
        places[on_event_loop()] += 1
        return read(self, text)

    monkeypatch.setattr(Resolver, "_read", read_somewhere)
    monkeypatch.setattr(Resolver, "_remembered", lambda *_: None)
    for method, path, body in REQUESTS:
        reply = await served.send(method, path, json=body)
        assert reply.status == 200 or (path == "/api/generate" and reply.status == 400), reply
        assert places[True] == 0, (method, path, body)
    assert places[False] > len(REQUESTS) / 2


def test_every_route_has_a_request_above() -> None:
    asked = {path.partition("?")[0] for _, path, _ in REQUESTS}
    asked = {path.replace("models/tiny", "models/{id}") for path in asked}
    asked = {path.replace("/tiny/", "/{model}/") for path in asked}
    routes = {route.path for dialect in DIALECTS for route in dialect.routes}
    assert asked | OTHERS == routes
