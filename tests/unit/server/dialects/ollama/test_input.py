"""Ollama's field ``input``: any JSON is a list of inputs or ``invalid input type``."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.errors import InvalidInputError, TooManyInputsError
from embedd.ollama_api import EmbedBody
from embedd.server.dialects.ollama.input import parse_inputs
from embedd.server.http.bodies import decode
from embedd.types import ClientIds
from tests.unit.server.http.test_bodies import JSON, replaced

INT64 = st.integers(-(2**63), 2**63 - 1)


def parsed(raw: bytes, max_inputs: int = 1000) -> list[str | ClientIds]:
    body = decode(b'{"input":%b}' % raw, EmbedBody)
    return list(parse_inputs(body.input, max_inputs))


@given(JSON)
def test_any_json_is_inputs_or_an_input_error(value: object) -> None:
    try:
        inputs = parsed(json.dumps(value).encode())
    except InvalidInputError as error:
        assert str(error) == "invalid input type"
    else:
        assert all(isinstance(one, str) or one.dtype == np.int64 for one in inputs)


@given(st.lists(st.text()), st.sampled_from(["", " ", "\n\t"]))
def test_texts_come_through_in_order(texts: list[str], blank: str) -> None:
    raw = blank + json.dumps(texts).replace("[", f"[{blank}", 1)
    assert parsed(raw.encode()) == texts


@given(st.text(st.characters(codec=None), min_size=1))
def test_one_text_is_one_input_without_lone_surrogates(text: str) -> None:
    assert parsed(json.dumps(text).encode()) == [replaced(text)]


@given(st.lists(st.lists(INT64, min_size=1), min_size=1))
def test_id_sequences_come_through_in_order(rows: list[list[int]]) -> None:
    assert [ids.tolist() for ids in to_arrays(rows)] == rows
    assert [ids.tolist() for ids in to_arrays(rows[0])] == rows[:1]


@given(st.lists(st.integers(-(2**53), 2**53), min_size=1))
def test_ids_may_be_written_as_floats(ids: list[int]) -> None:
    assert [one.tolist() for one in to_arrays([float(i) for i in ids])] == [ids]
    assert [one.tolist() for one in to_arrays([[float(i) for i in ids], ids])] == [ids, ids]


def to_arrays(value: object) -> list[np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    inputs = parsed(json.dumps(value).encode())
    return [one for one in inputs if not isinstance(one, str)]


@pytest.mark.parametrize("raw", [b'""', b"[]", b" [ ]"])
def test_the_empty_text_and_the_empty_list_have_no_inputs(raw: bytes) -> None:
    assert parsed(raw) == []


@pytest.mark.parametrize("raw", [b"[1e999]", b"[" + b"9" * 5000 + b"]"])
def test_ids_beyond_64_bits_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInputError):
        parsed(raw)


def test_text_that_is_not_utf8_becomes_replacement_characters() -> None:
    assert parsed(b'"a\xff"') == ["a\ufffd"]
    assert parsed(b'["a\xff","b"]') == ["a\ufffd", "b"]


@pytest.mark.parametrize("one", ["a", [1], [1.0]])
def test_inputs_are_counted_before_they_are_converted(one: object) -> None:
    values = [one] * 10 + [{"not": "an input"}]
    with pytest.raises(TooManyInputsError, match="too many inputs: 11, the limit is 10"):
        parsed(json.dumps(values).encode(), max_inputs=10)
    assert len(parsed(json.dumps([1] * 11).encode(), max_inputs=10)) == 1
