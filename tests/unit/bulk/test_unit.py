"""Texts of a unit: chunks, errors that are not a text's, units without any."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from embedd.bulk.compute import Pool
from embedd.bulk.reading import Rows
from embedd.bulk.unit import Embedded, embed_rows
from embedd.errors import (
    EngineError,
    InvalidInputError,
    ModelNotFoundError,
    ServiceError,
    TooManyInputsError,
)
from embedd.types import Arrays, ChunkPlace
from tests.unit.bulk.jobs import FakeCompute

EMPTY = np.zeros((0, 1), np.float32)


class Chunked(FakeCompute):
    """A chunk for each character; its vector is the character's code."""

    async def __call__(self, texts: Sequence[str]) -> Arrays:
        await asyncio.sleep(0)
        for index, text in enumerate(texts):
            if text == "bad":
                raise InvalidInputError("a bad text", index=index)
        places = [
            ChunkPlace(input=index, start=at, end=at + 1, tokens=1)
            for index, text in enumerate(texts)
            for at in range(len(text))
        ]
        codes = [[ord(letter)] for text in texts for letter in text]
        vectors = np.array(codes, np.float32).reshape(-1, 1)
        return Arrays(vectors=vectors, tokens=len(codes), chunks=places)

    __hash__ = FakeCompute.__hash__


def make_rows(*texts: str) -> Rows:
    return Rows(file="f", numbers=range(10, 10 + len(texts)), texts=texts, kept={})


async def embed(rows: Rows, compute: FakeCompute) -> Embedded:
    return await embed_rows(rows, Pool([compute]), lambda *_: None, empty=EMPTY)


async def test_chunks_stand_beside_their_row_in_order() -> None:
    found = await embed(make_rows("ab", "bad", "c", "ab", "def"), Chunked())
    letters = "".join(chr(int(code)) for code in found.vectors[:, 0])
    assert letters == "abcabdef"
    assert found.rows.tolist() == [0, 0, 2, 3, 3, 4, 4, 4]
    assert found.places == [
        (0, 0, 1), (1, 1, 2), (0, 0, 1), (0, 0, 1), (1, 1, 2), (0, 0, 1), (1, 1, 2), (2, 2, 3)
    ]  # fmt: skip
    assert [(one.row, one.error) for one in found.failures] == [(11, "a bad text")]


@pytest.mark.parametrize(
    "error", [ModelNotFoundError("m"), ServiceError("broken"), EngineError("without a text")]
)
async def test_an_error_of_no_text_ends_the_unit(error: Exception) -> None:
    def fail(_: Sequence[str]) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await embed(make_rows("a", "b"), FakeCompute(before=fail))
    assert caught.value is error


async def test_an_engine_that_fails_at_a_text_costs_that_text_alone() -> None:
    def fail(texts: Sequence[str]) -> None:
        if "b" in texts:
            raise EngineError("computing failed", index=list(texts).index("b"))

    compute = FakeCompute(before=fail)
    rows = make_rows("a", "b", "c")
    found = await embed_rows(
        rows, Pool([compute]), lambda *_: None, empty=np.zeros((0, 4), np.float32)
    )
    assert found.rows.tolist() == [0, 2]
    assert found.failures[0].error == "computing failed"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "input 1 has 9 tokens, the limit is 8: shorten it, allow truncation or raise num_ctx",
            "the text has 9 tokens, the limit is 8: use another option",
        ),
        (
            "the input length exceeds the context length: input[1] has 9 tokens, the limit is 8",
            "the text has 9 tokens, the limit is 8: use another option",
        ),
        ("computing failed (input 1)", "computing failed"),
        ("NaN (input 1, characters 3 to 9)", "NaN (characters 3 to 9)"),
        ("input has no tokens", "the text has no tokens"),
        (
            "chunk.overlap is 4, and a chunk of input 1 has at most 3 tokens: choose a smaller one",
            "--overlap is 4, and a chunk of the text has at most 3 tokens: choose a smaller one",
        ),
    ],
)
async def test_an_error_of_a_row_has_no_words_of_a_request(said: str, expected: str) -> None:
    def fail(texts: Sequence[str]) -> None:
        if "b" in texts:
            raise InvalidInputError(said, index=list(texts).index("b"))

    found = await embed_rows(
        make_rows("a", "b"),
        Pool([FakeCompute(before=fail)]),
        lambda *_: None,
        empty=np.zeros((0, 4), np.float32),
        advice="use another option",
    )
    assert [one.error for one in found.failures] == [expected]


async def test_a_request_that_is_too_large_is_divided() -> None:
    def fail(texts: Sequence[str]) -> None:
        if len(texts) > 3:
            raise TooManyInputsError(len(texts), limit=3)

    compute = FakeCompute(before=fail)
    found = await embed_rows(
        make_rows(*map(str, range(20))),
        Pool([compute]),
        lambda *_: None,
        empty=np.zeros((0, 4), np.float32),
    )
    assert len(found.vectors) == 20
    assert not found.failures


async def test_vectors_of_a_unit_are_of_each_backend_that_computed_them() -> None:
    rows = make_rows(*(f"{number} {'x' * 100_000}" for number in range(4)))  # a request each
    computes = [FakeCompute(served_by="b"), FakeCompute(served_by="a")]
    done = await embed_rows(
        rows, Pool(computes, mixed=True), lambda *_: None, empty=np.zeros((0, 4), np.float32)
    )
    assert done.served_by == ["a", "b"]


async def test_what_is_done_is_reported_once() -> None:
    done: list[tuple[int, int, int, int, float]] = []
    rows = make_rows("a", "bad", "a", "ccc")
    await embed_rows(rows, Pool([Chunked()]), lambda *one: done.append(one), empty=EMPTY)
    assert sum(one[0] for one in done) == 4
    assert sum(one[3] for one in done) == 1
    assert sum(one[4] for one in done) == pytest.approx(1)


async def test_a_unit_without_texts_is_done_at_once() -> None:
    done: list[float] = []
    found = await embed_rows(
        make_rows(), Pool([Chunked()]), lambda *one: done.append(one[4]), empty=EMPTY
    )
    assert found.vectors.shape == (0, 1)
    assert done == [1.0]
