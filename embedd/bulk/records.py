"""Rows as text formats have them, and rows that fail."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class Fault(str):
    """Why a row cannot be read."""

    __slots__ = ()


def not_utf8(error: UnicodeDecodeError) -> Fault:
    """Return the fault of a text that is of another encoding."""
    return Fault(
        f"not UTF-8: {error.reason} at byte {error.start}: convert the file, if it is Latin-1 "
        "with iconv -f latin1 -t utf8"
    )


class Record(NamedTuple):
    """A row of a text format.

    Args:
        row: Its number in the unit.
        line: Number of its first line in the file, from 1; 0 in formats without lines.
        values: By the names of its columns, or why there are none.
        file: Where each row has one of its own.
    """

    row: int
    line: int
    values: Mapping[str, Any] | Fault
    file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A row without a vector: a line of ``errors.jsonl``.

    Args:
        row: Its number over all inputs.
        line: Number of its line in *file*, from 1; None in formats without lines.
        id: Its id, where it has one that could be read.
        tokens: Of its text, where that is too long.
        limit: What *tokens* exceed.
    """

    file: str
    row: int
    line: int | None = None
    id: Any = None
    error: str
    tokens: int | None = None
    limit: int | None = None

    def __str__(self) -> str:
        """Where the row is and why it failed, for people."""
        place = f"row {self.row} of all inputs" if self.line is None else f"line {self.line}"
        return f"{self.file}, {place}: {self.error}"
