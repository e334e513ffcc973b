"""The rows of a unit, of any format: texts, numbers, and the columns that are carried along."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, takewhile
from typing import Any, BinaryIO, Final, Protocol, TypeAlias

from embedd.bulk.columns import STRING, TEXT, Column, Selection, find_misfit, infer_columns
from embedd.bulk.delimited import (
    DELIMITERS,
    read_delimited,
    read_first_header,
    read_header,
    scan_delimited,
)
from embedd.bulk.lines import read_json_lines, read_text_lines, scan_lines
from embedd.bulk.records import Failure, Fault, Record, not_utf8
from embedd.bulk.sources import LINE_FORMATS, Format, Source, has_arrow
from embedd.bulk.streams import HEAD, Cursor, check_text, open_stream
from embedd.bulk.units import MOST_BYTES, Limits, Range, Unit
from embedd.errors import ExtraMissingError, InvalidInputError

SAMPLE_ROWS: Final = 1000  # of JSON lines, of which the columns are known
SAMPLE_BYTES: Final = 8 << 20
SAMPLE_BLOCK: Final = 1 << 18
FILE: Final = "file"  # a column of documents
MOST_NAMES: Final = 20  # of fields that are left out

# Values of a column: Python's, or an array of Arrow where the input is one.
Values: TypeAlias = Sequence[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What is read of a unit.

    Args:
        numbers: Over all inputs, ascending.
        lines: Numbers of lines in the file; None where there are none.
        files: Of rows that have one each; None: all are of *file*.
        kept: The columns that are carried along, as long as *texts*.
        id: The name of the one that has the ids of rows; None: their numbers are.
        failures: Rows that cannot be read; they are in none of the others.
        left_out: Some of the fields that rows have and the output has not.
    """

    file: str
    numbers: Sequence[int]
    lines: Sequence[int] | None = None
    texts: Sequence[str]
    kept: Mapping[str, Values]
    files: Sequence[str] | None = None
    id: str | None = None
    failures: Sequence[Failure] = field(default_factory=list)
    left_out: Sequence[str] = ()

    def file_of(self, row: int) -> str:
        """Return the file of the row of this index."""
        return self.file if self.files is None else self.files[row]

    def id_of(self, row: int) -> Any:
        """Return the id of the row of this index; None if rows have none of their own."""
        if self.id is None:
            return None
        values = self.kept[self.id]
        if hasattr(values, "take"):  # an array of Arrow
            from embedd.bulk import tables  # noqa: PLC0415 - needs an extra

            return tables.to_plain(values, row)
        return values[row]


class Reader(Protocol):
    """Reads units of one source; quickest if they come in order."""

    def read(self, unit: Unit) -> Rows:
        """Return the rows of *unit*."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def scan(source: Source, limits: Limits, texts: Sequence[str]) -> Iterable[Range]:
    """Cut *source* into ranges; memory does not grow with it.

    Args:
        texts: The columns of which the text is made: their bytes count.
    """
    if source.format is Format.MD:
        return _scan_documents(source, limits)
    if source.format in LINE_FORMATS:
        return _scan_stream(source, limits)
    from embedd.bulk import tables  # noqa: PLC0415 - needs an extra

    return tables.scan(source, limits, texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What is known of a source without reading it.

    Args:
        source: With its delimiter, if that is not the one of its format.
        columns: Those of JSON lines are found in the first rows.
        has_rows: Whether there are any, valid or not.
    """

    source: Source
    columns: tuple[Column, ...]
    has_rows: bool


def read_head(source: Source) -> Head:
    """Return what the beginning of *source* says, or the end where the format has that there.

    Raises:
        InvalidInputError: It cannot be read.
        ExtraMissingError: What reads it is not installed.
    """
    if source.format is Format.MD:
        columns = (Column(name=TEXT, type=STRING), Column(name=FILE, type=STRING))
        return Head(source=source, columns=columns, has_rows=True)
    if source.format in LINE_FORMATS:
        with open_stream(source.path) as stream:
            check_text(stream.read(HEAD), source.path)
            stream.seek(0)
            return _read_text_head(source, stream)
    if not has_arrow():
        raise ExtraMissingError(f"the input {source.path}", "bulk")
    from embedd.bulk import tables  # noqa: PLC0415 - needs an extra

    found, has_rows = tables.read_head(source)
    return Head(source=source, columns=tuple(found), has_rows=has_rows)


def _read_text_head(source: Source, stream: BinaryIO) -> Head:
    if source.format is Format.JSONL:
        data = _read_sample(stream)
        records = islice(read_json_lines(data, line=1), SAMPLE_ROWS)
        found = infer_columns(one.values for one in records if not isinstance(one.values, Fault))
        return Head(source=source, columns=tuple(found), has_rows=bool(data))
    if source.format is Format.TXT:
        columns = (Column(name=TEXT, type=STRING),)
        return Head(source=source, columns=columns, has_rows=bool(stream.read(1)))
    usual = DELIMITERS[source.format]
    try:
        names, delimiter, _ = read_first_header(stream, usual)
    except InvalidInputError as error:
        raise InvalidInputError(f"{source.path}: {error}") from error
    return Head(
        source=source if delimiter == usual else replace(source, delimiter=delimiter),
        columns=tuple(Column(name=name, type=STRING) for name in names),
        has_rows=bool(stream.read(1)),
    )


def _read_sample(stream: BinaryIO) -> bytes:
    """Return the first lines of *stream*, some more than `SAMPLE_ROWS` if there are as many."""
    data = b""
    while len(data) < SAMPLE_BYTES and data.count(b"\n") < SAMPLE_ROWS:
        block = stream.read(SAMPLE_BLOCK)
        if not block:
            return data
        data += block
    return data[: data.rfind(b"\n") + 1] or data


