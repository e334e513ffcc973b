"""A bulk job in words: its progress on stderr (a bar, JSON or text), totals, estimates."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import click
import msgspec

from embedd.bulk.commit import Counts
from embedd.bulk.estimate import Estimate
from embedd.bulk.progress import Progress, Snapshot
from embedd.cli.tables import format_size

JSON_SECONDS: Final = 10.0
TEXT_SECONDS: Final = 30.0
BAR_SECONDS: Final = 0.25


@contextmanager
def open_display(kind: str, progress: Progress) -> Iterator[None]:
    """Show *progress* until the end of the block.

    Args:
        kind: ``auto`` is a bar on a terminal and a line of text now and then elsewhere; ``json``
            a line of JSON every 10 s and at the end; ``none`` nothing.
    """
    if kind == "none":
        yield
    elif kind == "json":
        with _every(JSON_SECONDS, lambda: show_json(progress.snapshot())):
            yield
        show_json(progress.snapshot())
    elif sys.stderr.isatty():
        with _open_bar(progress):
            yield
    else:
        with _every(TEXT_SECONDS, lambda: click.echo(describe(progress.snapshot()), err=True)):
            yield


def show_json(one: Snapshot) -> None:
    """Print a snapshot as a line of JSON."""
    click.echo(msgspec.json.encode(one), err=True)


def describe(one: Snapshot) -> str:
    """Return a snapshot in words."""
    of = "" if one.of is None else f" of {one.of:,}"
    left = "" if one.eta_seconds is None else f", {format_seconds(one.eta_seconds)} left"
    waits = f", {one.waits} waits for a server" if one.waits else ""
    return (
        f"{one.rows:,}{of} {_noun(one.of or one.rows, 'row')}, {one.tokens_per_second:,.0f} "
        f"tokens/s{left}, {one.cut:,} cut, {one.failed:,} failed{waits}"
    )


def describe_computer(model: str, served_by: str, places: str) -> str:
    """Return what computes, in words.

    Args:
        served_by: As ``X-Embedd-Model`` says it.
        places: Where.
    """
    digest, *facts = served_by.split(";")
    return f"computed by {model} ({digest}), {', '.join(facts)}; {places}"


def describe_totals(total: Counts, *, seconds: float | None, size: int | None) -> str:
    """Return the totals of an output in a line.

    Args:
        seconds: That it took; None if it was complete before.
        size: Its bytes; None if it is a stream.
    """
    words = [
        count(total.rows, "row"),
        *([] if total.vectors == total.rows else [count(total.vectors, "vector")]),
        count(total.tokens, "token"),
        f"{count(total.cut, 'text')} cut",
        count(total.errors, "error"),
        *([] if seconds is None else [f"{seconds:.1f} s"]),
        *([] if size is None else [format_size(size)]),
    ]
    return ("nothing left to do: " if seconds is None else "") + ", ".join(words)


def describe_estimate(one: Estimate) -> str:
    """Return what a job will come to in a line."""
    total = Counts(
        rows=one.rows - one.errors,
        vectors=one.vectors,
        errors=one.errors,
        tokens=one.tokens,
        cut=one.cut,
    )
    said = describe_totals(total, seconds=one.seconds, size=one.bytes)
    return f"{said} (estimated from {count(one.sampled, 'row')})"


def count(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 row``, ``2,000 rows``."""
    return f"{number:,} {_noun(number, noun)}"


def _noun(number: int, noun: str) -> str:
    return noun if number == 1 else f"{noun}s"


def format_seconds(seconds: float) -> str:
    """Return seconds as ``2:05:09`` or ``5:09``."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def _every(seconds: float, show: Callable[[], None]) -> Iterator[None]:
    """Call *show* in a thread, as long as the block runs: the event loop may be busy."""
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(seconds):
            show()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def _open_bar(progress: Progress) -> Iterator[None]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (BarColumn(bar_width=20), TextColumn("{task.description}", markup=False))
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("reading", total=None)

        def show() -> None:
            one = progress.snapshot()
            bars.update(task, completed=one.rows, total=one.of, description=describe(one))

        with _every(BAR_SECONDS, show):
            yield
