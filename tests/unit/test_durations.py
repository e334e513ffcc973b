"""The grammar of keep_alive: Go's durations and more."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.durations import parse_duration, parse_keep_alive
from embedd.errors import InvalidInputError


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (300, 300), (0.5, 0.5), (300.0, 300), (0, 0), (0.0, 0), (-0.0, 0), (42.5, 42.5),
        (-1, math.inf), (-1.0, math.inf), (-3.14, math.inf), (math.inf, math.inf),
        (-math.inf, math.inf), (math.nan, math.inf), (1e300, math.inf),
        (10**400, math.inf), (-(10**400), math.inf),
        ("10m", 600), ("1h30m", 5400), ("500ms", 0.5), ("1.5h", 5400), ("0", 0), ("0s", 0),
        ("-0s", 0), ("2us", 2e-6), ("2µs", 2e-6), ("2μs", 2e-6), ("7ns", 7e-9),
        ("1d", 86400), ("1d12h", 129600), ("+5s", 5), (".5s", 0.5), ("1.s", 1), ("1m.5s", 60.5),
        ("-1m", math.inf), ("-1s", math.inf), ("-1ns", math.inf),
        ("2562047h47m16.854775807s", math.inf), ("2562047h47m16s", 9223372036),
        ("-1", math.inf), ("300", 300), ("1.5", 1.5), ("+2", 2), ("3.", 3),
    ],
)  # fmt: skip
def test_keep_alive_is_seconds_and_anything_negative_is_for_ever(
    value: object, seconds: float
) -> None:
    parsed = parse_keep_alive(value)
    assert parsed == seconds
    assert math.copysign(1, parsed) == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", 'time: invalid duration ""'),
        ("abc", 'time: invalid duration "abc"'),
        ("-", 'time: invalid duration "-"'),
        (".s", 'time: invalid duration ".s"'),
        ("--1s", 'time: invalid duration "--1s"'),
        (" 1s", 'time: invalid duration " 1s"'),
        ("1s ", 'time: unknown unit "s " in duration "1s "'),
        ("1w", 'time: unknown unit "w" in duration "1w"'),
        ("1S", 'time: unknown unit "S" in duration "1S"'),
        ("1h5", 'time: missing unit in duration "1h5"'),
        ("1.2.3s", 'time: missing unit in duration "1.2.3s"'),
        ("2562047h47m16.854775808s", 'time: invalid duration "2562047h47m16.854775808s"'),
        ('"\\é\n', 'time: invalid duration "\\"\\\\\\xc3\\xa9\\x0a"'),
        ("\ud800", 'time: invalid duration "\\xed\\xa0\\x80"'),
        ("٣s", 'time: invalid duration "\\xd9\\xa3s"'),
        *(
            (text, f'time: invalid duration "{text[:200]}\\xe2\\x80\\xa6"')
            for text in ("9" * 5000, "-" + "9" * 5000, "9" * 5000 + "h", "1." + "9" * 5000)
        ),
        (True, "Unsupported type: 'bool'"),
        ([1], "Unsupported type: '[]interface {}'"),
        ({"a": 1}, "Unsupported type: 'map[string]interface {}'"),
        (None, "Unsupported type: '<nil>'"),
    ],
)
def test_an_invalid_duration_is_refused_with_ollamas_message(value: object, message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_keep_alive(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(("text", "seconds"), [("-1", -1), ("-1m30s", -90), ("-1.5", -1.5)])
def test_a_duration_keeps_its_sign(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@given(st.integers(0, 2**63 - 1))
def test_nanoseconds_are_exact_to_the_precision_of_a_float(nanoseconds: int) -> None:
    assert parse_duration(f"{nanoseconds}ns") == nanoseconds / 10**9


@given(st.integers(0, 1000), st.integers(0, 59), st.integers(0, 59), st.booleans())
def test_terms_add_up(hours: int, minutes: int, seconds: int, minus: bool) -> None:
    total = hours * 3600 + minutes * 60 + seconds
    sign = "-" if minus else ""
    parsed = parse_duration(f"{sign}{hours}h{minutes}m{seconds}s")
    assert parsed == (-total if minus else total)


@given(st.text("0123456789.+-hmsd", max_size=12))
def test_any_text_is_a_finite_duration_or_an_invalid_input(text: str) -> None:
    with contextlib.suppress(InvalidInputError):
        assert math.isfinite(parse_duration(text))
