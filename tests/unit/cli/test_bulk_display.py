"""What is shown while a bulk job runs."""

import asyncio
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import pytest

from embedd.bulk.commit import Counts
from embedd.bulk.progress import Progress
from embedd.cli.bulk import display
from embedd.cli.bulk.running import listen_to_interrupts
from tests.unit.cli.conftest import Terminal


class Hand:
    """A clock that is moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def make_progress(hand: Hand) -> Progress:
    return Progress(rows=1000, size=20_000, parts=4, done_rows=500, done_parts=2, clock=hand)


def test_what_is_left_is_estimated_by_the_bytes_of_text_that_are_done() -> None:
    hand = Hand()
    progress = make_progress(hand)
    assert progress.snapshot().eta_seconds is None
    progress.add(10, 4000, 3, 1, 5000.0)
    progress.finish_part()
    hand.now += 20
    one = progress.snapshot()
    assert (one.rows, one.of, one.parts, one.of_parts) == (510, 1500, 3, 6)
    assert (one.tokens, one.cut, one.failed) == (4000, 3, 1)
    assert one.tokens_per_second == 200
    assert one.eta_seconds == 60  # 5,000 of 20,000 bytes took 20 s


def test_without_a_plan_there_is_no_estimate() -> None:
    hand = Hand()
    progress = Progress(rows=None, size=None, parts=None, clock=hand)
    progress.add(10, 4000, 0, 0, 5000.0)
    hand.now += 20
    assert display.describe(progress.snapshot()) == "10 rows, 200 tokens/s, 0 cut, 0 failed"


def test_a_line_has_rows_speed_time_left_cut_failed_and_waits() -> None:
    hand = Hand()
    progress = make_progress(hand)
    progress.add(1000, 40_000, 3, 1, 10.0)
    progress.count_waits = lambda: 2
    hand.now += 4
    assert display.describe(progress.snapshot()) == (
        "1,500 of 1,500 rows, 10,000 tokens/s, 2:13:16 left, 3 cut, 1 failed, 2 waits for a server"
    )


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (61, "1:01"), (3600, "1:00:00")])
def test_seconds_are_shown_as_a_clock_shows_them(seconds: float, text: str) -> None:
    assert display.format_seconds(seconds) == text


def test_totals_name_vectors_where_rows_have_several() -> None:
    total = Counts(rows=10, vectors=30, errors=2, tokens=2000, cut=2)
    assert display.describe_totals(total, seconds=1.25, size=2_500_000) == (
        "10 rows, 30 vectors, 2,000 tokens, 2 texts cut, 2 errors, 1.2 s, 2.5 MB"
    )
    assert display.describe_totals(Counts(), seconds=0, size=None).endswith("0 errors, 0.0 s")


def test_one_thing_is_in_the_singular_and_few_bytes_are_not_megabytes() -> None:
    total = Counts(rows=1, vectors=1, errors=1, tokens=1, cut=1)
    assert display.describe_totals(total, seconds=None, size=812) == (
        "nothing left to do: 1 row, 1 token, 1 text cut, 1 error, 812 B"
    )
    progress = Progress(rows=1, size=5, parts=1, clock=Hand())
    assert display.describe(progress.snapshot()).startswith("0 of 1 row, ")


async def test_the_answer_to_an_interrupt_has_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.BytesIO()
    err = Terminal(stream)
    monkeypatch.setattr(sys, "stderr", err)
    with listen_to_interrupts() as stop, display.open_display("auto", make_progress(Hand())):
        os.kill(os.getpid(), signal.SIGINT)
        async with asyncio.timeout(10):
            await stop.wait()
    err.flush()
    before, _, after = stream.getvalue().partition(b"finishing the parts in work")
    assert before.endswith(b"\r\x1b[2K")  # the bar was erased
    assert after.startswith(b"; press Ctrl-C again to stop now\n")


@pytest.mark.parametrize(
    ("kind", "is_terminal", "seconds"),
    [("auto", False, display.TEXT_SECONDS), ("json", False, display.JSON_SECONDS),
     ("auto", True, display.BAR_SECONDS)],
)  # fmt: skip
def test_progress_is_shown_again_and_again(
    monkeypatch: pytest.MonkeyPatch, kind: str, seconds: float, *, is_terminal: bool
) -> None:
    """What is shown: a bar on a terminal, a line elsewhere, or JSON."""
    shown: list[float] = []

    @contextmanager
    def at_once(every: float, show: Callable[[], None]) -> Iterator[None]:
        shown.append(every)
        show()
        yield

    stream = io.BytesIO()
    make = Terminal if is_terminal else io.TextIOWrapper
    err = make(stream)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(display, "_every", at_once)
    progress = make_progress(Hand())
    with display.open_display(kind, progress):
        progress.add(10, 4000, 0, 0, 5000.0)
    err.flush()
    text = stream.getvalue().decode()
    assert shown == [seconds]
    if kind == "json":
        first, last = (msgspec.json.decode(line) for line in text.splitlines())
        assert (first["rows"], last["rows"]) == (500, 510)
    elif is_terminal:
        assert "500 of 1,500" in text
    else:
        assert text.startswith("500 of 1,500 rows")


def test_a_display_that_repeats_ends_with_its_block() -> None:
    counts: list[int] = []
    before = set(threading.enumerate())
    with display._every(0.001, lambda: counts.append(1)):
        assert len(set(threading.enumerate()) - before) == 1
        while len(counts) < 3:
            time.sleep(0.001)
    assert set(threading.enumerate()) <= before


def test_what_computes_is_said_in_words() -> None:
    served_by = "bb4c37437d28;engine=openvino;backend=openvino-bf16;tokenizer=model"
    assert display.describe_computer("all-minilm", served_by, "this process") == (
        "computed by all-minilm (bb4c37437d28), engine=openvino, backend=openvino-bf16, "
        "tokenizer=model; this process"
    )
