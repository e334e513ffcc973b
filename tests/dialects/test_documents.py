"""Examples of the documents work: every curl of the README, the dialect of CONTRIBUTING."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from embedd.server import app
from tests.server.serving import OpenServer, Served
from tests.unit.stored import store_model

ROOT = Path(__file__).parent.parent.parent
CURLS = re.findall(
    r"curl http://localhost:11434(/\S+) -d '([^']+)'", (ROOT / "README.md").read_text()
)


@pytest.mark.parametrize(("path", "body"), CURLS)
async def test_a_curl_of_the_readme_is_answered(
    path: str, body: str, served: Served, tiny_store: Path
) -> None:
    store_model(served.store, "all-minilm", tiny_store.parent / "tiny.gguf")
    store_model(served.store, "bge-reranker-v2-m3", tiny_store.parent / "rank.gguf")
    asked = json.loads(body)
    # The model of these tests is a small one.
    asked |= {"dimensions": 4} if "dimensions" in asked else {}
    assert (await served.post(path, asked)).status == 200


async def test_the_readmes_curl_of_a_picture_gives_its_bytes(served: Served) -> None:
    text = (ROOT / "README.md").read_text()
    [(path, accept, body)] = re.findall(
        r"curl http://localhost:11434(\S+) -H 'Accept: (\S+)' -o \S+ -d '([^']+)'", text
    )
    served.add_image_model("sd-turbo")
    reply = await served.send("POST", path, data=body, headers={"Accept": accept})
    assert reply.headers["Content-Type"] == accept
    assert reply.body.startswith(b"\x89PNG")


def test_the_readme_has_a_curl_of_every_dialect_that_embeds() -> None:
    shown = {path for path, _ in CURLS}
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
