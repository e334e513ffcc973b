"""Ollama's field ``input``: any JSON is a list of inputs or ``invalid input type``."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.errors import InvalidInputError
from embedd.server.dialects.ollama.input import parse_inputs
from tests.unit.server.http.test_bodies import JSON, replaced

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(JSON)
def test_any_json_is_inputs_or_an_input_error(value: object) -> None:
    try:
        inputs = parse_inputs(json.dumps(value).encode())
    except InvalidInputError as error:
        assert str(error) == "invalid input type"
    else:
        assert all(isinstance(one, str) or one.dtype == np.int64 for one in inputs)


@given(st.lists(st.text()), st.sampled_from(["", " ", "\n\t"]))
def test_texts_come_through_in_order(texts: list[str], blank: str) -> None:
    raw = blank + json.dumps(texts).replace("[", f"[{blank}", 1)
    assert parse_inputs(raw.encode()) == texts


@given(st.text(st.characters(codec=None), min_size=1))
def test_one_text_is_one_input_without_lone_surrogates(text: str) -> None:
    assert parse_inputs(json.dumps(text).encode()) == [replaced(text)]


@given(st.lists(st.lists(INT64, min_size=1), min_size=1))
def test_id_sequences_come_through_in_order(rows: list[list[int]]) -> None:
    assert [ids.tolist() for ids in to_arrays(rows)] == rows
    assert [ids.tolist() for ids in to_arrays(rows[0])] == rows[:1]


@given(st.lists(st.integers(-(2**53), 2**53), min_size=1))
def test_ids_may_be_written_as_floats(ids: list[int]) -> None:
    assert [one.tolist() for one in to_arrays([float(i) for i in ids])] == [ids]
    assert [one.tolist() for one in to_arrays([[float(i) for i in ids], ids])] == [ids, ids]


def to_arrays(value: object) -> list[np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    inputs = parse_inputs(json.dumps(value).encode())
    return [one for one in inputs if not isinstance(one, str)]


@pytest.mark.parametrize("raw", [b'""', b"[]", b" [ ]"])
def test_the_empty_text_and_the_empty_list_have_no_inputs(raw: bytes) -> None:
    assert parse_inputs(raw) == []


@pytest.mark.parametrize("raw", [b"[1e999]", b"[" + b"9" * 5000 + b"]"])
def test_ids_beyond_64_bits_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInputError):
        parse_inputs(raw)


def test_text_that_is_not_utf8_becomes_replacement_characters() -> None:
    assert parse_inputs(b'"a\xff"') == ["a\ufffd"]
    assert parse_inputs(b'["a\xff","b"]') == ["a\ufffd", "b"]
