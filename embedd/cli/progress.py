"""What a pull or create does, on stderr: bars on a terminal, a line per step elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import click

from embedd.cli.tables import format_size

SPINNER: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
TICK: Final = 0.1  # seconds, one step of the spinner


class Report(Protocol):
    """What the library or the server tells: the same status means the same step, in bytes."""

    @property
    def status(self) -> str:
        """What is being done."""
        ...

    @property
    def total(self) -> int | None:
        """None or 0 if it is unknown."""
        ...

    @property
    def completed(self) -> int | None:
        """None is 0."""
        ...


class Progress(Protocol):
    """Where reports are shown."""

    def report(self, report: Report) -> None:
        """A step began or went on."""
        ...


@contextmanager
def open_progress() -> Iterator[Progress]:
    """Bars while stderr is a terminal, plain lines otherwise."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True)
    bars = Bars()

    def render() -> Text:
        columns = console.width - 2  # room for the ^C of the terminal, or drawing slips a line
        return Text("\n".join(bars.lines(columns)), no_wrap=True, overflow="crop")

    with Live(get_renderable=render, console=console, refresh_per_second=1 / TICK):
        try:
            yield bars
        finally:
            bars.finish()


class Lines:
    """Each status once, when it begins."""

    def __init__(self) -> None:
        self._last = ""

    def report(self, report: Report) -> None:
        """Print the status if it is a new one."""
        if report.status != self._last:
            click.echo(report.status, err=True)
            self._last = report.status


@dataclass(slots=True)
class _Step:
    """A step of the work, in bytes and seconds of the clock; *total* 0 is unknown."""

    status: str
    started: float
    total: int = 0
    first: int = 0  # what was there already when it began
    completed: int = 0
    done: bool = False

    @property
    def is_done(self) -> bool:
        return self.done or 0 < self.total <= self.completed


class Bars:
    """The steps so far as lines for a terminal; reported to and drawn by different threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steps: list[_Step] = []

    def report(self, report: Report) -> None:
        """Begin a step, or bring the present one forward."""
        completed = report.completed or 0
        if not self._steps or self._steps[-1].status != report.status:
            self.finish()
            self._steps.append(_Step(report.status, started=self._clock(), first=completed))
        step = self._steps[-1]
        step.total = report.total or 0
        step.completed = completed

    def finish(self) -> None:
        """End the present step: its line stands still."""
        if self._steps:
            self._steps[-1].done = True

    def lines(self, columns: int) -> list[str]:
        """One line per step, at most *columns* wide where the status allows it."""
        now = self._clock()
        return [_format_step(step, now, columns) for step in self._steps]


def _format_step(step: _Step, now: float, columns: int) -> str:
    seconds = now - step.started
    if step.total:
        rate = (step.completed - step.first) / seconds if seconds > 0 else 0.0
        return format_bar(
            f"{step.status}:", step.completed, step.total, 0.0 if step.is_done else rate, columns
        )
    if step.is_done:
        return step.status
    return f"{step.status} {SPINNER[int(seconds / TICK) % len(SPINNER)]}"


def format_bar(label: str, completed: int, total: int, rate: float, columns: int) -> str:
    """``<label>  45% ▕████    ▏  20 MB/ 45 MB   12 MB/s      2s``, *columns* wide.

    *rate* is in bytes a second. A finished bar shows the total only.
    """
    share = min(completed / total, 1.0)
    size = f"{format_size(total):>6}"
    sizes = f"{size}{'':7}" if completed >= total else f"{format_size(completed):>6}/{size}"
    speed = ""
    if rate > 0:
        remaining = _format_remaining((total - completed) / rate)
        speed = f"  {format_size(int(rate)):>6}/s  {remaining:>6}"
    before, after = f"{label} {share * 100:3.0f}%", f"{sizes}{speed:18}"
    if len(before) > columns:
        return f"{label[: max(columns - 5, 0)].removesuffix(':')} {share * 100:3.0f}%"
    width = max(columns - len(before) - len(after) - 5, 0)  # 5: the frame and its blanks
    full = int(width * share)
    return f"{before} ▕{'█' * full}{' ' * (width - full)}▏ {after}"


def _format_remaining(seconds: float) -> str:
    whole = int(seconds)
    minutes, hours = whole // 60, whole // 3600
    if hours >= 100:
        return "99h+"
    if hours:
        return f"{hours}h{minutes % 60}m"
    return f"{minutes}m{whole % 60}s" if minutes else f"{whole}s"
