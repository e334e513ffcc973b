"""JSON answers: exact numbers, safe for clients that split lines."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedd.server.http.json_out import dump, dump_rows


@given(st.text(st.characters(codec="utf-8")))
def test_no_text_contains_a_line_end(text: str) -> None:
    data = dump({text: text})
    assert len(data.decode().splitlines()) == 1
    assert json.loads(data) == {text: text}


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_numbers_parse_back_to_the_same_float32(numbers: list[float]) -> None:
    row = np.array([numbers], np.float32)
    parsed = np.array(json.loads(dump_rows(row)), np.float32)
    assert parsed.tobytes() == row[0].tobytes()


def test_numbers_have_as_few_digits_as_possible() -> None:
    row = np.array([[0.010071031, -0.0017594862, 1, 1e-9]], np.float32)
    assert dump_rows(row) == b"[0.010071031,-0.0017594862,1.0,1e-9]"
