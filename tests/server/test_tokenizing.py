"""Hostile texts on every route that tokenizes or detokenizes: others are answered meanwhile."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from embedd.embedder import embedder
from embedd.engine.serving.local_tokenizer import LONG_AT_A_TIME, LocalTokenizer
from embedd.engine.spec import ModelSpec
from embedd.tokenizers.model_tokenizer import ModelTokenizer, load_tokenizer
from tests.fakes import FakeModel
from tests.server.serving import Served
from tests.tiny_models import TINY_VOCABULARY, write_tiny_bert

LONG = "a\u200d\u200bb " * 2000
IDS = [5] * 5000
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/api/embed", {"input": LONG}),
    ("/api/embeddings", {"prompt": LONG}),
    ("/api/embeddings", {"input": LONG}),
    ("/v1/embeddings", {"input": [LONG, "b"]}),
    ("/v1/embed", {"texts": [LONG], "truncate": "END"}),
    ("/embed", {"inputs": LONG}),
    ("/embed_all", {"inputs": LONG}),
    ("/embedding", {"content": LONG}),
    ("/similarity", {"inputs": {"source_sentence": LONG, "sentences": ["b"]}}),
    ("/v1/rerank", {"model": "ranker", "query": "a", "documents": [LONG]}),
    ("/rerank", {"model": "ranker", "query": "a", "texts": [LONG], "truncate": True}),
    ("/tokenize", {"inputs": LONG}),
    ("/tokenize", {"content": LONG}),
    ("/tokenize", {"content": LONG, "with_pieces": True}),
    ("/v1/tokenize", {"text": LONG}),
    ("/decode", {"ids": IDS}),
    ("/detokenize", {"tokens": IDS}),
    ("/v1/detokenize", {"tokens": IDS}),
]


class Watched(ModelTokenizer):
    """A tokenizer whose long work waits until a short request was answered.

    Attributes:
        answered: Set then.
        turns: Whether that came before the end, of each piece of long work.
    """

    answered = threading.Event()
    turns: list[bool]

    def _wait(self, size: int) -> None:
        if size > 100:
            self.turns.append(self.answered.wait(60))

    def tokenize(self, texts: Any, **arguments: Any) -> Any:
        self._wait(sum(map(len, texts)))
        return super().tokenize(texts, **arguments)

    def locate(self, texts: Any, **arguments: Any) -> Any:
        self._wait(sum(map(len, texts)))
        return super().locate(texts, **arguments)

    def detokenize(self, sequences: Any, **arguments: Any) -> Any:
        self._wait(sum(map(len, sequences)))
        return super().detokenize(sequences, **arguments)


@pytest.fixture
def watched(tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """The tokenizer of all models of *served*."""
    own, _ = load_tokenizer(write_tiny_bert(tmp_path / "own.gguf"))
    own.__class__ = Watched
    assert isinstance(own, Watched)
    own.turns, own.answered = [], threading.Event()
    local = LocalTokenizer(own, asyncio.Semaphore(LONG_AT_A_TIME), lambda: None)
    for name in ("tokenize", "locate", "detokenize", "token_pieces"):
        method: Callable[..., Any] = getattr(local, name)
        monkeypatch.setattr(FakeModel, name, lambda _, *a, m=method, **k: m(*a, **k))

    @asynccontextmanager
    async def open_vocabulary(spec: ModelSpec) -> AsyncIterator[FakeModel]:
        yield FakeModel(spec)

    monkeypatch.setattr(served.loads, "open_vocabulary", open_vocabulary)
    return own


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_a_short_request_is_answered_while_a_long_text_is_tokenized(
    path: str, body: dict[str, Any], served: Served, watched: Watched
) -> None:
    await served.embed(input="x")
    await served.post("/rerank", {"model": "ranker", "query": "x", "documents": ["y"]})
    long = asyncio.create_task(served.post(path, {"model": "tiny", **body}))
    while not watched.turns and not long.done() and not _is_waiting(watched):
        await asyncio.sleep(0)
        if (await served.embed(input="x")).status == 200:
            watched.answered.set()
    assert (await long).status in (200, 400), "the old route cuts nothing"
    assert watched.turns == [True] * len(watched.turns) != []


def _is_waiting(watched: Watched) -> bool:
    return watched.answered.is_set()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"inputs": ["aaa", "aaa"]}),
        ("/tokenize", {"content": "aaaaaa"}),
        ("/tokenize", {"content": ["aaa", 5, "aaa"]}),
        ("/v1/tokenize", {"text": "aaaaaa"}),
        ("/decode", {"ids": [[5, 5, 5], [5, 5, 5]]}),
        ("/detokenize", {"tokens": [5] * 6}),
        ("/v1/detokenize", {"tokens": [5] * 6}),
    ],
)
async def test_what_is_answered_token_by_token_is_limited(
    path: str, body: dict[str, Any], served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("MAX_TOKENIZED", "MAX_DETOKENIZED"):
        monkeypatch.setattr(embedder, limit, 5)
    refused = await served.post(path, {"model": "tiny", **body})
    assert refused.status == 413
    assert b"6 " in refused.body
    assert b"limit is 5" in refused.body
    for limit in ("MAX_TOKENIZED", "MAX_DETOKENIZED"):
        monkeypatch.setattr(embedder, limit, 6)
    assert (await served.post(path, {"model": "tiny", **body})).status == 200


async def test_a_long_text_is_answered_in_slices_and_whole(
    served: Served, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedd.server.dialects.common.token_json.CHARACTERS_AT_A_TIME", 7)
    watched.answered.set()
    ids = [number % (len(TINY_VOCABULARY) - 10) + 5 for number in range(300)]
    whole = (await served.post("/v1/detokenize", {"model": "tiny", "tokens": ids})).json["text"]
    assert len(whole) > 300
    assert (await served.post("/detokenize", {"model": "tiny", "tokens": ids})).json == {
        "content": whole
    }
    both = await served.post(
        "/decode", {"model": "tiny", "ids": [ids, [], ids], "skip_special_tokens": False}
    )
    assert both.json == [whole, "", whole]