def check_head(source: Source) -> None:
    """Check that a file of a text format begins like a text.

    Raises:
        InvalidInputError: It does not.
    """
    if source.format in LINE_FORMATS:
        with open_stream(source.path) as stream:
            check_text(stream.read(HEAD), source.path)


def open_reader(source: Source, selection: Selection, *, typed: bool) -> Reader:
    """Return a reader of *source*.

    Args:
        typed: Whether the output has types, which columns that are carried along must fit.
    """
    if source.format is Format.MD:
        return DocumentReader(source, selection)
    if source.format in LINE_FORMATS:
        return LineReader(source, selection, typed=typed)
    from embedd.bulk import tables  # noqa: PLC0415 - needs an extra

    return tables.TableReader(source, selection, typed=typed)


class LineReader:
    """Reads ``txt``, ``jsonl``, ``csv`` and ``tsv``."""

    def __init__(self, source: Source, selection: Selection, *, typed: bool) -> None:
        self._source = source
        self._selection = selection
        self._typed = typed
        self._cursor = Cursor(source.path)
        self._names: list[str] = []

    def read(self, unit: Unit) -> Rows:
        """See `Reader`; a row that is longer than a unit may be is not read."""
        size = unit.range.end - unit.range.start
        if unit.range.rows == 1 and size > MOST_BYTES:
            fault = Fault(f"the row has {size} bytes, the limit is {MOST_BYTES}")
            records: Iterable[Record] = [Record(row=0, line=unit.range.line, values=fault)]
        else:
            data = self._cursor.read(unit.range.start, size)
            records = takewhile(
                lambda one: one.row < unit.range.rows, self._parse(data, unit.range.line)
            )
        return collect(records, unit, self._source.path, self._selection, typed=self._typed)

    def close(self) -> None:
        """See `Reader`."""
        self._cursor.close()

    def _parse(self, data: bytes, line: int) -> Iterable[Record]:
        form = self._source.format
        if form is Format.TXT:
            return read_text_lines(data, line=line)
        if form is Format.JSONL:
            return read_json_lines(data, line=line)
        if not self._names:
            with open_stream(self._source.path) as stream:
                self._names, _, _ = read_header(stream, _delimiter_of(self._source))
        return read_delimited(data, self._names, _delimiter_of(self._source), line=line)


class DocumentReader:
    """Reads documents, each of which is a row."""

    def __init__(self, source: Source, selection: Selection) -> None:
        self._source = source
        self._selection = selection

    def read(self, unit: Unit) -> Rows:
        """See `Reader`."""
        files = self._source.files[unit.range.start :][: unit.range.rows]
        records = (
            Record(row=number, line=0, values=_read_document(file.path), file=file.path)
            for number, file in enumerate(files)
        )
        return collect(records, unit, files[0].path, self._selection, typed=False)

    def close(self) -> None:
        """See `Reader`; nothing is open."""


def collect(
    records: Iterable[Record], unit: Unit, file: str, selection: Selection, *, typed: bool
) -> Rows:
    """Return the rows that *records* give, and the failures among them."""
    numbers: list[int] = []
    lines: list[int] = []
    files: list[str] = []
    texts: list[str] = []
    kept: dict[str, list[Any]] = {column.name: [] for column in selection.keep}
    failures: list[Failure] = []
    known, left_out = set(selection.columns), dict[str, None]()
    for record in records:
        number, values = unit.first_row + record.row, record.values
        fault = values if isinstance(values, Fault) else None
        text = "" if isinstance(values, Fault) else selection.make_text(values)
        if isinstance(text, Fault):
            fault = text
        elif typed and not isinstance(values, Fault):
            fault = find_misfit(values, selection.keep)
        if fault is not None or isinstance(values, Fault):
            own = None if isinstance(values, Fault) else values.get(selection.id or "")
            line, place = record.line or None, record.file or file
            failures.append(Failure(file=place, row=number, line=line, id=own, error=str(fault)))
            continue
        numbers.append(number)
        lines.append(record.line)
        if record.file is not None:
            files.append(record.file)
        texts.append(text)
        for name, column in kept.items():
            column.append(values.get(name))
        if len(left_out) < MOST_NAMES and not known.issuperset(values):
            left_out.update((name, None) for name in values if name not in known)
    has_lines = unit.range.line > 0
    return Rows(
        file=file,
        numbers=numbers,
        lines=lines if has_lines else None,
        texts=texts,
        kept=kept,
        files=files or None,
        id=selection.id,
        failures=failures,
        left_out=list(left_out)[:MOST_NAMES],
    )


def _read_document(path: str) -> Mapping[str, Any] | Fault:
    with open_stream(path) as stream:
        data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        return Fault(f"the document has more than {MOST_BYTES} bytes")
    try:
        return {TEXT: data.decode("utf-8-sig"), FILE: path}
    except UnicodeDecodeError as error:
        return not_utf8(error)


def _scan_stream(source: Source, limits: Limits) -> Iterable[Range]:
    with open_stream(source.path) as stream:
        if source.format in DELIMITERS:
            yield from scan_delimited(stream, limits, _delimiter_of(source))
        else:
            yield from scan_lines(stream, limits)


def _delimiter_of(source: Source) -> str:
    return source.delimiter or DELIMITERS[source.format]


def _scan_documents(source: Source, limits: Limits) -> Iterable[Range]:
    start = size = 0
    for number, file in enumerate(source.files):
        if number > start and (size + file.size > limits.bytes or number - start == limits.rows):
            yield Range(start=start, end=number, rows=number - start, size=size)
            start, size = number, 0
        size += file.size
    yield Range(start=start, end=len(source.files), rows=len(source.files) - start, size=size)
