"""Parquet and Arrow: tables read by ranges of rows, and parts written with typed columns."""

import base64
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from embedd.bulk.columns import (
    ARROW,
    BOOL,
    FLOAT,
    INT,
    JSON,
    NULL,
    STRING,
    VECTOR,
    Column,
    Selection,
)
from embedd.bulk.compute import Numbers
from embedd.bulk.folder import naming
from embedd.bulk.parts import Part
from embedd.bulk.reading import Rows
from embedd.bulk.records import Failure, Fault
from embedd.bulk.sources import Format, Source
from embedd.bulk.stores import is_remote, open_native
from embedd.bulk.streams import open_stream, split_compression
from embedd.bulk.units import Limits, Range, Unit
from embedd.errors import InvalidInputError

Table: TypeAlias = Any  # of pyarrow, which has no types
Array: TypeAlias = Any

GROUP_ROWS: Final = 10_000  # of a row group
BATCH_ROWS: Final = 5_000
# Of vectors: what writes some of them takes as much again.
GROUP_BYTES: Final = 16 << 20
BATCH_BYTES: Final = 8 << 20
_TYPES: Final = {
    BOOL: pa.bool_(),
    INT: pa.int64(),
    FLOAT: pa.float64(),
    STRING: pa.string(),
    JSON: pa.string(),
    NULL: pa.null(),
}
_VIEWS: Final = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


def read_head(source: Source) -> tuple[list[Column], bool]:
    """Return the columns of a table, and whether it has rows.

    Raises:
        InvalidInputError: It cannot be read.
    """
    with _open(source) as table:
        names: list[str] = table.schema.names
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InvalidInputError(
                f"{source.path} has two columns {twice!r}: give each a name of its own"
            )
        return [_describe(field) for field in table.schema], bool(table.rows)


