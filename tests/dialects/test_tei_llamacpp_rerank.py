"""What the dialects of TEI, llama.cpp and rerank promise beyond single answers."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from embedd.choices import TokenIdChoice
from embedd.errors import LoadTimeoutError
from embedd.names import parse_model_name as parse
from embedd.server.dialects.base import Policy
from embedd.server.http import json_out
from embedd.types import Vectors
from tests.server.serving import OpenServer, Served
from tests.unit.stored import store_model

MAX_ROWS = 64


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers with more than `MAX_ROWS` vectors of 8 numbers are sent in slices."""
    monkeypatch.setattr(json_out, "MAX_NUMBERS", 8 * MAX_ROWS)


LONG = "a" * 70
DOCUMENTS = ["a", "bc", "d"]


async def llamacpp(served: Served, content: object, **fields: object) -> Vectors:
    """Vectors of an ``/embedding`` that succeeds."""
    reply = await served.post("/embedding", {"model": "tiny", "content": content, **fields})
    assert reply.status == 200, reply.body
    assert [one["index"] for one in reply.json] == list(range(len(reply.json)))
    return np.array([one["embedding"][0] for one in reply.json])


async def order(served: Served, path: str = "/rerank", **fields: object) -> list[int]:
    """Places of the documents of a rerank that succeeds, best first."""
    body = {"model": "ranker", "query": "a", "documents": DOCUMENTS, **fields}
    reply = await served.post(path, body)
    assert reply.status == 200, reply.body
    return [one["index"] for one in reply.json["results"]]


async def test_a_text_has_the_same_vector_in_these_dialects_too(served: Served) -> None:
    [expected] = (await served.embed(input="why")).json["embeddings"]
    for path in ("/embed", "/"):
        assert (await served.post(path, {"model": "tiny", "inputs": "why"})).json == [expected]
    assert (await llamacpp(served, "why")).tolist() == [expected]
    many = [f"{number}" for number in range(2 * MAX_ROWS + 3)]
    vectors = (await served.embed(input=many)).json["embeddings"]
    assert (await served.post("/embed", {"model": "tiny", "inputs": many})).json == vectors
    assert (await llamacpp(served, many)).tolist() == vectors


async def test_every_norm_has_the_same_direction(served: Served) -> None:
    [unit] = await llamacpp(served, "why")
    [raw] = await llamacpp(served, "why", embd_normalize=-1)
    assert raw == pytest.approx(unit * np.linalg.norm(raw), rel=1e-5)
    size = np.abs(raw)
    lengths = {0: size.max() / 32760, 1: size.sum(), 2: np.linalg.norm(raw)}
    for p, length in {**lengths, 3: (size**3).sum() ** (1 / 3)}.items():
        [scaled] = await llamacpp(served, "why", embd_normalize=p)
        assert scaled == pytest.approx(raw / length, rel=1e-5)
    body = {"model": "tiny", "inputs": "why", "normalize": False}
    assert (await served.post("/embed", body)).json[0] == pytest.approx(raw)


async def test_every_token_has_its_vector(served: Served) -> None:
    body = {"model": "tiny", "inputs": ["abc", "d"]}
    first, second = (await served.post("/embed_all", body)).json
    assert (np.shape(first), np.shape(second)) == ((5, 8), (3, 8))
    [alone] = (await served.post("/embed_all", {"model": "tiny", "inputs": "d"})).json
    assert second == alone
    mean = np.mean(second, axis=0)
    [vector] = (await served.post("/embed", {"model": "tiny", "inputs": "d"})).json
    assert vector == pytest.approx(mean / np.linalg.norm(mean), rel=1e-5)


async def test_either_end_of_a_text_is_cut(served: Served) -> None:
    text = "b" * 62 + "c" * 62
    for direction, left in (("Right", "b" * 62), ("left", "c" * 62)):
        body = {"model": "tiny", "inputs": text, "truncation_direction": direction}
        [cut] = (await served.post("/embed", body)).json
        assert cut == (await served.embed(input=left)).json["embeddings"][0]


