"""Progress of a pull or create on stderr: bars on a terminal, a line per step elsewhere."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

import click

if TYPE_CHECKING:
    from embedd.ollama_api import ProgressLine

# Shows that a step began or went on: lines with the same status belong to the same step
Report: TypeAlias = "Callable[[ProgressLine], None]"


@contextmanager
def open_progress() -> Iterator[Report]:
    """Show what is reported, until the end of the block."""
    if sys.stderr.isatty():
        from embedd.cli.bars import open_bars

        with open_bars() as report:
            yield report
    else:
        yield make_printer()


async def report_all(lines: "AsyncIterator[ProgressLine]", report: Report) -> None:
    """Report every line that a server streams."""
    async for line in lines:
        report(line)


def make_printer() -> Report:
    """A report that prints each status once, when its step begins."""
    last = ""

    def report(line: "ProgressLine") -> None:
        nonlocal last
        if line.status != last:
            click.echo(line.status, err=True)
            last = line.status

    return report
