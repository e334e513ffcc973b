"""Texts that are cut into chunks: what each chunk is, their mean, and what is refused."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedd.embedder import chunking as module
from embedd.embedder.chunking import Chunker
from embedd.embedder.embedder import Embedder
from embedd.engine.fake import NOT_A_NUMBER
from embedd.engine.spec import ModelInfo
from embedd.errors import EmptyInputError, EngineError, InputTooLongError, InvalidInputError
from embedd.tokenizers.chunks import Chunk
from embedd.tokenizers.truncation import SpecialTokens
from embedd.types import (
    Chunking,
    ChunkPlace,
    ClientIds,
    DType,
    Normalize,
    Pooling,
    Prompt,
    VectorFormat,
)
from tests.contract.conftest import make_spec
from tests.fakes import FakeModel
from tests.server.serving import Loads, until
from tests.unit.embedder.requests import CONTEXT, ask

SPECIAL = 2
PREFIX = "ask: "  # that of queries
TEXT = "One two three. Four five six seven.\n\nEight nine. Ten eleven twelve thirteen."

TEXTS = st.lists(st.text(st.sampled_from("abcé字. \n"), max_size=150), min_size=1, max_size=3)
SIZES = st.integers(2, CONTEXT).flatmap(
    lambda size: st.tuples(st.just(size), st.integers(0, min(size, CONTEXT - 7) - 1))
)


def chunk(
    tokens: int | None = None, overlap: int = 0, *, pool: bool = False, most: int = 1000
) -> Chunking:
    return Chunking(tokens=tokens, overlap=overlap, pool=pool, max_chunks=most)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=TEXTS, sizes=SIZES, prompt=st.sampled_from([None, Prompt(name="query")]))
async def test_chunks_cover_every_text_and_are_embedded_as_their_own_texts_are(
    texts: list[str], sizes: tuple[int, int], prompt: Prompt | None, embedder: Embedder
) -> None:
    """A token is a character here, so that a chunk's text alone has the chunk's tokens."""
    size, overlap = sizes
    around = SPECIAL + (len(PREFIX) if prompt else 0)
    asked = {"prompt": prompt, "normalize": Normalize.NONE}
    result = await embedder.embed(ask(*texts, chunk=chunk(size, overlap), **asked))
    assert [place.input for place in result.chunks] == sorted(one.input for one in result.chunks)
    parts = [texts[place.input][place.start : place.end] for place in result.chunks]
    assert [place.tokens for place in result.chunks] == [*map(len, parts)]
    assert list(result.tokens) == [around + len(part) for part in parts]
    assert max(map(len, parts)) <= min(size, CONTEXT - around)
    for index, text in enumerate(texts):
        places = [place for place in result.chunks if place.input == index]
        assert (places[0].start, places[-1].end) == (0, len(text))
        for one, following in pairwise(places):
            assert one.start < following.start <= one.end < following.end
            assert one.end - following.start <= overlap
    assert not result.truncated
    alone = await embedder.embed(ask(*parts, **asked))
    assert np.array_equal(result.vectors, alone.vectors)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=TEXTS, sizes=SIZES, dimensions=st.sampled_from([None, 3]))
async def test_a_pooled_vector_is_the_mean_of_the_chunks_by_their_tokens(
    texts: list[str], sizes: tuple[int, int], dimensions: int | None, embedder: Embedder
) -> None:
    size, overlap = sizes
    for normalize in (Normalize.L2, Normalize.NONE):
        asked = {"dimensions": dimensions, "normalize": normalize}
        apart = await embedder.embed(ask(*texts, chunk=chunk(size, overlap), **asked))
        pooled = await embedder.embed(ask(*texts, chunk=chunk(size, overlap, pool=True), **asked))
        assert (pooled.chunks, pooled.tokens) == (apart.chunks, apart.tokens)
        assert len(pooled.vectors) == len(texts)
        for index, text in enumerate(texts):
            rows = [row for row, place in enumerate(apart.chunks) if place.input == index]
            weights = [apart.chunks[row].tokens for row in rows] if text else None
            mean = np.average(apart.vectors[rows].astype(np.float64), axis=0, weights=weights)
            if normalize is Normalize.L2:
                mean /= np.linalg.norm(mean)
            assert np.allclose(pooled.vectors[index], mean, atol=1e-5)


async def test_without_a_number_chunks_are_as_long_as_the_model_takes(embedder: Embedder) -> None:
    result = await embedder.embed(ask("x" * 150, chunk=chunk()))
    assert [place.tokens for place in result.chunks] == [62, 62, 26]
    result = await embedder.embed(ask("x" * 150, chunk=chunk(), prompt=Prompt(name="query")))
    assert [place.tokens for place in result.chunks] == [57, 57, 36]
    result = await embedder.embed(ask("x" * 20, chunk=chunk(), options={"num_ctx": 12}))
    assert [place.tokens for place in result.chunks] == [10, 10]
    result = await embedder.embed(ask("x" * 20, chunk=chunk(), max_tokens=12))
    assert [place.tokens for place in result.chunks] == [10, 10]


async def test_a_text_that_fits_has_one_chunk_and_the_vector_that_it_has_anyway(
    embedder: Embedder,
) -> None:
    whole = await embedder.embed(ask(TEXT[:40], prompt=Prompt(name="query")))
    for pool in (False, True):
        asked = ask(TEXT[:40], prompt=Prompt(name="query"), chunk=chunk(pool=pool))
        result = await embedder.embed(asked)
        assert np.allclose(result.vectors, whole.vectors, atol=1e-6)
        assert result.chunks == [ChunkPlace(input=0, start=0, end=40, tokens=40)]


async def test_a_pooled_vector_is_quantised_once(embedder: Embedder) -> None:
    formats = [VectorFormat(dtype=DType.INT8)]
    result = await embedder.embed(ask(TEXT, TEXT, chunk=chunk(20, pool=True), formats=formats))
    [quantized] = result.quantized.values()
    assert len(quantized) == len(result.vectors) == 2


async def test_a_request_without_texts_has_no_chunks(embedder: Embedder) -> None:
    assert not (await embedder.embed(ask(chunk=chunk(5)))).chunks


NUMBERS: ClientIds = np.array([1, 5, 2], np.int64)


@pytest.mark.parametrize(
    ("inputs", "wanted", "error"),
    [
        ([TEXT], chunk(0), r"tokens is 0, it must be between 1 and 64"),
        ([TEXT], chunk(65), r"tokens is 65, it must be between 1 and 64.* leave it out"),
        ([TEXT], chunk(9, 9), r"overlap is 9, it must be at least 0 and less than .* is 9"),
        ([TEXT], chunk(9, -1), r"overlap is -1, it must be at least 0"),
        ([TEXT, NUMBERS], chunk(9), r"token ids cannot be chunked \(input 1\): send text"),
        ([(TEXT, NUMBERS)], chunk(9), r"token ids cannot be chunked \(input 0\): send text"),
    ],
)
async def test_chunks_that_are_impossible_are_refused_before_a_load(
    inputs: list[str | ClientIds], wanted: Chunking, error: str, embedder: Embedder, loads: Loads
) -> None:
    with pytest.raises(InvalidInputError, match=error) as caught:
        await embedder.embed(ask(*inputs, chunk=wanted))
    assert caught.value.field == "chunk"
    assert loads.names == []


async def test_chunks_and_a_vector_for_each_token_exclude_each_other(embedder: Embedder) -> None:
    with pytest.raises(InvalidInputError, match="leave one of them out"):
        await embedder.embed(ask(TEXT, chunk=chunk(9), per_token=True))


@pytest.mark.parametrize(
    ("wanted", "limit", "error"),
    [
        (chunk(64, 62), 61, "overlap is 62, and a chunk of input 0 has at most 62 tokens"),
        (chunk(5, most=15), 15, "more than 15 chunks, the limit of a request: send fewer texts"),
        (chunk(5, most=10), 10, "more than 10 chunks"),
        (chunk(10, 9, most=10), 10, "more than 10 chunks"),
    ],
)
async def test_what_the_texts_make_impossible_is_refused_with_its_limit(
    wanted: Chunking, limit: int, error: str, embedder: Embedder
) -> None:
    with pytest.raises(InvalidInputError, match=error) as caught:
        await embedder.embed(ask(TEXT, chunk=wanted))
    assert (caught.value.field, caught.value.limit) == ("chunk", limit)


async def test_an_overlap_cannot_make_any_number_of_tokens_of_a_text(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_TOKENS", 500)
    text = "x" * 75
    await embedder.embed(ask(text, chunk=chunk(20)))
    with pytest.raises(InvalidInputError, match="more than 500 tokens together at input 0: send"):
        await embedder.embed(ask(text, chunk=chunk(20, 19)))


async def test_without_room_for_a_token_a_text_is_too_long(embedder: Embedder) -> None:
    asked = {"prompt": Prompt(name="query"), "options": {"num_ctx": 7}, "chunk": chunk()}
    with pytest.raises(InputTooLongError) as caught:
        await embedder.embed(ask("", "abc", **asked))
    error = caught.value
    assert (error.index, error.tokens, error.limit, error.special) == (1, 10, 7, 7)
    result = await embedder.embed(ask("", **asked))
    assert result.chunks == [ChunkPlace(input=0, start=0, end=0, tokens=0)]


async def test_a_text_of_which_nothing_is_left_to_compute_is_refused(tmp_path: Path) -> None:
    class Bare(FakeModel):
        """Puts nothing around a text."""

        @property
        def info(self) -> ModelInfo:
            return replace(super().info, special_tokens=SpecialTokens(prefix=(), suffix=()))

    model = Bare(make_spec(tmp_path / "model", Pooling.MEAN))
    sequences, _ = await Chunker(chunk(4), ask("abcdef"), prefix="", limit=8).tokenize(model)
    assert [len(ids) for ids in sequences] == [4, 2]
    with pytest.raises(EmptyInputError) as caught:
        await Chunker(chunk(4), ask("abc", ""), prefix="", limit=8).tokenize(model)
    assert caught.value.index == 1


@pytest.mark.parametrize("pool", [False, True])
async def test_a_chunk_that_cannot_be_computed_is_named_by_its_input(
    pool: bool, embedder: Embedder
) -> None:
    text = "aaaa bbbb " + NOT_A_NUMBER + "ccc dddd"
    with pytest.raises(EngineError, match=r"\(input 1, characters 10 to 15\)") as caught:
        await embedder.embed(ask("aaaa bbbb cccc", text, chunk=chunk(5, pool=pool)))
    assert caught.value.index == 1


async def test_a_pooled_vector_that_cannot_be_finished_is_named_by_its_input(
    tmp_path: Path,
) -> None:
    wanted = chunk(20, pool=True)
    chunker = Chunker(wanted, ask(TEXT, TEXT, chunk=wanted), prefix="", limit=CONTEXT)
    sequences, _ = await chunker.tokenize(FakeModel(make_spec(tmp_path / "model", Pooling.MEAN)))
    assert len(sequences) == len(chunker.chunks) > 2
    assert chunker.pool(np.zeros((len(sequences), 8), np.float32)).shape == (2, 8)
    error = EngineError("embedding has zero norm (input 1)", index=1)
    assert chunker.name_input(error) is error


async def test_an_error_of_no_input_stays_as_it_is() -> None:
    chunker = Chunker(chunk(), ask(TEXT), prefix="", limit=CONTEXT)
    error = EngineError("the worker died")
    assert chunker.name_input(error) is error


async def test_when_the_client_leaves_its_texts_are_not_cut_any_further(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut: list[int] = []
    may_go_on, ended = threading.Event(), threading.Event()

    def split(text: str, *_: object, **__: object) -> Iterator[Chunk]:
        try:
            for number in range(9):
                cut.append(number)
                may_go_on.wait(60)
                yield Chunk(start=0, end=len(text), first=0, last=1)
        finally:
            ended.set()

    monkeypatch.setattr(module, "split_tokens", split)
    asked = asyncio.create_task(embedder.embed(ask(TEXT, TEXT, chunk=chunk())))
    await until(lambda: bool(cut))
    asked.cancel()
    await asyncio.wait([asked])
    assert asked.cancelled()
    may_go_on.set()
    await until(ended.is_set)
    assert cut == [0]
