"""Bodies are decoded to structs, or to an error that names the field in Go's wording."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.errors import InvalidInputError
from embedd.ollama_api import EmbedBody, GenerateBody
from embedd.server.http.bodies import MAX_DEPTH, decode, parse_leniently

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None, max_codepoint=0x10FFFF))
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from([*EmbedBody.__struct_fields__, "unknown"])


class Numbers(msgspec.Struct):
    count: int | None = None
    share: float | None = None
    anything: Any = None


@given(st.binary() | JSON.map(json.dumps).map(str.encode))
def test_any_bytes_are_a_body_or_an_input_error(data: bytes) -> None:
    try:
        assert isinstance(decode(data, EmbedBody), EmbedBody)
    except InvalidInputError as error:
        assert str(error)


@given(st.dictionaries(FIELDS, JSON), st.sampled_from(["", "\ufeff", " \n"]))
def test_any_fields_are_a_body_or_an_input_error(fields: dict[str, object], start: str) -> None:
    data = (start + json.dumps(fields)).encode()
    try:
        body = decode(data, EmbedBody)
    except InvalidInputError as error:
        assert str(error).startswith("json: cannot unmarshal ")
    else:
        assert body.model == replaced(fields.get("model"))


def replaced(value: object) -> object:
    """Lone surrogates are U+FFFD on the wire."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@given(st.dictionaries(st.text(), SCALARS, max_size=4))
def test_both_decoders_give_the_same_body(fields: dict[str, object]) -> None:
    data = json.dumps({"options": fields, "model": "m", "truncate": False}).encode()
    fast, slow = decode(data, EmbedBody), decode(b"\xef\xbb\xbf" + data, EmbedBody)
    assert (fast.model, fast.truncate, fast.options) == (slow.model, slow.truncate, slow.options)


@pytest.mark.parametrize("number", ["256.0", "2.56e2", "256"])
def test_a_float_without_fraction_is_an_integer(number: str) -> None:
    assert decode(f'{{"count":{number}}}'.encode(), Numbers).count == 256
    assert decode(f'{{"share":{number}}}'.encode(), Numbers).share == 256.0


@pytest.mark.parametrize("number", ["1e400", "-1e400", "NaN", "Infinity", "9" * 5000])
def test_numbers_out_of_range_are_refused(number: str) -> None:
    with pytest.raises(InvalidInputError, match="invalid JSON"):
        decode(f'{{"count":1.5,"anything":{number}}}'.encode(), Numbers)


@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 5_000, 200_000])
def test_nesting_never_exhausts_the_stack(brackets: tuple[str, str], levels: int) -> None:
    opening, closing = brackets
    data = f'\ufeff{{"anything":{opening * levels}1{closing * levels}}}'.encode()
    with pytest.raises(InvalidInputError, match=f"more than {MAX_DEPTH} levels"):
        decode(data, Numbers)
    with pytest.raises(InvalidInputError, match=r"invalid JSON|cannot unmarshal array"):
        decode(opening.encode() * levels, Numbers)


def test_bytes_that_are_not_utf8_become_replacement_characters() -> None:
    assert decode(b'{"model":"a\xff"}', EmbedBody).model == "a\ufffd"
    assert parse_leniently(b'["\xed\xa0\x80"]') == ["\ufffd\ufffd\ufffd"]


def test_a_fraction_is_quoted_only_where_an_integer_is_expected() -> None:
    with pytest.raises(InvalidInputError, match=r"unmarshal number into .*GenerateRequest\.model"):
        decode(b'{"model":1.5}', GenerateBody)
    with pytest.raises(InvalidInputError, match=r"unmarshal number 1.5 into .*\.dimensions"):
        decode(b'{"dimensions":1.5}', EmbedBody)
