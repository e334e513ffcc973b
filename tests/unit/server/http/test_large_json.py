"""Large JSON texts are what small ones are, and are refused before they take memory."""

import json
import re
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from embedd.errors import InvalidInputError, MalformedBodyError, TooManyInputsError
from embedd.server.http import large_json
from embedd.server.http.bodies import MAX_DEPTH, decode_plainly, parse_leniently, raw_fields
from embedd.server.http.large_json import LargeJson
from tests.unit.server.http.test_bodies import JSON

SLICES = st.sampled_from([32, 40, 64])
ESCAPES = st.lists(
    st.sampled_from(["\\", '"', "\n", "\ud83d\ude00", "😀", "\ud800", "\udc00", "a", "é"])
).map("".join)


class Anything(msgspec.Struct):
    input: Any = None
    model: str | None = None
    texts: list[str] | None = None
    options: dict[str, Any] | None = None


def parse(data: bytes, size: int, **limits: int) -> dict[str, object]:
    """The fields of *data*, read in slices of *size* bytes."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"SLICE": size, "MAX_LEVELS": 100, **limits}.items():
            patch.setattr(large_json, name, value)
        large = LargeJson(data, max_inputs=10, max_depth=MAX_DEPTH, parse=parse_leniently)
        assert large.is_object
        return {name: plain(value) for name, value in large.parse_fields(Every()).items()}


class Every:
    def __contains__(self, name: object) -> bool:
        return True


def plain(value: object) -> object:
    """*value* with lists where it has arrays."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value


@given(
    st.dictionaries(st.text(max_size=3) | ESCAPES.filter(lambda key: len(key) < 2), JSON | ESCAPES),
    SLICES,
    st.sampled_from([None, 1]),
    st.booleans(),
    st.sampled_from(["", "\ufeff", " \n"]),
)
@example({"": -(10**31)}, 32, None, False, "")
def test_a_text_read_in_slices_is_the_text_read_at_once(
    fields: dict[str, object], size: int, indent: int | None, ascii_only: bool, start: str
) -> None:
    text = start + json.dumps(fields, indent=indent, ensure_ascii=ascii_only) + " junk"
    data = text.encode("utf-8", "surrogatepass")
    try:
        parsed = parse(data, size)
    except MalformedBodyError as error:
        # Neither may be longer than a slice, which is 64 KiB outside of this test.
        assert re.search("(name of a field is missing or|a number or word is) too long", str(error))
    else:
        assert parsed == parse_leniently(data)


@given(ESCAPES, SLICES, st.booleans())
def test_a_long_text_is_cut_in_no_character(text: str, size: int, ascii_only: bool) -> None:
    data = json.dumps({"a": text * 9}, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert parse(data, size) == parse_leniently(data)


@given(st.lists(st.integers(-(2**63), 2**63 - 1)), SLICES)
def test_a_long_list_of_numbers_is_an_array(ids: list[int], size: int) -> None:
    large = LargeJson(
        json.dumps({"input": ids}).encode(), max_inputs=1, max_depth=9, parse=parse_leniently
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_json, "SLICE", size)
        value = large.parse_fields({"input"})["input"]
    assert plain(value) == ids
    if len(json.dumps(ids)) > size:
        assert isinstance(value, np.ndarray)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"a":[1,2',
        '{"a":[1,2}}',
        '{"a":[1,2}]',
        '{"a":[1,2,]}',
        '{"a":[,1]}',
        '{"a":[1,,2]}',
        '{"a":1,}',
        '{"a":{"b":1,}}',
        '{"a" 1}',
        "{1:2}",
        '{"a":[[1]]]}}',
        '{"a":"' + "b" * 99,
        '{"a":' + "9" * 99 + "}",
        '{"a":"b" "c"}',
        '{"a":["b"] "' + "c" * 99 + '"}',
        '{"' + "a" * 99 + '":1}',
        '{"a":"\\',
        '{"a":tru}',
    ],
)
@pytest.mark.parametrize("filling", ["", " " * 50])
def test_what_is_not_json_is_refused(text: str, filling: str) -> None:
    with pytest.raises(MalformedBodyError, match="invalid JSON in request body: "):
        parse(text.replace(":", ":" + filling).encode(), 16)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[" + " " * 99 + "]", []),
        ("{" + " " * 99 + "}", {}),
        ('{"b":[1,"c"]' + " " * 99 + "}", {"b": [1, "c"]}),
        ("[[" + "1," * 50 + "1]]", [[1] * 51]),
    ],
)
def test_spaces_between_values_have_no_meaning(text: str, expected: object) -> None:
    assert parse(b'{"a":%b}' % text.encode(), 16) == {"a": expected}
    assert parse(b"{%b}" % (b" " * 99), 16) == {}


class Counting:
    """Parses slices, and counts the bytes."""

    def __init__(self) -> None:
        self.parsed = 0
        self.longest = 0

    def __call__(self, text: bytes) -> object:
        self.parsed += len(text)
        self.longest = max(self.longest, len(text))
        return parse_leniently(text)


