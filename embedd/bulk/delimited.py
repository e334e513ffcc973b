"""Tables as text: ``csv`` and ``tsv``, with a header, and quotes around what has line ends."""

import csv
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import BinaryIO, Final

import numpy as np

from embedd.bulk.lines import BOM, Cutter
from embedd.bulk.records import Fault, Record, not_utf8
from embedd.bulk.units import MOST_BYTES, Limits, Range
from embedd.errors import InvalidInputError

DELIMITERS: Final = {"csv": ",", "tsv": "\t"}
# Other delimiters that files have, such as those of a spreadsheet whose numbers have commas.
OTHERS: Final = {",": ";\t"}
STEP: Final = 1000  # records that are counted at a time
# Each byte is a character: records are found before it is known whether they are UTF-8.
BYTES: Final = "latin-1"


def read_header(stream: BinaryIO, delimiter: str) -> tuple[list[str], int, int]:
    """Return the names of the columns, and byte and number of the line after them.

    An empty stream has none.

    Raises:
        InvalidInputError: The header is not valid, is not UTF-8, or has a name twice.
    """
    lines, size = _read_header_lines(stream, delimiter)
    return _to_names(lines, delimiter), size, 1 + len(lines)


def read_first_header(stream: BinaryIO, delimiter: str) -> tuple[list[str], str, int]:
    """Return the names of the columns, the delimiter, and the number of the line after them.

    The delimiter is one of `OTHERS` if the header is one field with *delimiter* and several with
    that one; the rest is as in `read_header`.
    """
    lines, _ = _read_header_lines(stream, delimiter)
    delimiter = _choose_delimiter(lines, delimiter)
    return _to_names(lines, delimiter), delimiter, 1 + len(lines)


def _read_header_lines(stream: BinaryIO, delimiter: str) -> tuple[Sequence[bytes], int]:
    """Return the lines of the header without a byte order mark, and their bytes with it."""
    lines = _read_lines(stream)
    first = next(lines, b"")
    text = first.removeprefix(BOM)
    _, header = next(_parse(chain([text] if first else [], lines), delimiter), ([], []))
    return header, len(first) - len(text) + sum(map(len, header))


def _choose_delimiter(header: Sequence[bytes], delimiter: str) -> str:
    def count(one: str) -> int:
        fields, _ = next(_parse(header, one), ([], []))
        return 0 if isinstance(fields, Fault) else len(fields)

    if count(delimiter) != 1:
        return delimiter
    found: str = max([delimiter, *OTHERS.get(delimiter, "")], key=count)
    return found


def _to_names(header: Sequence[bytes], delimiter: str) -> list[str]:
    """Return the names of the columns in the lines of the *header*; no lines have none."""
    fields, _ = next(_parse(header, delimiter), ([], []))
    if not header:
        return []
    if isinstance(fields, Fault):
        raise InvalidInputError(f"the table has no header: {fields}")
    names = [_to_text(field) for field in fields]
    if not names:
        raise InvalidInputError("the header has no names: the first line is empty")
    if fault := next((name for name in names if isinstance(name, Fault)), None):
        raise InvalidInputError(f"the header is {fault}")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidInputError(f"two columns are {twice!r}: give each a name of its own")
    return [str(name) for name in names]


def scan_delimited(stream: BinaryIO, limits: Limits, delimiter: str) -> Iterator[Range]:
    """Cut the records of *stream* into ranges; a record may have several lines."""
    _, start, line = read_header(stream, delimiter)
    stream.seek(start)
    cutter = Cutter(limits, start=start, line=line)
    ends: list[tuple[int, int]] = []
    for _, lines in _parse(_read_lines(stream), delimiter):
        start += sum(map(len, lines))
        line += len(lines)
        ends.append((start, line))
        if len(ends) == STEP:
            yield from cutter.add(*np.array(ends, np.int64).T)
            ends.clear()
    if ends:
        yield from cutter.add(*np.array(ends, np.int64).T)
    yield from cutter.finish()


