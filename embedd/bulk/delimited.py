"""Tables as text: ``csv`` and ``tsv``, with a header, and quotes around what has line ends."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np

from embedd.bulk.lines import BOM, Cutter
from embedd.bulk.records import Fault, Record
from embedd.bulk.units import MOST_BYTES, Limits, Range
from embedd.errors import InvalidInputError

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

DELIMITERS: Final = {"csv": ",", "tsv": "\t"}
STEP: Final = 1000  # records that are counted at a time
# Each byte is a character: records are found before it is known whether they are UTF-8.
BYTES: Final = "latin-1"


class _Lines:
    """The lines of a stream as texts; counts bytes."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self.position = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.position += len(line)
        return line.decode(BYTES)


def read_header(stream: BinaryIO, delimiter: str) -> tuple[list[str], int, int]:
    """Return the names of the columns, and byte and number of the line after them.

    Raises:
        InvalidInputError: The header is missing or is not UTF-8.
    """
    lines = _Lines(_read_lines(stream))
    reader = _open(lines, delimiter)
    try:
        fields = next(reader)
    except (StopIteration, csv.Error) as error:
        why = str(error) or "the file is empty"
        raise InvalidInputError(f"the table has no header: {why}") from error
    if fields:
        fields[0] = fields[0].removeprefix(BOM.decode(BYTES)).strip('"')
    names = [_to_text(field) for field in fields]
    if not names or any(isinstance(name, Fault) for name in names):
        raise InvalidInputError("the header has no names in UTF-8")
    return [str(name) for name in names], lines.position, reader.line_num + 1


def scan_delimited(stream: BinaryIO, limits: Limits, delimiter: str) -> Iterator[Range]:
    """Cut the records of *stream* into ranges; a record may have several lines."""
    _, start, line = read_header(stream, delimiter)
    stream.seek(start)
    lines = _Lines(_read_lines(stream))
    reader = _open(lines, delimiter)
    cutter = Cutter(limits, start=start, line=line)
    ends: list[tuple[int, int]] = []
    for _ in _parse(reader):
        ends.append((start + lines.position, line + reader.line_num))
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
    reader = _open(_Lines(_cut(data)), delimiter)
    before = 0
    for number, fields in enumerate(_parse(reader)):
        first, before = line + before, reader.line_num
        if fields == []:
            continue
        yield Record(row=number, line=first, values=_to_values(fields, names))


def split_records(stream: BinaryIO, delimiter: str | None) -> Iterator[tuple[bytes, int]]:
    """Yield the bytes of each record and how many lines it has; without *delimiter* of each line.

    Raises:
        InvalidInputError: A line has more than `MOST_BYTES`.
    """
    if delimiter is None:
        yield from ((line, 1) for line in _read_lines(stream))
        return
    taken: list[bytes] = []

    def remember() -> Iterator[bytes]:
        for line in _read_lines(stream):
            taken.append(line)
            yield line

    for _ in _parse(_open(_Lines(remember()), delimiter)):
        yield b"".join(taken), len(taken)
        taken.clear()


def _to_values(fields: list[str] | Fault, names: Sequence[str]) -> "dict[str, str] | Fault":
    if isinstance(fields, Fault):
        return fields
    if len(fields) != len(names):
        return Fault(f"the record has {len(fields)} fields, and the header {len(names)}")
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
        return Fault(f"not UTF-8: {error.reason} at byte {error.start}")


def _open(lines: _Lines, delimiter: str) -> "CsvReader":
    csv.field_size_limit(MOST_BYTES)  # of the whole process; nothing else here reads CSV
    return csv.reader(lines, delimiter=delimiter)


def _parse(reader: "CsvReader") -> Iterator[list[str] | Fault]:
    """The records; one that is not valid is a fault, and the next begins on the line after it."""
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Fault(f"the record is not valid: {error}")


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
