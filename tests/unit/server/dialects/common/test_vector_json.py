"""Vectors are written into the empty lists of an answer."""

import json

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedd.server.dialects.common.vector_json import insert_rows
from embedd.server.http.json_out import join_parts, vector_rows


class Answer(msgspec.Struct):
    name: str
    not_first: list[int]
    first: list[list[float]]
    text: str
    more: dict[str, list[float]]


@given(st.text(), st.text())
def test_rows_take_the_place_of_the_empty_lists_whatever_the_texts_are(
    name: str, text: str
) -> None:
    answer = Answer(name=name, not_first=[], first=[], text=text, more={"second": []})
    rows = vector_rows(np.array([[1, 2], [3, 4]], np.float32), 2)
    parts = insert_rows(answer, {"first": rows, "second": b"5.0"})
    expected = {
        "name": name,
        "not_first": [],
        "first": [[1, 2], [3, 4]],
        "text": text,
        "more": {"second": [5]},
    }
    assert json.loads(join_parts(parts)) == expected


def test_a_text_that_looks_like_the_list_is_left_alone() -> None:
    answer = Answer(name='"first":[]', not_first=[], first=[], text='"first":[', more={})
    parts = insert_rows(answer, {"first": vector_rows(np.ones((1, 1), np.float32), 1)})
    assert json.loads(join_parts(parts)) == {
        "name": '"first":[]', "not_first": [], "first": [[1]], "text": '"first":[', "more": {}
    }  # fmt: skip


def test_an_answer_without_vectors_keeps_its_empty_list() -> None:
    answer = Answer(name="a", not_first=[], first=[], text="b", more={})
    parts = insert_rows(answer, {"first": vector_rows(np.empty((0, 0), np.float32), 0)})
    assert json.loads(join_parts(parts))["first"] == []