def read_delimited(
    data: bytes, names: Sequence[str], delimiter: str, *, line: int
) -> Iterator[Record]:
    """The records in *data*, whose first line has the number *line*; empty ones are passed over."""
    for number, (fields, lines) in enumerate(_parse(_cut(data), delimiter)):
        if fields != []:
            yield Record(row=number, line=line, values=_to_values(fields, names))
        line += len(lines)


def split_records(stream: BinaryIO, delimiter: str | None) -> Iterator[tuple[bytes, int]]:
    """Yield the bytes of each record and how many lines it has; without *delimiter* of each line.

    Raises:
        InvalidInputError: A line has more than `MOST_BYTES`.
    """
    if delimiter is None:
        yield from ((line, 1) for line in _read_lines(stream))
        return
    for _, lines in _parse(_read_lines(stream), delimiter):
        yield b"".join(lines), len(lines)


def _to_values(fields: list[str] | Fault, names: Sequence[str]) -> "dict[str, str] | Fault":
    if isinstance(fields, Fault):
        return fields
    if len(fields) != len(names):
        noun = "field" if len(fields) == 1 else "fields"
        return Fault(f"the record has {len(fields)} {noun}, and the header {len(names)}")
    values: dict[str, str] = {}
    for name, field in zip(names, fields, strict=True):
        text = _to_text(field)
        if isinstance(text, Fault):
            return Fault(f"column {name!r} is {text}")
        values[name] = text
    return values


def _to_text(field: str) -> str | Fault:
    if field.isascii():
        return field
    try:
        return field.encode(BYTES).decode()
    except UnicodeDecodeError as error:
        return not_utf8(error)


def _parse(
    lines: Iterable[bytes], delimiter: str
) -> Iterator[tuple[list[str] | Fault, Sequence[bytes]]]:
    """Yield each record with its lines.

    One that is not valid, or whose last quote is not closed before the end, is a fault of its
    first line, and the next begins on the line after that: a stray quote takes no other rows.
    """
    csv.field_size_limit(MOST_BYTES)  # of the whole process; nothing else here reads CSV
    source = iter(lines)
    again: deque[bytes] = deque()
    while True:
        records = _Records(chain(_drain(again), source), delimiter)
        yield from records
        if records.faulty is None:
            return
        fault, taken = records.faulty
        again.extendleft(reversed(taken[1:]))
        yield fault, taken[:1]


def _drain(lines: deque[bytes]) -> Iterator[bytes]:
    while lines:
        yield lines.popleft()


class _Records:
    """The records in *lines* up to the first that is not valid, which is `faulty` then."""

    def __init__(self, lines: Iterable[bytes], delimiter: str) -> None:
        self._lines = lines
        self._delimiter = delimiter
        self._taken: list[bytes] = []
        self._is_end = False
        self.faulty: tuple[Fault, list[bytes]] | None = None

    def __iter__(self) -> Iterator[tuple[list[str], Sequence[bytes]]]:
        reader = csv.reader(self._take(), delimiter=self._delimiter)
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                what = str(error)
                if what.startswith("new-line character"):
                    what = "it has a carriage return outside quotes, and no newline behind that"
                self.faulty = Fault(f"the record is not valid: {what}"), self._taken
                return
            if self._is_end:  # only within quotes a reader asks for more than a line
                self.faulty = Fault("the record is not valid: a quote is not closed"), self._taken
                return
            yield fields, self._taken
            self._taken = []

    def _take(self) -> Iterator[str]:
        for line in self._lines:
            self._taken.append(line)
            yield line.decode(BYTES)
        self._is_end = True


def _read_lines(stream: BinaryIO) -> Iterator[bytes]:
    while line := stream.readline(MOST_BYTES + 1):
        if len(line) > MOST_BYTES:
            raise InvalidInputError(f"a line has more than {MOST_BYTES} bytes: divide it")
        yield line


def _cut(data: bytes) -> list[bytes]:
    """The lines of *data*, which end at a newline alone."""
    lines = [one + b"\n" for one in data.split(b"\n")]
    last = lines.pop().removesuffix(b"\n")
    return [*lines, last] if last else lines
