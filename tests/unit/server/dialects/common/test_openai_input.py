"""Bodies and inputs with OpenAI's ``input``: any JSON is valid or refused."""

import json
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.errors import (
    EmptyInputError,
    InvalidInputError,
    InvalidTokenIdError,
    MalformedBodyError,
)
from embedd.server.dialects import nugen
from embedd.server.dialects.base import Policy
from embedd.server.dialects.cohere import embed as cohere
from embedd.server.dialects.common.openai_input import EmbedBody, parse_inputs
from embedd.server.dialects.openai import embed as openai
from embedd.server.http.bodies import decode_plainly, parse_leniently, raw_fields
from embedd.types import ClientIds, EmbedRequest
from tests.unit.server.http.test_bodies import JSON, replaced

POLICY = Policy()
INT64 = st.integers(-(2**63), 2**63 - 1)


def to_inputs(raw: bytes) -> Sequence[str | ClientIds]:
    body = decode_plainly(b'{"input":%b}' % raw, EmbedBody)
    return parse_inputs(body.input, POLICY)


def parse(value: object) -> list[object]:
    inputs = to_inputs(json.dumps(value).encode())
    return [one if isinstance(one, str) else one.tolist() for one in inputs]


@given(JSON)
def test_any_json_is_inputs_or_an_input_error(value: object) -> None:
    try:
        inputs = to_inputs(json.dumps(value).encode())
    except InvalidTokenIdError as error:
        assert error.index is not None
        assert error.position is not None
    except InvalidInputError as error:
        assert str(error).startswith(("invalid input", "images are not supported"))
    else:
        assert inputs
        for one in inputs:
            assert isinstance(one, str) or (one.dtype == np.int64 and len(one))


@given(st.lists(st.text(st.characters(codec=None)) | st.lists(INT64, min_size=1), min_size=1))
def test_texts_and_sequences_come_through_mixed_and_in_order(inputs: list[object]) -> None:
    assert parse(inputs) == [replaced(one) if isinstance(one, str) else one for one in inputs]


@given(st.lists(INT64, min_size=1))
def test_a_flat_list_of_ids_is_one_input(ids: list[int]) -> None:
    assert parse(ids) == [ids]


@given(st.text())
def test_a_text_is_an_input_even_if_it_is_empty(text: str) -> None:
    assert parse(text) == parse([text]) == parse([{"text": text}]) == [text]


@pytest.mark.parametrize(
    ("value", "found"), [(None, "input is missing or null"), ([], "input is an empty array")]
)
def test_null_and_the_empty_list_have_no_inputs(value: object, found: str) -> None:
    with pytest.raises(EmptyInputError) as caught:
        parse(value)
    assert str(caught.value) == f"invalid input: {found}: send a text, or an array of at least one"


@pytest.mark.parametrize(
    ("value", "index", "position", "text"),
    [
        ([1, True], 0, 1, "true"),
        (["a", [False]], 1, 0, "false"),
        ([[1], [2, 2**63]], 1, 1, str(2**63)),
        ([1e300], 0, 0, str(int(1e300))),
        ([-(2**63) - 1], 0, 0, str(-(2**63) - 1)),
    ],
)
def test_an_id_that_no_model_has_is_named_by_its_index_and_position(
    value: object, index: int, position: int, text: str
) -> None:
    with pytest.raises(InvalidTokenIdError) as caught:
        parse(value)
    error = caught.value
    assert (error.index, error.position, error.value) == (index, position, text)


def test_bytes_that_are_not_utf8_become_replacement_characters() -> None:
    assert to_inputs(b'["a\xff","b"]') == ["a\ufffd", "b"]


@given(st.binary() | JSON.map(json.dumps).map(str.encode))
def test_any_body_is_a_request_or_an_input_error(data: bytes) -> None:
    for make in (make_openai_request, make_nugen_request, make_cohere_request):
        with pytest.raises(InvalidInputError):
            make(data)


@given(st.dictionaries(st.sampled_from(openai.EmbedBody.__struct_fields__), JSON))
def test_any_fields_are_a_request_or_an_input_error(fields: dict[str, object]) -> None:
    data = json.dumps({"model": "m", "input": "a", "texts": ["a"], **fields}).encode()
    for make in (make_openai_request, make_nugen_request, make_cohere_request):
        try:
            assert isinstance(make(data), EmbedRequest)
        except InvalidInputError as error:
            assert str(error)


def make_openai_request(data: bytes) -> EmbedRequest:
    return openai.to_request(decode_plainly(data, openai.EmbedBody), POLICY)


def make_nugen_request(data: bytes) -> EmbedRequest:
    return nugen.to_request(decode_plainly(data, EmbedBody), POLICY)


def make_cohere_request(data: bytes) -> EmbedRequest:
    return cohere.to_request_v2(decode_plainly(data, cohere.EmbedBodyV2), POLICY)


@given(st.dictionaries(st.text(), JSON), st.sampled_from(["", "\ufeff", " \n"]))
def test_the_fields_of_a_body_are_those_that_are_not_null(
    fields: dict[str, object], start: str
) -> None:
    raw = raw_fields((start + json.dumps(fields)).encode())
    assert raw.keys() == {name for name, value in fields.items() if value is not None}
    for name, value in raw.items():
        assert json.loads(value) == parse_leniently(json.dumps(fields[name]).encode())


@pytest.mark.parametrize("data", [b"[1]", b"null", b'"input"', b"5"])
def test_json_that_is_not_an_object_has_no_fields(data: bytes) -> None:
    assert raw_fields(data) == {}


@pytest.mark.parametrize("data", [b"", b"{", b'{"a":NaN}', b"[" * 5000])
def test_a_body_that_is_not_json_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedBodyError):
        raw_fields(data)


class Everything(msgspec.Struct):
    text: str | None = None
    flag: bool | None = None
    count: int | None = None
    share: float | None = None
    names: list[str] | None = None
    either: bool | str | None = None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"text": 5}, "text must be a string, got an integer"),
        ({"flag": "yes"}, "flag must be true or false, got a string"),
        ({"count": 1.5}, "count must be an integer, got 1.5"),
        ({"count": [1]}, "count must be an integer, got a list"),
        ({"share": {}}, "share must be a number, got an object"),
        ({"names": "a"}, "names must be a list, got a string"),
        ({"either": 5}, "either must be true or false or a string, got an integer"),
        ({"names": ["a", 5]}, "Expected `str`, got `int` - at `$.names[1]`"),
        ([1], "request body must be a JSON object"),
    ],
)
def test_a_field_of_the_wrong_type_is_named_in_plain_words(body: object, message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        decode_plainly(json.dumps(body).encode(), Everything)
    assert str(caught.value) == message
