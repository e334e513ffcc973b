"""Log lines: a constant message, values as ``key=value``, no control characters."""

import io
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedd.logs import TRACE, LogFormat, set_up_logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What the diary says; the loggers are left as they were."""
    root = logging.getLogger("embedd")
    before = root.handlers[:], root.level, root.propagate
    yield io.StringIO()
    root.handlers[:], root.level, root.propagate = before[0], before[1], before[2]


def test_a_line_holds_time_level_message_and_facts(stream: io.StringIO) -> None:
    set_up_logs(0, stream)
    logging.getLogger("embedd.x").info("model loaded", extra={"model": "tiny", "pid": 7})
    date, clock, level, rest = stream.getvalue().split(maxsplit=3)
    assert (len(date), len(clock), level) == (10, 8, "INFO")
    assert rest == "model loaded model=tiny pid=7\n"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("", "''"),
        ("two words", "'two words'"),
        ('a"b', "'a\"b'"),
        ("a\nb", r"'a\nb'"),
        ("\x1b[31m", r"'\x1b[31m'"),
        ("\u2028", r"'\u2028'"),
        (None, "None"),
    ],
)
def test_a_fact_is_one_word_without_control_characters(
    value: object, shown: str, stream: io.StringIO
) -> None:
    set_up_logs(0, stream)
    logging.getLogger("embedd").info("m", extra={"fact": value})
    assert stream.getvalue().endswith(f" m fact={shown}\n")


def test_a_logged_exception_is_followed_by_its_traceback(stream: io.StringIO) -> None:
    set_up_logs(0, stream)
    try:
        int("boom")
    except ValueError:
        logging.getLogger("embedd").exception("request crashed")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("ERROR   request crashed")
    assert rest[0].startswith("Traceback")
    assert rest[-1].startswith("ValueError: ")


@pytest.mark.parametrize(
    ("debug", "levels"),
    [(0, ["INFO"]), (1, ["DEBUG", "INFO"]), (2, ["TRACE", "DEBUG", "INFO"])],
)
def test_debug_chooses_the_level_of_the_log(
    debug: int, levels: list[str], stream: io.StringIO
) -> None:
    set_up_logs(debug, stream)
    for level in (TRACE, logging.DEBUG, logging.INFO):
        logging.getLogger("embedd.x").log(level, "m")
    assert [line.split()[2] for line in stream.getvalue().splitlines()] == levels


def test_a_line_of_json_has_the_values_with_their_types(stream: io.StringIO) -> None:
    set_up_logs(0, stream, LogFormat.JSON)
    facts = {"model": "tiny", "pid": 7, "ms": 1.5, "is_new": True, "limit": None}
    logging.getLogger("embedd.x").info("model loaded", extra=facts)
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {"level": "INFO", "message": "model loaded", **facts}


@pytest.mark.parametrize(
    ("value", "shown"),
    [(Path("/m"), "/m"), (math.inf, "inf"), (math.nan, "nan"), (["a"], "['a']")],
)
def test_values_that_json_has_no_type_for_are_text(
    value: object, shown: str, stream: io.StringIO
) -> None:
    set_up_logs(0, stream, LogFormat.JSON)
    logging.getLogger("embedd").info("m", extra={"fact": value})
    assert json.loads(stream.getvalue())["fact"] == shown


def test_a_record_is_one_line_of_ascii_in_json(stream: io.StringIO) -> None:
    set_up_logs(0, stream, LogFormat.JSON)
    try:
        int("boom")
    except ValueError:
        logging.getLogger("embedd").exception("m", extra={"fact": "a\nb\u2028\x1b\udc80"})
    [text] = stream.getvalue().splitlines()
    assert text.isascii()
    line = json.loads(text)
    assert line["fact"] == "a\nb\u2028\x1b\udc80"
    assert line["traceback"].startswith("Traceback")


def test_what_a_library_adds_to_every_record_is_not_shown(stream: io.StringIO) -> None:
    set_up_logs(0, stream)
    logging.getLogger("embedd.x").info("model loaded", extra={"_ray_timestamp_ns": 1, "pid": 7})
    assert stream.getvalue().endswith("model loaded pid=7\n")