async def test_cosines_are_of_the_first_with_the_others(served: Served) -> None:
    inputs = {"source_sentence": "sky", "sentences": ["blue", "sky", LONG]}
    body = {"model": "tiny", "inputs": inputs, "parameters": {"prompt_name": None}}
    reply = await served.post("/similarity", body)
    vectors = np.array((await served.embed(input=["sky", "blue", "sky", LONG])).json["embeddings"])
    assert reply.json == pytest.approx((vectors[1:] @ vectors[0]).tolist(), abs=1e-6)
    assert (await served.post("/", body)).json == reply.json
    strict = {**body, "parameters": {"truncate": False}}
    assert (await served.post("/similarity", strict)).status == 422


async def test_the_setting_that_refuses_token_arrays_holds_here_too(
    open_server: OpenServer,
) -> None:
    served: Served = await open_server(policy=Policy(token_ids=TokenIdChoice.REJECT))
    for content in ([5], [[5]], ["a", 5], [["a", 5]]):
        reply = await served.post("/embedding", {"model": "tiny", "content": content})
        assert reply.status == 400
        assert "token_ids=reject" in reply.json["error"]["message"]
    assert (await served.post("/embed", {"model": "tiny", "inputs": [5]})).status == 422
    assert (await llamacpp(served, [["a", "b"]])).shape == (1, 8)


@pytest.mark.parametrize(
    ("policy", "model"),
    [
        (Policy(), "ranker:latest"),
        (Policy(default_model="tiny", default_rerank_model="ranker"), "ranker"),
        (Policy(default_model="ranker"), "ranker"),
        (Policy(default_model="tiny"), None),
    ],
)
async def test_without_a_name_the_default_reranker_is_meant(
    policy: Policy, model: str | None, open_server: OpenServer
) -> None:
    served: Served = await open_server(policy=policy)
    reply = await served.post("/rerank", {"query": "a", "documents": DOCUMENTS})
    assert reply.status == (200 if model else 400)
    assert reply.json.get("model") == model


async def test_without_a_name_the_only_model_embeds(
    open_server: OpenServer, tiny_store: Path
) -> None:
    served: Served = await open_server(policy=Policy(default_model="tiny"))
    assert (await served.post("/embed", {"inputs": "x"})).status == 200
    assert (await served.post("/tokenize", {"content": "x"})).status == 200
    assert (await served.post("/detokenize", {"tokens": [65]})).status == 200
    assert (await served.send("GET", "/info")).json["model_id"] == "tiny"
    for name in ("ranker",):
        served.store.delete(parse(name))
    reply = await served.post("/rerank", {"query": "a", "documents": DOCUMENTS})
    assert reply.status == 400


async def test_all_shapes_have_the_same_order(served: Served) -> None:
    expected = await order(served)
    for path in ("/reranking", "/v1/rerank", "/v1/reranking", "/v2/rerank"):
        assert await order(served, path) == expected
    listed = await served.post("/", {"model": "ranker", "query": "a", "texts": DOCUMENTS})
    assert [one["index"] for one in listed.json] == expected
    assert await order(served, raw_scores=True) == expected
    assert await order(served, documents=["a", "a", "a"]) == [0, 1, 2], "equals as they came"


async def test_fields_of_a_document_become_lines_of_text(served: Served) -> None:
    objects = [{"t": "x", "n": 5, "text": "no"}, {"text": "no", "n": 6}, "y"]
    lines = ["t: x\nn: 5", "n: 6", "y"]
    asked = {"documents": objects, "rank_fields": ["t", "n"], "return_documents": True}
    body = {"model": "ranker", "query": "a", **asked}
    reply = (await served.post("/v1/rerank", body)).json
    assert [one["index"] for one in reply["data"]] == await order(served, documents=lines)
    assert {one["document"] for one in reply["data"]} == {*lines}
    assert len(reply["results"]) == 3
    assert all(one["document"] in (*objects, {"text": "y"}) for one in reply["results"])


