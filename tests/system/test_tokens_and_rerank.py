"""Tokens, pairs and two more families of APIs on llama.cpp: real workers and real HTTP."""

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import psutil
import pytest
import pytest_asyncio

from embedd.config import read_settings
from embedd.store.store import Store
from tests.needs import INHERITED
from tests.system.serving import Server, open_server
from tests.tiny_models import write_tiny_bert, write_tiny_decoder
from tests.unit.stored import store_model

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUERY = "Machine learning is"
PARAGRAPHS = [
    "A machine is a physical system that uses power to apply forces and control movement.",
    "Learning is the process of acquiring new understanding and knowledge.",
    "Machine learning is a field of study in artificial intelligence.",
    "Paris, capitale de la France, est une grande ville européenne.",
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """With ``tiny``, ``decoder``, and rerankers with one score and with two."""
    folder = tmp_path_factory.mktemp("tokens")
    store = Store(folder / "models")
    store_model(store, "tiny", write_tiny_bert(folder / "tiny.gguf"))
    path = write_tiny_decoder(folder / "decoder.gguf", pooling="last", add_eos=True)
    store_model(store, "decoder", path)
    for name, head in (("ranker", ["score"]), ("answers", ["no", "yes"])):
        path = write_tiny_bert(folder / f"{name}.gguf", pooling="rank", head=head, context=128)
        store_model(store, name, path)
    settings = read_settings(
        {
            "EMBEDD_MODELS": str(folder / "models"),
            "EMBEDD_STATE": str(folder / "state"),
            "EMBEDD_THREADS": "1",
            **INHERITED,
        }
    )
    async with open_server(settings) as opened:
        yield opened


async def ask(server: Server, path: str, **body: object) -> Any:
    status, reply = await server.send(path, body)
    assert status == 200, reply
    return reply


async def test_tokens_come_from_a_vocabulary_without_weights(server: Server) -> None:
    before = await server.running()
    tokens = (await ask(server, "/tokenize", model="tiny", content="the sky"))["tokens"]
    text = (await ask(server, "/detokenize", model="tiny", tokens=tokens))["content"]
    assert text == "the sky"
    assert await server.running() == before
    names = [child.name() for child in psutil.Process().children() if child.is_running()]
    assert len(names) == len(before), "the process of the vocabulary is gone"


@pytest.mark.parametrize("model", ["tiny", "decoder"])
@pytest.mark.parametrize("loaded", [False, True])
async def test_texts_come_back_from_their_tokens(server: Server, model: str, loaded: bool) -> None:
    if loaded:
        await ask(server, "/v1/embeddings", model=model, input="a")
    text = "the sky is blue"
    [spelled] = await ask(server, "/tokenize", model=model, inputs=text)
    ids = [token["id"] for token in spelled]
    assert await ask(server, "/decode", model=model, ids=ids) == [text]
    assert await ask(server, "/decode", model=model, ids=[ids, ids[:-1]]) == [text, text]
    for token in spelled:
        assert token["special"] is (token["start"] is None)
        if not token["special"]:
            assert token["text"] == text[token["start"] : token["stop"]]
    cohere = await ask(server, "/v1/tokenize", model=model, text=text)
    assert cohere["tokens"] == [token["id"] for token in spelled if not token["special"]]
    detokenized = await ask(server, "/v1/detokenize", model=model, tokens=cohere["tokens"])
    assert detokenized["text"] == text


async def test_pieces_that_are_no_text_are_lists_of_bytes(server: Server) -> None:
    body = {"model": "decoder", "content": "日", "with_pieces": True}
    tokens = (await ask(server, "/tokenize", **body))["tokens"]
    assert [token["piece"] for token in tokens] == [[0xE6], [0x97], [0xA5]]


async def test_an_id_outside_the_vocabulary_never_reaches_the_worker(server: Server) -> None:
    for ids in ([10**6], [-1], [2**40]):
        status, _ = await server.send("/decode", {"model": "tiny", "ids": ids})
        assert status == 422
        status, _ = await server.send("/detokenize", {"model": "tiny", "tokens": ids})
        assert status == 400


@pytest.mark.parametrize("model", ["ranker", "answers"])
async def test_documents_are_ordered_by_score(server: Server, model: str) -> None:
    asked = {"model": model, "query": QUERY}
    union = await ask(server, "/rerank", **asked, documents=PARAGRAPHS)
    scores = [one["relevance_score"] for one in union["results"]]
    order = [one["index"] for one in union["results"]]
    assert sorted(order) == [0, 1, 2, 3]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    listed = await ask(server, "/rerank", **asked, texts=PARAGRAPHS)
    assert [(one["index"], one["score"]) for one in listed] == list(zip(order, scores, strict=True))
    raw = await ask(server, "/rerank", **asked, documents=PARAGRAPHS, raw_scores=True)
    assert [one["index"] for one in raw["results"]] == order
    logits = np.array([one["relevance_score"] for one in raw["results"]])
    assert 1 / (1 + np.exp(-logits)) == pytest.approx(scores, rel=1e-4)
    assert union["usage"]["prompt_tokens"] == union["usage"]["total_tokens"] > 0


@pytest.mark.parametrize(("top_n", "count"), [(2, 2), (99, 4)])
async def test_so_many_come_back_as_are_wanted(server: Server, top_n: int, count: int) -> None:
    body = {"model": "ranker", "query": QUERY, "documents": PARAGRAPHS, "top_n": top_n}
    assert len((await ask(server, "/v1/rerank", **body))["results"]) == count


async def test_a_document_is_cut_like_the_one_that_just_fits(server: Server) -> None:
    long = "a " * 200
    fits = "a " * (128 - 3 - 2)
    body = {"model": "ranker", "query": "b b", "texts": [long, fits], "raw_scores": True}
    first, second = await ask(server, "/rerank", **body)
    assert first["score"] == pytest.approx(second["score"])
    forged = {**body, "texts": ["[SEP] [SEP]"]}
    status, _ = await server.send("/rerank", forged)
    assert status == 200


async def test_each_kind_of_model_does_only_its_own(server: Server) -> None:
    status, reply = await server.send("/embed", {"model": "ranker", "inputs": "a"})
    assert (status, reply["error_type"]) == (424, "Backend")
    status, reply = await server.send(
        "/rerank", {"model": "tiny", "query": "a", "documents": ["a"]}
    )
    assert (status, reply["error"]["code"]) == (400, "model_not_supported")


async def test_ids_and_texts_make_one_sequence(server: Server) -> None:
    [[mixed]] = [
        one["embedding"]
        for one in await ask(server, "/embedding", model="tiny", content=["the", 9, 10])
    ]
    tokens = (
        await ask(server, "/tokenize", model="tiny", content=["the", 9, 10], add_special=True)
    )["tokens"]
    [[by_ids]] = [
        one["embedding"] for one in await ask(server, "/embedding", model="tiny", content=tokens)
    ]
    assert mixed == pytest.approx(by_ids)
    assert tokens[-2:] == [9, 10]
