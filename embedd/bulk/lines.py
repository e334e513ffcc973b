"""Formats with a row on each line: ``txt`` and ``jsonl``."""

from collections.abc import Iterator
from typing import Any, BinaryIO, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from embedd.bulk.records import Fault, Record, not_utf8
from embedd.bulk.units import Limits, Range

Numbers: TypeAlias = npt.NDArray[np.int64]

BLOCK: Final = 1 << 20
NEWLINE: Final = 10
BOM: Final = b"\xef\xbb\xbf"
TEXT: Final = "text"  # the one column of a text file

_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


def scan_lines(stream: BinaryIO, limits: Limits) -> Iterator[Range]:
    """Cut *stream* into ranges of whole lines; memory does not grow with it or with a line."""
    cutter = Cutter(limits)
    position = 0
    while block := stream.read(BLOCK):
        ends = np.flatnonzero(np.frombuffer(block, np.uint8) == NEWLINE) + (position + 1)
        position += len(block)
        yield from cutter.add(ends)
    yield from cutter.finish(position)


class Cutter:
    """Cuts rows, of which it is given the ends, into ranges.

    Args:
        start: Where the first row begins.
        line: The number of its line.
    """

    def __init__(self, limits: Limits, *, start: int = 0, line: int = 1) -> None:
        self._limits = limits
        self._start = self._end = start
        self._line = self._next_line = line
        self._rows = 0

    def add(self, ends: Numbers, lines: Numbers | None = None) -> Iterator[Range]:
        """Add rows that end before the bytes *ends*; yield the ranges that are full.

        Args:
            lines: The number of the line after each row; None: each row is a line.
        """
        done = 0
        while done < len(ends):
            fitting = int(np.searchsorted(ends, self._start + self._limits.bytes, side="right"))
            last = min(fitting, done + self._limits.rows - self._rows)
            if last <= done:
                if self._rows:
                    yield self._cut()
                    continue
                last = done + 1  # a row that is too long is a range of its own
            self._rows += last - done
            self._end = int(ends[last - 1])
            self._next_line = (
                self._next_line + last - done if lines is None else int(lines[last - 1])
            )
            done = last
            if self._rows == self._limits.rows:
                yield self._cut()

    def finish(self, size: int = 0) -> Iterator[Range]:
        """Yield the last ranges of a stream of *size* bytes, whose last line may have no end."""
        if size > self._end:
            yield from self.add(np.array([size], np.int64))
        if self._rows:
            yield self._cut()

    def _cut(self) -> Range:
        size = self._end - self._start
        cut = Range(start=self._start, end=self._end, rows=self._rows, line=self._line, size=size)
        self._start, self._line, self._rows = self._end, self._next_line, 0
        return cut


def read_text_lines(data: bytes, *, line: int) -> Iterator[Record]:
    """The rows of a text file: each line is one, empty or not; the first has the number *line*."""
    for number, text in enumerate(_split(data, is_first=line == 1)):
        try:
            yield Record(row=number, line=line + number, values={TEXT: text.decode()})
        except UnicodeDecodeError as error:
            yield Record(row=number, line=line + number, values=not_utf8(error))


def read_json_lines(data: bytes, *, line: int) -> Iterator[Record]:
    """The rows of a file of JSON lines: an object each; lines without content are passed over."""
    for number, text in enumerate(_split(data, is_first=line == 1)):
        if not text.strip():
            continue
        yield Record(row=number, line=line + number, values=_parse_object(text))


def _split(data: bytes, *, is_first: bool) -> list[bytes]:
    if is_first:
        data = data.removeprefix(BOM)
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return [one.removesuffix(b"\r") for one in lines]


def _parse_object(text: bytes) -> dict[str, Any] | Fault:
    try:
        return _decode_object(text)
    except msgspec.ValidationError as error:
        if not text.lstrip().startswith(b"{"):
            return Fault("the line is not a JSON object")
        return Fault(f"the line is not valid JSON: {str(error).partition(' - at ')[0]}")
    except msgspec.DecodeError as error:
        return Fault(f"the line is not valid JSON: {error}")
    except UnicodeDecodeError as error:
        return not_utf8(error)
    except RecursionError:
        return Fault("the line is not valid JSON: it is nested too deeply")
