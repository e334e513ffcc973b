"""Tables, sizes and times as Ollama's command line prints them."""

import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

GAP: Final = 4
# Wider than any table: a column is never cut or wrapped, neither on a terminal nor in a pipe.
_WIDTH: Final = 1 << 20
_UNITS: Final = ("B", "KB", "MB", "GB", "TB")
_HOUR: Final = 3600
_FOREVER: Final = timedelta(days=20 * 365)


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of left-aligned columns without trailing blanks, colours or markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False)
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