HALF_A_MEGABYTE = 1 << 19
SHAPES: dict[str, Callable[[int], str]] = {
    "lists": lambda size: ",".join(["[1]"] * (size // 4)),
    "objects": lambda size: ",".join(['{"text":"a"}'] * (size // 13)),
    "empty objects": lambda size: ",".join(["{}"] * (size // 3)),
    "lone surrogates": lambda size: ",".join(['"\\ud800"'] * (size // 9)),
    "texts": lambda size: ",".join(['"a"'] * (size // 4)),
    "lists of lists": lambda size: ",".join(["[[[1]]]"] * (size // 8)),
    "fractions": lambda size: ",".join(["1.5"] * (size // 4)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_too_many_inputs_are_counted_before_they_are_converted(
    shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_json, "MAX_ITEMS", 1000)
    inputs = SHAPES[shape](HALF_A_MEGABYTE)
    data = f'{{"model":"m","input":[{inputs}]}}'.encode()
    parse = Counting()
    large = LargeJson(data, max_inputs=100, max_depth=MAX_DEPTH, parse=parse)
    with pytest.raises(TooManyInputsError) as caught:
        large.parse_fields({"model", "input"})
    count = len(json.loads(f"[{inputs}]"))
    assert str(caught.value) == f"too many inputs: {count}, the limit is 100"
    assert caught.value.field == "input"
    assert parse.parsed <= 2 * large_json.SLICE


def test_inputs_within_an_object_are_counted_too() -> None:
    sentences = ",".join(['"a"'] * 2_000_000)
    data = f'{{"options":{{"source":"a","sentences":[{sentences}]}}}}'.encode()
    with pytest.raises(TooManyInputsError, match="too many inputs: 2000000, the limit is 10"):
        decode_plainly(data, Anything, 10)


@pytest.mark.parametrize(
    ("inner", "what"), [("[1]", "texts, lists and objects"), ('"ab"', "texts"), ("1", "values")]
)
def test_all_values_of_a_body_are_counted_before_they_are_converted(
    inner: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_json, "MAX_VALUES", 1000)
    monkeypatch.setattr(large_json, "MAX_NUMBERS", 10_000)
    row = "[" + ",".join([inner] * 1000) + "]"
    data = f'{{"input":[{",".join([row] * 50)}]}}'.encode()
    parse = Counting()
    large = LargeJson(data, max_inputs=100, max_depth=MAX_DEPTH, parse=parse)
    with pytest.raises(InvalidInputError, match=f"the request body has [0-9]+ {what}"):
        large.parse_fields({"input"})
    assert parse.parsed <= large_json.SLICE


def test_a_large_body_is_parsed_in_slices() -> None:
    texts = ["é" * 300_000, *["b" * 1000] * 500]
    data = json.dumps({"input": texts, "options": {"a": texts}}, ensure_ascii=False).encode()
    parse = Counting()
    large = LargeJson(data, max_inputs=1000, max_depth=MAX_DEPTH, parse=parse)
    assert large.parse_fields({"input", "options"}) == {"input": texts, "options": {"a": texts}}
    assert parse.longest <= large_json.SLICE + 2


def test_an_unknown_field_is_not_parsed() -> None:
    data = ('{"other":[' + "[1]," * 100_000 + '1],"input":"a"}').encode()
    parse = Counting()
    large = LargeJson(data, max_inputs=10, max_depth=MAX_DEPTH, parse=parse)
    assert large.parse_fields({"input"}) == {"input": "a"}
    assert parse.parsed < 100


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nesting_is_limited(opening: str) -> None:
    data = b'{"a":' + opening.encode() * 100_000
    with pytest.raises(MalformedBodyError, match=f"more than {MAX_DEPTH} levels"):
        decode_plainly(data, Anything)


def test_large_values_are_read_again_for_a_few_levels_only() -> None:
    levels = large_json.MAX_LEVELS + 1
    data = b'{"input":' + b'["a",' * levels + b'"%b"' % (b"b" * 99_999) + b"]" * levels + b"}"
    with pytest.raises(MalformedBodyError, match="more than 8 levels"):
        decode_plainly(data, Anything)


def test_an_object_has_a_limited_number_of_fields() -> None:
    many = ",".join(f'"{n}":1' for n in range(large_json.MAX_ITEMS + 1))
    for text in (f"{{{many}}}", f'{{"options":{{{many}}}}}'):
        with pytest.raises(InvalidInputError, match="has 100001 fields, the limit is 100000"):
            decode_plainly(text.encode(), Anything)
    few = {str(n): 1 for n in range(9000)}
    assert decode_plainly(json.dumps({"options": few}).encode(), Anything).options == few


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": [1] * 40_000}, "model must be a string, got a list"),
        ({"texts": [1] * 40_000}, "Expected `str`, got `int` - at `$.texts[0]`"),
        ({"options": ["a"] * 40_000}, "options must be an object, got a list"),
    ],
)
def test_a_large_field_of_the_wrong_type_is_named(fields: object, message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        decode_plainly(json.dumps(fields).encode(), Anything)
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["[" + "1," * 50_000 + "1]", '"' + "a" * 99_999 + '"'])
def test_a_large_body_that_is_not_an_object_is_refused(text: str) -> None:
    with pytest.raises(MalformedBodyError, match="request body must be a JSON object"):
        decode_plainly(text.encode(), Anything)
    assert raw_fields(text.encode()) == {}


def test_spaces_around_a_small_body_are_no_matter() -> None:
    spaces = b" " * 99_999
    assert decode_plainly(spaces + b'{"model":"m"}' + spaces, Anything).model == "m"
    assert decode_plainly(spaces + b"null", Anything).model is None
    with pytest.raises(MalformedBodyError, match="missing request body"):
        decode_plainly(spaces, Anything)


def test_the_fields_of_a_large_body_are_known_by_name() -> None:
    data = b'{"inputs":{"a":"%b"},"b":null,"c": "d"}' % (b"x" * 99_999)
    fields = raw_fields(data)
    assert list(fields) == ["inputs", "c"]
    assert fields["inputs"].startswith(b'{"a":"xx')
    assert fields["c"] == b'"d"'
    assert sys.getsizeof(fields["inputs"]) < large_json.SLICE + 100
