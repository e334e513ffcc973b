"""Tokens of text-embeddings-inference: places in bytes, frames around a text, slices."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.server.dialects.common.token_json import TOKENS_AT_A_TIME
from embedd.server.dialects.tei.tokens import ENCODED_AT_A_TIME, to_bytes, to_reply
from embedd.server.http.json_out import Rows, join_parts
from embedd.types import Tokenized, TokenPiece

CLS, SEP = TokenPiece(b"[CLS]", is_special=True), TokenPiece(b"[SEP]", is_special=True)
TEXTS = st.text(st.characters(codec="utf-8"))


def make_tokens(
    spans: list[tuple[int, int]], frame: tuple[list[TokenPiece], list[TokenPiece]]
) -> Tokenized:
    """Tokens with ids from 100, with 1 before and 2 after them where *frame* has tokens."""
    ids = [*(1 for _ in frame[0]), *range(100, 100 + len(spans)), *(2 for _ in frame[1])]
    offsets = np.array(spans, np.int32).reshape(-1, 2)
    return Tokenized(ids=np.array(ids, np.int32), offsets=offsets, frame=frame)


def reply(texts: list[str], results: list[Tokenized]) -> Any:
    return json.loads(join_parts(to_reply(texts, results)))


@given(TEXTS, st.data())
def test_bytes_at_a_place_are_the_characters_there(text: str, data: st.DataObject) -> None:
    places = st.integers(0, len(text))
    spans = data.draw(st.lists(st.tuples(places, places).map(sorted)))
    offsets = np.array(spans, np.int32).reshape(-1, 2)
    encoded = text.encode()
    converted = to_bytes(encoded, offsets)
    assert converted.dtype == np.int32
    for (start, stop), (first, last) in zip(spans, converted.tolist(), strict=True):
        assert encoded[first:last] == text[start:stop].encode()


def test_special_tokens_around_a_text_have_no_place() -> None:
    [tokens] = reply(["日a"], [make_tokens([(0, 1), (1, 2)], ([CLS], [SEP]))])
    assert tokens == [
        {"id": 1, "text": "[CLS]", "special": True, "start": None, "stop": None},
        {"id": 100, "text": "日", "special": False, "start": 0, "stop": 3},
        {"id": 101, "text": "a", "special": False, "start": 3, "stop": 4},
        {"id": 2, "text": "[SEP]", "special": True, "start": None, "stop": None},
    ]


@pytest.mark.parametrize("before", [[], [CLS]])
@pytest.mark.parametrize("after", [[], [SEP], [SEP, SEP]])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_any_part_of_a_frame_may_be_missing(
    before: list[TokenPiece], after: list[TokenPiece], count: int
) -> None:
    text = "é" * count
    spans = [(at, at + 1) for at in range(count)]
    one = make_tokens(spans, (before, after))
    first, second = reply([text, text], [one, one])
    assert first == second
    assert [token["id"] for token in first] == one.ids.tolist()


def test_places_count_from_the_start_of_the_prompt() -> None:
    tokens = Tokenized(
        ids=np.array([7], np.int32), prefix="é: ", offsets=np.array([[3, 4]], np.int32)
    )
    [[token]] = reply(["x"], [tokens])
    assert (token["text"], token["start"], token["stop"]) == ("x", 4, 5)


def test_a_text_longer_than_what_is_encoded_at_a_time_keeps_its_places() -> None:
    text = "日é" * (ENCODED_AT_A_TIME // 2 + 1)
    end = len(text)
    [[first, last]] = reply([text], [make_tokens([(0, 2), (end - 2, end)], ([], []))])
    assert (first["text"], last["text"]) == ("日é", "日é")
    assert (last["start"], last["stop"]) == (len(text.encode()) - 5, len(text.encode()))


def test_a_long_text_is_rendered_in_slices_that_make_up_the_whole() -> None:
    count = 2 * TOKENS_AT_A_TIME + 3
    text = "ab" * count
    tokens = make_tokens([(2 * at, 2 * at + 2) for at in range(count)], ([CLS], [SEP]))
    parts = to_reply([text], [tokens])
    [rows] = [part for part in parts if isinstance(part, Rows)]
    assert (rows.count, rows.step) == (count, TOKENS_AT_A_TIME)
    [whole] = reply([text], [tokens])
    sliced = [
        token
        for start in range(0, count, rows.step)
        for token in json.loads(b"[%b]" % rows.render(start, min(start + rows.step, count)))
    ]
    assert sliced == whole[1:-1]
    assert [token["start"] for token in sliced] == list(range(0, 2 * count, 2))
