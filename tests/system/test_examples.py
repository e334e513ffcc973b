"""The examples of the OpenAPI document are answered as they stand, by the default model."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlencode

import aiohttp

from embedd.config import read_settings
from embedd.server.openapi.examples import BATCH, ENTRIES, FILE, PAINTER, RERANKER
from embedd.store.store import Store
from tests.needs import INHERITED
from tests.system.serving import Server, open_server
from tests.tiny_models import write_tiny_bert
from tests.unit.stored import store_model

# Without an end; from the network; a body with GET, which has no example; a form, sent before;
# a batch that may have ended, and its file, which is deleted only then.
NOT_SENT = {
    ("GET", "/ui/live"),
    ("POST", "/api/pull"),
    ("GET", "/api/v1/images/generation"),
    ("GET", "/v1/images/generation"),
    ("POST", "/v1/files"),
    ("POST", "/v1/batches/{id}/cancel"),
    ("DELETE", "/v1/files/{id}"),
}
STATUSES = {("POST", "/api/push"): 501, ("POST", "/api/blobs/{digest}"): 201}


def list_requests(file: str, batch: str) -> Iterator[tuple[str, str, object, int]]:
    """Method, path, body and status of each example; what others need comes before them.

    Args:
        file, batch: Ids of those that the server has.
    """
    late = {"HEAD": 1, "DELETE": 2}
    for (method, pattern), entry in sorted(ENTRIES.items(), key=lambda one: late.get(one[0][0], 0)):
        if (method, pattern) in NOT_SENT:
            continue
        status = STATUSES.get((method, pattern), 200)
        path = _fill(pattern, entry.parameters).replace(FILE, file).replace(BATCH, batch)
        for body in entry.bodies.values() or (None,):
            if PAINTER not in json.dumps(body):  # see tests/server/test_openapi.py
                yield method, path, _name_file(body, file), status


def _name_file(body: object, file: str) -> object:
    return json.loads(json.dumps(body).replace(FILE, file))


async def begin_batch(server: Server) -> tuple[str, str]:
    """Upload a file of one request and answer it; return the ids of file and batch."""
    line = {
        "custom_id": "1",
        "method": "POST",
        "url": "/v1/embeddings",
        "body": ENTRIES["POST", "/v1/embeddings"].bodies["Two texts"],
    }
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", json.dumps(line), filename="requests.jsonl")
    async with server.session.post(f"{server.url}/v1/files", data=form) as reply:
        file = (await reply.json())["id"]
    body = _name_file(ENTRIES["POST", "/v1/batches"].bodies["Embeddings"], file)
    async with server.session.post(f"{server.url}/v1/batches", json=body) as reply:
        return file, (await reply.json())["id"]


def _fill(pattern: str, parameters: Mapping[str, str]) -> str:
    in_path = {name: value for name, value in parameters.items() if f"{{{name}}}" in pattern}
    query = {name: value for name, value in parameters.items() if name not in in_path}
    path = pattern.format(**in_path)
    return f"{path}?{urlencode(query)}" if query else path


async def test_examples_are_answered_as_they_stand(tmp_path: Path, default_store: Path) -> None:
    shutil.copytree(default_store, tmp_path / "models")
    ranker = write_tiny_bert(tmp_path / "rank.gguf", pooling="rank", head=["yes"])
    store_model(Store(tmp_path / "models"), RERANKER, ranker)
    environment = {
        "EMBEDD_MODELS": str(tmp_path / "models"),
        "EMBEDD_STATE": str(tmp_path / "state"),
        "EMBEDD_THREADS": "1",
        **INHERITED,
    }
    async with open_server(read_settings(environment)) as server:
        wrong = []
        for method, path, body, status in list_requests(*await begin_batch(server)):
            async with server.session.request(method, server.url + path, json=body) as reply:
                text = await reply.text()
                if reply.status != status:
                    wrong.append((method, path, body, reply.status, text[:200]))
    assert wrong == []
