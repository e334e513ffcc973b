"""Examples of the documents work: every curl of README and docs, the dialect of CONTRIBUTING."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from embedd.server import app
from tests.documents import BLOCKS, CURL, ROOT
from tests.server.serving import OpenServer, Served
from tests.unit.stored import store_model

CURLS = [found.groups() for block in BLOCKS for found in CURL.finditer(block.code)]


@pytest.mark.parametrize(("path", "headers", "body"), CURLS)
async def test_a_curl_of_the_documents_is_answered(
    path: str, headers: str, body: str, served: Served, tiny_store: Path
) -> None:
    store_model(served.store, "all-minilm", tiny_store.parent / "tiny.gguf")
    store_model(served.store, "bge-reranker-v2-m3", tiny_store.parent / "rank.gguf")
    served.add_image_model("sd-turbo")
    asked = json.loads(body)
    # The model of these tests is a small one.
    asked |= {"dimensions": 4} if "dimensions" in asked else {}
    sent = dict(re.findall(r"-H '([\w-]+): ([^']+)'", headers))
    reply = await served.send("POST", path, data=json.dumps(asked), headers=sent)
    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith(sent.get("Accept", "application/json"))
    assert reply.body.startswith(b"\x89PNG" if sent.get("Accept") == "image/png" else (b"{", b"["))


def test_no_curl_is_left_out() -> None:
    assert len(CURLS) == sum(block.code.count("curl ") for block in BLOCKS)


def test_the_documents_have_a_curl_of_every_dialect_that_embeds() -> None:
    shown = {path for path, _, _ in CURLS}
    assert app.DIALECTS
    for dialect in app.DIALECTS:
        posts = {route.path for route in dialect.routes if "embed" in route.path}
        assert not posts or shown & posts, dialect.name
    assert "/api/embeddings" in shown


async def test_the_dialect_of_contributing_answers(
    open_server: OpenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialect = run_example()["DIALECT"]
    monkeypatch.setattr(app, "DIALECTS", (*app.DIALECTS, dialect))
    served: Served = await open_server()
    reply = await served.post("/acme/embed", {"name": "tiny", "lines": ["a", "b"]})
    vectors = (await served.embed(input=["a", "b"])).json["embeddings"]
    assert (reply.status, reply.json) == (200, {"vectors": vectors})
    document = (await served.send("GET", "/openapi.json")).json
    assert "EmbedReply" in str(document["paths"]["/acme/embed"])
    refused = await served.post("/acme/embed", {"name": "tiny"})
    assert (refused.status, refused.json["detail"]) == (400, "lines must not be empty")


def run_example() -> Mapping[str, Any]:
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    # msgspec looks its fields' types up in a module.
    known: dict[str, Any] = {"__name__": __name__}
    exec(code, known)  # noqa: S102 - our own document
    return known
