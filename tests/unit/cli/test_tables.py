"""Sizes, times and columns, word for word."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.cli.tables import (
    fit_table,
    format_duration,
    format_moment,
    format_processor,
    format_size,
    format_table,
    format_until,
)

NOW = datetime(2026, 8, 21, 12, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = 1, 60, 3600, 86400


def test_cells_are_padded_to_their_column_and_four_blanks() -> None:
    table = format_table(
        ("NAME", "ID", "SIZE", "MODIFIED"),
        [
            ("all-minilm:latest", "1b226e2802db", "45 MB", "2 weeks ago"),
            ("hf.co/acme/bge-m3-GGUF:Q8_0", "5d4f7a90c1be", "634 MB", "About an hour ago"),
        ],
    )
    assert table == (
        "NAME                           ID              SIZE      MODIFIED\n"
        "all-minilm:latest              1b226e2802db    45 MB     2 weeks ago\n"
        "hf.co/acme/bge-m3-GGUF:Q8_0    5d4f7a90c1be    634 MB    About an hour ago"
    )


def test_an_empty_table_is_its_header() -> None:
    assert format_table(("NAME", "ID", "SIZE"), []) == "NAME    ID    SIZE"


def test_a_table_is_never_cut_wrapped_coloured_or_interpreted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    cells = ("a" * 300, "two words " * 20 + "end", "[red]x[/red] :smile: 127.0.0.1", "漢字")
    lines = format_table(("A", "B", "C", "D"), [cells, ("1", "2", "3", "4")]).splitlines()
    assert lines[1] == (" " * 4).join(cells)
    assert [line.split() for line in (lines[0], lines[2])] == [list("ABCD"), list("1234")]
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (9, "9 B"),
        (96, "96 B"),
        (999, "999 B"),
        (1000, "1 KB"),
        (1500, "1.5 KB"),
        (9040, "9.0 KB"),
        (9949, "9.9 KB"),
        (10_000, "10 KB"),
        (10_999, "10 KB"),
        (999_999, "999 KB"),
        (45_960_996, "45 MB"),
        (1_200_000_000, "1.2 GB"),
        (634_553_760, "634 MB"),
        (5_000_000_000_000, "5 TB"),
        (5_000_000_000_000_000, "5000 TB"),
    ],
)
def test_sizes_have_decimal_units(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, 10**16))
def test_a_size_is_never_off_by_more_than_a_tenth(size: int) -> None:
    number, unit = format_size(size).split()
    shown = float(number) * 1000 ** ("B", "KB", "MB", "GB", "TB").index(unit)
    assert abs(shown - size) <= size / 10


@pytest.mark.parametrize(
    ("size", "size_vram", "text"),
    [
        (58195968, 0, "100% CPU"),
        (0, 0, "100% CPU"),
        (100, 100, "100% GPU"),
        (100, 101, "Unknown"),
        (0, 1, "Unknown"),
        (100, 52, "48%/52% CPU/GPU"),
        (1000, 995, "1%/99% CPU/GPU"),
        (200, 199, "1%/99% CPU/GPU"),
        (1000, 1, "100%/0% CPU/GPU"),
    ],
)
def test_the_processor_column_says_where_the_weights_lie(
    size: int, size_vram: int, text: str
) -> None:
    assert format_processor(size, size_vram) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "Less than a second"),
        (0.99, "Less than a second"),
        (1, "1 second"),
        (1.9, "1 second"),
        (2, "2 seconds"),
        (59.9, "59 seconds"),
        (MINUTE, "About a minute"),
        (2 * MINUTE - 0.1, "About a minute"),
        (2 * MINUTE, "2 minutes"),
        (HOUR - 1, "59 minutes"),
        (HOUR, "About an hour"),
        (1.5 * HOUR - 1, "About an hour"),
        (1.5 * HOUR, "2 hours"),
        (2.5 * HOUR, "3 hours"),
        (47 * HOUR, "47 hours"),
        (48 * HOUR, "2 days"),
        (14 * DAY - HOUR, "13 days"),
        (14 * DAY, "2 weeks"),
        (60 * DAY - HOUR, "8 weeks"),
        (60 * DAY, "2 months"),
        (2 * 365 * DAY - HOUR, "24 months"),
        (2 * 365 * DAY, "2 years"),
        (19.9 * 365 * DAY, "19 years"),
    ],
)
def test_a_duration_is_said_in_its_largest_unit(seconds: float, text: str) -> None:
    duration = timedelta(seconds=seconds)
    assert format_duration(duration) == text
    assert format_moment(NOW - duration, NOW) == f"{text} ago"
    if seconds:
        assert format_moment(NOW + duration, NOW) == f"{text} from now"


@pytest.mark.parametrize(
    ("ahead", "text"),
    [
        (timedelta(minutes=4, seconds=30), "4 minutes from now"),
        (timedelta(days=20 * 365), "20 years from now"),
        (timedelta(days=20 * 365, seconds=1), "Forever"),
        (timedelta(days=292 * 365), "Forever"),
        (timedelta(seconds=-1), "Stopping..."),
    ],
)
def test_until_is_for_ever_ahead_or_stopping(ahead: timedelta, text: str) -> None:
    assert format_until(NOW + ahead, NOW) == text


HEADER = ("NAME", "ID", "SIZE")
ROWS = [("all-minilm:latest", "1b226e2802db", "45 MB")]


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (None, "all-minilm:latest    1b226e2802db    45 MB"),
        (42, "all-minilm:latest    1b226e2802db    45 MB"),
        (38, "all-minilm:latest  1b226e2802db  45 MB"),
        (37, "all-minilm:latest  45 MB"),
        (5, "all-minilm:latest  45 MB"),
    ],
)
def test_a_table_loses_its_gaps_and_then_columns_on_a_narrow_terminal(
    width: int | None, line: str
) -> None:
    assert fit_table(HEADER, ROWS, width, ("ID",)).splitlines()[1] == line