async def test_documents_that_were_cut_are_listed(served: Served) -> None:
    for fields in ({"documents": ["a", LONG]}, {"documents": ["a", "abc"],
                                                "max_tokens_per_doc": 2}):  # fmt: skip
        body = {"model": "ranker", "query": "a", **fields}
        reply = await served.post("/rerank", body)
        assert reply.status == 200
        assert reply.headers["X-Embedd-Truncated"].startswith("count=1; index=1 tokens=")
    whole = await served.post("/rerank", {"model": "ranker", "query": "a", "documents": ["a"]})
    assert "X-Embedd-Truncated" not in whole.headers


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
async def test_vllms_limit_of_tokens_is_that_of_a_query_with_its_document(
    path: str, served: Served
) -> None:
    body = {"model": "ranker", "query": "a", "documents": [LONG]}
    counts = {}
    for number in (12, -1, 1000, None):
        reply = await served.post(path, {**body, "truncate_prompt_tokens": number})
        assert reply.status == 200
        counts[number] = reply.json["meta"]["tokens"]["input_tokens"]
    assert counts.pop(12) == 12
    assert set(counts.values()) == {64}  # as many as the model takes


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"truncate_prompt_tokens": 0}, "must be at least 1, or -1"),
        ({"truncate_prompt_tokens": 9, "truncate": False}, "conflict"),
    ],
)
async def test_a_limit_of_tokens_that_makes_no_sense_is_refused(
    path: str, fields: dict[str, object], text: str, served: Served
) -> None:
    body = {"model": "ranker", "query": "a", "documents": ["b"], **fields}
    reply = await served.post(path, body)
    assert reply.status == 400
    assert text in reply.json["message"]


async def test_a_reranker_that_does_not_load_in_time_is_named(served: Served) -> None:
    served.loads.error = LoadTimeoutError("no progress")
    body = {"model": "ranker", "query": "a", "documents": DOCUMENTS}
    reply = await served.post("/rerank", body)
    assert (reply.status, reply.json["detail"]) == (503, 'model "ranker" is still loading')


async def test_tokenizing_does_not_load_weights(served: Served) -> None:
    await served.post("/tokenize", {"model": "tiny", "content": "a"})
    await served.post("/decode", {"model": "tiny", "ids": [65]})
    assert (served.loads.names, len(served.loads.vocabularies)) == ([], 2)
    await served.embed(input="a")
    await served.post("/tokenize", {"model": "tiny", "content": "a"})
    assert (len(served.loads.names), len(served.loads.vocabularies)) == (1, 2)
    await served.post("/tokenize", {"model": "talker", "content": "a"})
    assert served.loads.vocabularies[-1] == "talker:latest", "a language model has tokens too"


async def test_the_server_is_unhealthy_with_a_model_that_cannot_be_restarted(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await served.send("GET", "/health")).json == {"status": "ok"}
    await served.embed(input="a")
    monkeypatch.setattr(served.loads.models[0], "unhealthy_reason", "died too often")
    for path in ("/health", "/v1/health", "/ping"):
        reply = await served.send("GET", path)
        assert (reply.status, reply.json) == (
            503,
            {
                "error": {"code": 503, "message": "died too often", "type": "unavailable_error"},
                "error_type": "Unhealthy",
            },
        )
        assert reply.headers["Retry-After"] == "1"
    monkeypatch.undo()
    await asyncio.gather(served.scheduler.close())
    reply = await served.send("GET", "/ping")
    assert reply.json["error"]["message"] == "server is shutting down"


async def test_a_model_is_described_without_being_loaded(served: Served, tiny_store: Path) -> None:
    store_model(served.store, "cls", tiny_store.parent / "tiny.gguf", {"pooling": "last"})
    info = (await served.send("GET", "/info?model=cls")).json
    assert info["model_type"] == {"embedding": {"pooling": "last_token"}}
    props = (await served.send("GET", "/props?model=talker")).json
    assert props["bos_token"] == ""
    assert await served.loaded() == []
