"""Tables, sizes and times as Ollama's command line prints them."""

import math
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

GAP: Final = 4
NARROW_GAP: Final = 2
# Wider than any table: a column is never cut or wrapped, neither on a terminal nor in a pipe.
_WIDTH: Final = 1 << 20
_UNITS: Final = ("B", "KB", "MB", "GB", "TB")
_HOUR: Final = 3600
_FOREVER: Final = timedelta(days=20 * 365)


def terminal_width() -> int | None:
    """Columns of the terminal; None if stdout is not one."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def fit_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    width: int | None,
    less_important: Sequence[str] = (),
) -> str:
    """A table that fits in *width* columns, as far as can be.

    First the gaps shrink, then the columns *less_important* go, one after the other; a pipe
    (None) gets all.
    """
    table: list[Sequence[str]] = list(rows)
    text = format_table(header, table)
    for title in (None, *less_important):
        if width is None or all(len(line) <= width for line in text.splitlines()):
            return text
        if title is not None:
            place = header.index(title)
            table = [(*row[:place], *row[place + 1 :]) for row in table]
            header = (*header[:place], *header[place + 1 :])
        text = format_table(header, table, NARROW_GAP)
    return text


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]], gap: int = GAP) -> str:
    """Lines of left-aligned columns without trailing blanks, colours or markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for title in header:
        table.add_column(Text(title), no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(width=_WIDTH, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def format_size(size: int) -> str:
    """Decimal units: ``45 MB`` (rounded down) from 10 up, ``1.2 GB`` below, ``2 KB`` if whole."""
    power = min(max(len(str(size)) - 1, 0) // 3, len(_UNITS) - 1)
    value = size / 1000**power
    number = f"{int(value)}" if value >= 10 or value.is_integer() else f"{value:.1f}"
    return f"{number} {_UNITS[power]}"


def format_processor(size: int, size_vram: int) -> str:
    """Where a model of *size* bytes is in memory, *size_vram* of them on the GPU."""
    if size_vram == 0:
        return "100% CPU"
    if size_vram == size:
        return "100% GPU"
    if size_vram > size:
        return "Unknown"
    cpu = math.floor((size - size_vram) / size * 100 + 0.5)
    return f"{cpu}%/{100 - cpu}% CPU/GPU"


def format_moment(moment: datetime, now: datetime) -> str:
    """``2 weeks ago``, ``4 minutes from now``; ``Forever`` from 20 years ahead."""
    ahead = moment - now
    if ahead > _FOREVER:
        return "Forever"
    if ahead > timedelta():
        return f"{format_duration(ahead)} from now"
    return f"{format_duration(-ahead)} ago"


def format_until(expires_at: datetime, now: datetime) -> str:
    """When a model is unloaded; one in the past is finishing its last requests."""
    return "Stopping..." if expires_at < now else format_moment(expires_at, now)


def format_duration(duration: timedelta) -> str:
    """The largest unit that fits, in words; hours are rounded, other units rounded down."""
    seconds = int(duration.total_seconds())
    minutes = seconds // 60
    hours = math.floor(duration.total_seconds() / _HOUR + 0.5)
    if minutes < 60:
        return _format_short(seconds, minutes)
    if hours == 1:
        return "About an hour"
    days = hours // 24
    steps = (
        (hours < 48, hours, "hours"),
        (days < 14, days, "days"),
        (days < 60, days // 7, "weeks"),
        (days < 2 * 365, days // 30, "months"),
        (True, days // 365, "years"),
    )
    return next(f"{count} {unit}" for fits, count, unit in steps if fits)


def _format_short(seconds: int, minutes: int) -> str:
    if seconds < 1:
        return "Less than a second"
    if seconds == 1:
        return "1 second"
    if minutes < 1:
        return f"{seconds} seconds"
    return "About a minute" if minutes == 1 else f"{minutes} minutes"