def scan(source: Source, limits: Limits, texts: Sequence[str]) -> Iterator[Range]:
    """Cut a table into ranges of equal numbers of rows, by the mean size of its *texts*."""
    with _open(source) as table:
        rows, size = table.rows, table.measure(texts)
    if not rows:
        return
    step = max(1, min(limits.rows, limits.bytes * rows // max(1, size)))
    for start in range(0, rows, step):
        count = min(step, rows - start)
        yield Range(start=start, end=start + count, rows=count, size=size * count // rows)


class TableReader:
    """Reads ranges of rows of a table; quickest in order."""

    def __init__(self, source: Source, selection: Selection, *, typed: bool) -> None:
        self._source = source
        self._typed = typed
        self._selection = selection
        self._stack = contextlib.ExitStack()
        self._batches: Iterator[Table] | None = None
        self._position = 0
        self._rest: Table = None  # rows that were read and not taken

    def read(self, unit: Unit) -> Rows:
        """See `embedd.bulk.reading.Reader`."""
        start, count = unit.range.start, unit.range.rows
        if self._batches is None or start < self._position:
            self._reopen()
        self._take(start - self._position)
        pieces = self._take(count)
        schema = pieces[0].schema if pieces else None
        return self._collect(unit, pa.Table.from_batches(pieces, schema))

    def close(self) -> None:
        """See `embedd.bulk.reading.Reader`."""
        self._stack.close()
        self._batches = None
        self._rest = None

    def _reopen(self) -> None:
        self.close()
        table = self._stack.enter_context(_open(self._source))
        known = set(table.schema.names)
        self._batches = table.read([name for name in self._selection.columns if name in known])
        self._position = 0

    def _take(self, count: int) -> list[Table]:
        """Return the next *count* rows, as batches."""
        taken: list[Table] = []
        while count > 0:
            batch = self._rest if self._rest is not None else self._read_batch()
            if batch is None:
                raise InvalidInputError(f"{self._source.path} ends early: it has changed")
            taken.append(batch.slice(0, count))
            self._rest = batch.slice(count) if batch.num_rows > count else None
            count -= taken[-1].num_rows
            self._position += taken[-1].num_rows
        return taken

    def _read_batch(self) -> Table:
        """Return the next rows of the file, None at its end."""
        try:
            return next(self._batches or iter(()), None)
        except (pa.ArrowInvalid, OSError) as error:
            raise InvalidInputError(f"{self._source.path} is damaged: {error}") from error

    def _keep(self, table: Table, column: Column) -> Array:
        """Return a *column* of the output, which is null if the table lacks it."""
        if column.name in table.schema.names:
            return self._convert(table[column.name], column)
        target = _parse_type(column.type) if self._typed else pa.null()
        return pa.chunked_array([pa.nulls(table.num_rows, target)])

    def _convert(self, values: Array, column: Column) -> Array:
        """Return *values* of the type that the output has, if it has types.

        Raises:
            InvalidInputError: They have none of that type.
        """
        values = _replace_views(values)
        target = _parse_type(column.type) if self._typed else values.type
        if values.type == target:
            return values
        if column.type == JSON and not _is_castable(values.type, target):
            return pa.chunked_array([_to_json([to_plain(values, n) for n in range(len(values))])])
        try:
            return values.cast(target)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InvalidInputError(
                f"{self._source.path} has column {column.name!r} as {values.type}, which is not "
                f"{target} as in the output ({error}): leave it out with --keep"
            ) from error

    def _collect(self, unit: Unit, table: Table) -> Rows:
        columns = {name: _to_values(table[name]) for name in self._selection.text_columns}
        kept = {one.name: self._keep(table, one) for one in self._selection.keep}
        texts: list[str] = []
        good: list[int] = []
        failures: list[Failure] = []
        names, file, own = list(columns), self._source.path, self._selection.id
        for row, values in enumerate(zip(*columns.values(), strict=True)):
            text = self._selection.make_text(dict(zip(names, values, strict=True)))
            if isinstance(text, Fault):
                key = None if own is None else to_plain(kept[own], row)
                number = unit.first_row + row
                failures.append(Failure(file=file, row=number, id=key, error=str(text)))
            else:
                texts.append(text)
                good.append(row)
        if failures:
            kept = {name: take(values, good) for name, values in kept.items()}
        return Rows(
            file=file,
            numbers=[unit.first_row + row for row in good],
            texts=texts,
            kept={name: values.combine_chunks() for name, values in kept.items()},
            id=own,
            failures=failures,
        )


def join_types(one: str, other: str) -> str | None:
    """Return the type of a column with values of both types; None if there is none."""
    first, second = _parse_type(one), _parse_type(other)
    schemas = [pa.schema([("", kind)]) for kind in (first, second)]
    targets = [pa.string()]
    with contextlib.suppress(pa.ArrowInvalid, pa.ArrowTypeError):
        targets.insert(0, pa.unify_schemas(schemas, promote_options="permissive").field(0).type)
    for target in targets:
        if _is_castable(first, target) and _is_castable(second, target):
            return _describe(pa.field("", target)).type
    return None


def _is_castable(kind: Any, target: Any) -> bool:
    try:
        pa.nulls(0, kind).cast(target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        return False
    return True


def show_type(kind: str) -> str:
    """Return the name of a type of a column."""
    return str(_parse_type(kind))


def holds(kind: str, value: object) -> bool:
    """Whether a column of this type can have *value*, which is one of JSON or CSV."""
    try:
        pa.array([value], _parse_type(kind))
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False
    return True


def _without_views(kind: Any) -> Any:
    """Return the type of the same values that all of Arrow's functions know."""
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _without_views(kind.value_type), kind.ordered)
    return _replace_leaves(kind, lambda leaf: _VIEWS.get(leaf, leaf))


def write_part(path: Path, part: Part, *, as_parquet: bool) -> None:
    """Write *part* as a table, its vectors as ``fixed_size_list``."""
    columns = _to_arrays(part)
    columns[VECTOR] = to_list_array(part.vectors)
    table = pa.table(columns).replace_schema_metadata(_to_metadata(part.facts))
    if as_parquet:
        rows = _fit_rows(table.schema, GROUP_ROWS, GROUP_BYTES)
        with _open_parquet_writer(path, table.schema) as writer:
            writer.write_table(table, row_group_size=rows)
    else:
        table = _decode(table)
        with pa.OSFile(_name(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=GROUP_ROWS)
    _release()


def _decode(table: Table) -> Table:
    """Return *table* without dictionaries: parts have their own, and an Arrow file only one."""
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            values = table.column(index).cast(field.type.value_type)
            table = table.set_column(index, field.name, values)
    return table


def write_ids(file: IO[bytes], part: Part) -> None:
    """Write the columns of *part* but for the vectors as Parquet."""
    table = pa.table(_to_arrays(part)).replace_schema_metadata(_to_metadata(part.facts))
    pq.write_table(table, file, compression="zstd")


def _to_metadata(facts: Mapping[str, str]) -> dict[str, str]:
    return {f"embedd.{key}": fact for key, fact in facts.items()}


def join_parts(
    path: Path, parts: Iterable[Path], facts: Mapping[str, str], *, as_parquet: bool
) -> None:
    """Write one table with the rows of *parts*, some rows in memory at a time.

    Args:
        facts: What made the vectors of all.
    """
    with contextlib.ExitStack() as stack:
        writer = None
        for part in parts:
            with _open_table(_name(part), as_parquet=as_parquet) as table:
                if writer is None:
                    schema = table.schema.with_metadata(_to_metadata(facts))
                    writer = stack.enter_context(
                        _open_parquet_writer(path, schema)
                        if as_parquet
                        else pa.ipc.new_file(_name(path), schema)
                    )
                rows = _fit_rows(table.schema, BATCH_ROWS, BATCH_BYTES)
                for batch in table.read(None, rows):
                    writer.write_batch(batch)
            _release()


def join_ids(path: Path, parts: Iterable[bytes], facts: Mapping[str, str]) -> None:
    """Write one Parquet file with the rows of *parts*, which are Parquet files.

    Args:
        facts: What made the vectors of all.
    """
    with contextlib.ExitStack() as stack:
        writer = None
        for part in parts:
            table = pq.read_table(pa.BufferReader(part))
            if writer is None:
                schema = table.schema.with_metadata(_to_metadata(facts))
                writer = stack.enter_context(
                    pq.ParquetWriter(_name(path), schema, compression="zstd")
                )
            writer.write_table(table)
            _release()


def _fit_rows(schema: Any, most: int, most_bytes: int) -> int:
    """Return how many rows, of *most*, have vectors of *most_bytes* together."""
    vector = schema.field(VECTOR).type
    size: int = vector.list_size * vector.value_type.bit_width // 8
    return max(1, min(most, most_bytes // size))


def _release() -> None:
    """Give memory back that Arrow keeps, which is as much as the largest part took."""
    pa.default_memory_pool().release_unused()


def to_list_array(vectors: Numbers, is_null: npt.NDArray[np.bool_] | None = None) -> Array:
    """Return vectors as ``fixed_size_list`` of their type, without copying them.

    Args:
        is_null: For each vector whether there is none; None: there are all.
    """
    numbers = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    mask = None if is_null is None else pa.array(is_null)
    return pa.FixedSizeListArray.from_arrays(numbers, vectors.shape[1], mask=mask)


def _name(path: Path) -> str:
    """Return *path* as Arrow takes it for the same file: it takes ``~`` for a home."""
    return str(path.absolute())


def _open_parquet_writer(path: Path, schema: Table) -> Any:
    """Byte stream split and zstd without a dictionary: smallest for float32, and quick to read."""
    is_float32 = schema.field(VECTOR).type.value_type == pa.float32()
    leaf = f"{VECTOR}.list.element"
    others = [field.name for field in schema if field.name != VECTOR]
    return pq.ParquetWriter(
        _name(path),
        schema,
        compression="zstd",
        use_dictionary=others or False,
        use_byte_stream_split=[leaf] if is_float32 else False,
    )


def _to_arrays(part: Part) -> dict[str, Array]:
    return {column.name: _to_array(part.values[column.name], column) for column in part.columns}


def _to_array(values: Any, column: Column) -> Array:
    target = _parse_type(column.type)
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values  # of the type already, which `TableReader` has seen to
    if column.type == JSON:
        return _to_json(values)
    if column.type == STRING:
        values = [
            one if one is None or isinstance(one, str) else msgspec.json.encode(one).decode()
            for one in values
        ]
    return pa.array(values, target)


def _to_json(values: Iterable[Any]) -> Array:
    texts = (None if one is None else msgspec.json.encode(one).decode() for one in values)
    return pa.array(texts, pa.string())


def _parse_type(kind: str) -> Any:
    if kind.startswith(ARROW):
        data = base64.b64decode(kind.removeprefix(ARROW))
        return pa.ipc.read_schema(pa.BufferReader(data)).field(0).type
    return _TYPES[kind]


def _describe(field: Any) -> Column:
    field = field.with_type(_without_views(field.type))
    if pa.types.is_large_string(field.type):
        return Column(name=field.name, type=STRING)
    for kind, simple in _TYPES.items():
        if kind != JSON and field.type == simple:
            return Column(name=field.name, type=kind)
    schema = pa.schema([pa.field("", field.type)]).serialize().to_pybytes()
    return Column(name=field.name, type=ARROW + base64.b64encode(schema).decode())


def _replace_views(values: Array) -> Array:
    """Return a column without views of strings, as polars writes them: Arrow takes no rows then."""
    kind, plain = values.type, _without_views(values.type)
    if plain == kind:
        return values
    if pa.types.is_dictionary(kind):
        pieces = [
            pa.DictionaryArray.from_arrays(
                one.indices, one.dictionary.cast(plain.value_type), ordered=kind.ordered
            )
            for one in values.chunks
        ]
        return pa.chunked_array(pieces, plain)
    return values.cast(plain)


def to_list(values: Array) -> list[Any]:
    """Return an array as Python's values, which have times to the microsecond."""
    plain = _replace_leaves(values.type, _to_microseconds)
    found: list[Any] = (
        values if plain == values.type else values.cast(plain, safe=False)
    ).to_pylist()
    return found


def _to_microseconds(kind: Any) -> Any:
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    known = {pa.duration("ns"): pa.duration("us"), pa.time64("ns"): pa.time64("us")}
    return known.get(kind, kind)


def _replace_leaves(kind: Any, change: Callable[[Any], Any]) -> Any:
    """Return the type *kind* with *change* of each type that has none in it."""

    def of(field: Any) -> Any:
        return field.with_type(_replace_leaves(field.type, change))

    if pa.types.is_list(kind):
        return pa.list_(of(kind.value_field))
    if pa.types.is_large_list(kind):
        return pa.large_list(of(kind.value_field))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(of(kind.value_field), kind.list_size)
    if pa.types.is_struct(kind):
        return pa.struct([of(kind.field(number)) for number in range(kind.num_fields)])
    return change(kind)


def take(values: Array, rows: Sequence[int]) -> Array:
    """Return the *rows* of an array, which may be none: Arrow gives an empty list no type."""
    return values.take(pa.array(rows, pa.int64()))


def _to_values(column: Array) -> list[Any]:
    values: list[Any] = column.to_pylist()
    return values


def to_plain(values: Array, row: int) -> object:
    """Return the value of a *row*, an id, as JSON can have it."""
    [value] = to_list(values.slice(row, 1))
    plain: object = msgspec.to_builtins(value, builtin_types=(), enc_hook=str)
    return plain


class _Parquet:
    """A Parquet file."""

    def __init__(self, file: Any) -> None:
        self._file = pq.ParquetFile(file)
        self.schema = self._file.schema_arrow
        self.rows: int = self._file.metadata.num_rows

    def measure(self, names: Sequence[str]) -> int:
        """Bytes of these columns, from the footer."""
        metadata, total = self._file.metadata, 0
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            for index in range(group.num_columns):
                column = group.column(index)
                if column.path_in_schema in names:
                    total += column.total_uncompressed_size
        return total

    def read(self, names: Sequence[str] | None, rows: int = BATCH_ROWS) -> Iterator[Table]:
        """Yield batches of these columns, of at most so many *rows*."""
        batches: Iterator[Table] = self._file.iter_batches(rows, columns=names)
        return batches


class _Ipc:
    """An Arrow file, or an Arrow stream as HF datasets writes them."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._is_file = file.read_at(6, 0) == b"ARROW1"
        self.schema = self._open().schema
        self.rows: int = sum(batch.num_rows for batch in self._batches())

    def measure(self, names: Sequence[str]) -> int:
        """Bytes of these columns."""
        return sum(batch.column(name).nbytes for batch in self._batches() for name in names)

    def read(self, names: Sequence[str] | None, _rows: int = BATCH_ROWS) -> Iterator[Table]:
        """Yield batches of these columns, as they lie in the file."""
        for batch in self._batches():
            yield batch if names is None else batch.select(names)

    def _batches(self) -> Iterator[Table]:
        reader = self._open()
        if self._is_file:
            return (reader.get_batch(number) for number in range(reader.num_record_batches))
        return iter(reader)

    def _open(self) -> Any:
        self._file.seek(0)
        return pa.ipc.open_file(self._file) if self._is_file else pa.ipc.open_stream(self._file)


@contextlib.contextmanager
def _open(source: Source) -> Iterator[Any]:
    path = source.path
    with contextlib.ExitStack() as stack:
        if split_compression(path)[1]:
            path = stack.enter_context(_unpack(path))
        try:
            opened = stack.enter_context(
                _open_table(path, as_parquet=source.format is Format.PARQUET)
            )
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InvalidInputError(
                f"{source.path} is not valid {source.format}: {error}"
            ) from error
        yield opened


@contextlib.contextmanager
def _open_table(path: str, *, as_parquet: bool) -> Iterator[Any]:
    with open_native(path) if is_remote(path) else pa.memory_map(path) as file:
        yield _Parquet(file) if as_parquet else _Ipc(file)


@contextlib.contextmanager
def _unpack(path: str) -> Iterator[str]:
    """A decompressed copy: tables are read from their end."""
    with tempfile.NamedTemporaryFile(prefix="embedd-") as file:
        with open_stream(path) as stream, naming(file.name):
            shutil.copyfileobj(stream, file, 1 << 20)
            file.flush()
        yield file.name
