"""`Unit`: a range of rows of one source, the piece of work that becomes one part."""

from dataclasses import dataclass
from typing import Final

MOST_ROWS: Final = 50_000
MOST_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How large a unit may be; a row that is larger alone is a unit of its own."""

    rows: int = MOST_ROWS
    bytes: int = MOST_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Rows that follow each other in a source.

    Args:
        start: First byte, decompressed, of a text format; else the first row or document.
        end: The one after the last.
        rows: How many; lines without content count here and give no row.
        line: Number of the first line, from 1; 0 in formats without lines.
        size: Bytes of text, estimated where the format does not say.
    """

    start: int
    end: int
    rows: int
    line: int = 0
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A range of a source, with its place in the job.

    Args:
        part: Number of the part that it becomes.
        source: Index of its source.
        first_row: Number of its first row over all inputs.
    """

    part: int
    source: int
    first_row: int
    range: Range
