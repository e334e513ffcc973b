"""Rows from a stream, which is read once: units are cut while it is read."""

import io
import os
import select
from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO, Final

from embedd.bulk.columns import STRING, TEXT, Column, Selection, infer_columns
from embedd.bulk.delimited import (
    DELIMITERS,
    read_delimited,
    read_first_header,
    split_records,
)
from embedd.bulk.lines import read_json_lines, read_text_lines
from embedd.bulk.reading import SAMPLE_ROWS, Rows, collect
from embedd.bulk.records import Fault, Record
from embedd.bulk.sources import LINE_FORMATS, Format
from embedd.bulk.streams import check_text
from embedd.bulk.units import Limits, Range, Unit
from embedd.errors import InvalidInputError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

NAME: Final = "stdin"


class ReadingStoppedError(Exception):
    """`Interruptible.interrupt` was called while a read waited for data."""


class Interruptible(io.RawIOBase):
    """The bytes of a pipe or a terminal; a read that waits for them can be ended.

    A thread that waits in the system's own read cannot, and the process waits for that thread.

    Args:
        descriptor: What is read; it stays open.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._ended, self._end = os.pipe()

    def readable(self) -> bool:
        """See `io.IOBase`."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read what is there, or what comes first.

        Raises:
            ReadingStoppedError: Nothing is there, and `interrupt` was called.
        """
        ready, _, _ = select.select([self._descriptor, self._ended], [], [])
        if self._descriptor not in ready:
            raise ReadingStoppedError
        return os.readv(self._descriptor, [buffer])

    def interrupt(self) -> None:
        """Let the read that waits, and each that would, raise `ReadingStoppedError`."""
        os.write(self._end, b".")

    def close(self) -> None:
        """See `io.IOBase`."""
        if not self.closed:
            os.close(self._ended)
            os.close(self._end)
        super().close()


class StreamUnits:
    """The units of a stream with their rows; only the present one is in memory.

    Raises:
        InvalidInputError: *form* is not one of lines, or the stream has no rows.
    """

    def __init__(self, stream: BinaryIO, form: Format, limits: Limits) -> None:
        if form not in LINE_FORMATS:
            raise InvalidInputError(
                f"{form} cannot be read from stdin: give it as a file, or one of "
                f"{', '.join(LINE_FORMATS)}"
            )
        self._form = form
        self._limits = limits
        self._names: list[str] = []
        self._delimiter = DELIMITERS.get(form, "")
        line = 1
        if self._delimiter:
            self._names, self._delimiter, line = read_first_header(stream, self._delimiter)
        self._pieces = self._cut(stream, line)
        first = next(self._pieces, None)
        if first is None:
            raise InvalidInputError("stdin has no rows")
        check_text(first[1], NAME)
        self._first: tuple[Range, bytes] | None = first
        self._rows = 0

    def find_columns(self) -> list[Column]:
        """Return the columns, those of JSON lines as they are in the first rows."""
        if self._form is Format.TXT:
            return [Column(name=TEXT, type=STRING)]
        if self._form is Format.JSONL and self._first is not None:
            records = islice(self._parse(*self._first), SAMPLE_ROWS)
            return infer_columns(one.values for one in records if not isinstance(one.values, Fault))
        return [Column(name=name, type=STRING) for name in self._names]

    def iterate(
        self, selection: Selection, *, typed: bool, limit: int | None = None
    ) -> Generator[tuple[Unit, Rows], None, None]:
        """Yield the units with their rows, up to *limit* rows.

        Args:
            typed: See `embedd.bulk.reading.open_reader`.
        """
        part = 0
        while self._first is not None and (limit is None or self._rows < limit):
            one, data = self._first
            if limit is not None and self._rows + one.rows > limit:
                rows = limit - self._rows
                one = Range(start=0, end=0, rows=rows, line=one.line, size=one.size)
            unit = Unit(part=part, source=0, first_row=self._rows, range=one)
            records = (record for record in self._parse(one, data) if record.row < unit.range.rows)
            yield unit, collect(records, unit, NAME, selection, typed=typed)
            self._rows += one.rows
            part += 1
            self._first = next(self._pieces, None)

    def _parse(self, one: Range, data: bytes) -> Iterable[Record]:
        if self._form is Format.TXT:
            return read_text_lines(data, line=one.line)
        if self._form is Format.JSONL:
            return read_json_lines(data, line=one.line)
        return read_delimited(data, self._names, self._delimiter, line=one.line)

    def _cut(self, stream: BinaryIO, line: int) -> Iterator[tuple[Range, bytes]]:
        """Yield ranges with their bytes; *line* is the number of the first line."""
        rows: list[bytes] = []
        size = lines = 0
        for row, count in split_records(stream, self._delimiter or None):
            full = len(rows) == self._limits.rows or size + len(row) > self._limits.bytes
            if rows and full:
                yield Range(start=0, end=size, rows=len(rows), line=line, size=size), b"".join(rows)
                line, rows, size, lines = line + lines, [], 0, 0
            rows.append(row)
            size += len(row)
            lines += count
        if rows:
            yield Range(start=0, end=size, rows=len(rows), line=line, size=size), b"".join(rows)
