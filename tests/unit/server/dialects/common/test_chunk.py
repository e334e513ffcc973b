"""The field ``chunk`` is understood or refused, and places are written as rows."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.errors import InvalidInputError
from embedd.server.dialects.common.chunk import chunk_rows, parse_chunk
from embedd.types import Chunking, ChunkPlace

VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just([1])


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        (None, None),
        ({}, Chunking(max_chunks=9)),
        ({"tokens": None, "overlap": None, "pool": None}, Chunking(max_chunks=9)),
        ({"tokens": 5.0, "overlap": 2}, Chunking(tokens=5, overlap=2, max_chunks=9)),
        ({"pool": "mean"}, Chunking(pool=True, max_chunks=9)),
    ],
)
def test_absent_and_null_are_the_same(
    chunk: dict[str, object] | None, expected: Chunking | None
) -> None:
    assert parse_chunk(chunk, max_chunks=9) == expected


@given(st.dictionaries(st.sampled_from(["tokens", "overlap", "pool", "size"]), VALUES))
def test_any_object_is_understood_or_refused_by_the_name_of_the_field(
    chunk: dict[str, object],
) -> None:
    try:
        wanted = parse_chunk(chunk, max_chunks=9)
        assert wanted is not None
        assert chunk.keys() <= {"tokens", "overlap", "pool"}
    except InvalidInputError as error:
        assert error.field == "chunk"
        assert any(str(error).startswith(f"chunk.{key} is") for key in chunk)


def test_a_wrong_value_is_quoted_in_part() -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_chunk({"tokens": "x" * 1000}, max_chunks=9)
    assert len(str(caught.value)) < 200


def test_places_are_written_in_slices() -> None:
    places = [ChunkPlace(input=0, start=n, end=n + 1, tokens=1) for n in range(3)]
    rows = chunk_rows(places)
    texts = [rows.render(0, 2), rows.render(2, 3)]
    assert json.loads(b"[%b]" % b",".join(texts)) == [
        {"input": 0, "start": n, "end": n + 1, "tokens": 1} for n in range(3)
    ]
