"""What this process computes, from requests to arrays."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest

from embedd.bulk.compute import MAX_CHUNKS, Wanted, make_local_compute
from embedd.embedder.embedder import Embedder
from embedd.types import (
    ChunkPlace,
    DType,
    EmbedRequest,
    EmbedResult,
    Priority,
    ServedBy,
    Timings,
    Truncate,
    Truncated,
)


class FakeEmbedder:
    """Answers with one row that all inputs share, and keeps the request."""

    request: EmbedRequest

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        self.request = request
        count = len(request.inputs)
        return EmbedResult(
            vectors=np.array([[0.5, -1.0]], np.float32),
            rows=np.zeros(count, np.int32),
            quantized={DType.INT8: np.array([[64, -127]], np.int8)},
            chunks=[ChunkPlace(input=0, start=0, end=1, tokens=1)] * count,
            tokens=[3] * count,
            truncated=[Truncated(index=0, tokens=9, kept=3)],
            timings=Timings(),
            served_by=ServedBy(digest="sha256:" + "ab" * 32, engine="fake", backend="llama"),
        )


async def ask(wanted: Wanted, texts: Sequence[str] = ("a", "b")) -> tuple[EmbedRequest, object]:
    fake = FakeEmbedder()
    answer = await make_local_compute(cast("Embedder", fake), wanted)(texts)
    assert (answer.tokens, answer.cut) == (6, 1)
    assert answer.served_by == "abababababab;engine=fake;backend=llama;tokenizer=llama"
    assert (answer.chunks is None) == (wanted.chunk is None)
    return fake.request, answer.vectors


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float32", np.array([[0.5, -1]] * 2, np.float32)),
        ("float16", np.array([[0.5, -1]] * 2, np.float16)),
        ("int8", np.array([[64, -127]] * 2, np.int8)),
    ],
)
async def test_each_text_gets_its_row_in_the_type_that_is_wanted(
    dtype: str, expected: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> None:
    _, vectors = await ask(Wanted(model="m", dtype=dtype))
    np.testing.assert_array_equal(cast("np.typing.ArrayLike", vectors), expected)
    assert getattr(vectors, "dtype", None) == expected.dtype


async def test_a_request_yields_to_others_and_is_not_cached() -> None:
    request, _ = await ask(Wanted(model="m", dimensions=2))
    assert request.schedule.priority is Priority.BULK
    assert not request.store
    assert (request.dimensions, request.truncate, request.chunk) == (2, Truncate.END, None)
    assert request.prompt is not None
    assert request.prompt.name == "document"


@pytest.mark.parametrize("part", ["start", "middle", "end"])
async def test_the_part_of_a_text_that_is_removed_is_that_which_is_wanted(part: str) -> None:
    request, _ = await ask(Wanted(model="m", truncate=part))
    assert request.truncate is Truncate(part)


async def test_options_become_the_request() -> None:
    wanted = Wanted(model="m", input_type=None, cut=False, chunk=8, overlap=2)
    request, _ = await ask(wanted)
    assert request.prompt is None
    assert request.truncate is Truncate.ERROR
    assert request.chunk is not None
    assert (request.chunk.tokens, request.chunk.overlap) == (8, 2)
    assert request.chunk.max_chunks == MAX_CHUNKS
