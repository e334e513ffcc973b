"""Progress bars on a terminal, drawn by `rich`: a row per step, in Ollama's words."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column
from rich.text import Text

from embedd.cli.progress import Report
from embedd.ollama_api import ProgressLine

ROOM_FOR_RATE: Final = 72  # columns of the terminal
_ONLY: Final = TaskID(0)  # each row is a `Progress` with one task


@contextmanager
def open_bars() -> Iterator[Report]:
    """Draw on stderr until the end of the block."""
    console = Console(stderr=True)
    bars = Bars(console)
    with Live(bars, console=console, refresh_per_second=10):
        try:
            yield bars.report
        finally:
            bars.finish()


class Bars:
    """The steps so far; a step has a spinner, or a bar once its number of bytes is known."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._rows: list[Progress] = []
        self._status = ""

    def __rich__(self) -> Group:
        return Group(*self._rows)

    def report(self, line: ProgressLine) -> None:
        """Begin a step, or update the present one."""
        if line.status != self._status or not self._rows:
            self.finish()
            self._status = line.status
            self._rows.append(self._make_row(line))
        row = self._rows[-1]
        if line.total and not row.tasks[_ONLY].total:
            self._rows[-1] = self._make_row(line)
        elif line.total:
            row.update(_ONLY, total=line.total, completed=line.completed or 0)

    def finish(self) -> None:
        """Stop the spinner or the clock of the present step."""
        if not self._rows:
            return
        row = self._rows[-1]
        if not row.tasks[_ONLY].total:
            row.update(_ONLY, total=1, completed=1)
        row.stop_task(_ONLY)

    def _make_row(self, line: ProgressLine) -> Progress:
        columns = _bar_columns(self._console.width) if line.total else _spinner_columns()
        row = Progress(*columns, console=self._console, get_time=self._clock, expand=True)
        description = f"{line.status}:" if line.total else line.status
        row.add_task(description, total=line.total or None, completed=line.completed or 0)
        return row


class _RateColumn(TransferSpeedColumn):
    """Bytes per second; empty while they are unknown, and for a step without any time."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.finished_speed or task.speed else Text()


def _spinner_columns() -> tuple[ProgressColumn, ...]:
    return _label(), SpinnerColumn(table_column=Column(ratio=1))


def _bar_columns(width: int) -> tuple[ProgressColumn, ...]:
    """Percentage, bar and bytes; rate and remaining time where *width* has room for them."""

    def column() -> Column:
        return Column(no_wrap=True)

    columns = (
        _label(max_width=width // 2),  # a long status leaves room for the numbers
        TaskProgressColumn(table_column=column()),
        BarColumn(bar_width=None),
        DownloadColumn(table_column=column()),
    )
    if width < ROOM_FOR_RATE:
        return columns
    return (
        *columns,
        _RateColumn(table_column=column()),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True, table_column=column()),
    )


def _label(max_width: int | None = None) -> TextColumn:
    column = Column(no_wrap=True, max_width=max_width, overflow="ellipsis")
    return TextColumn("{task.description}", markup=False, table_column=column)
