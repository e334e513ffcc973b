"""The part of a unit: its columns and vectors, as a file of the output's format."""

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import numpy as np

from embedd.bulk.columns import CHUNK, INT, ROW, VECTOR, Column, Selection
from embedd.bulk.compute import Numbers
from embedd.bulk.reading import Rows, Values
from embedd.bulk.sources import has_arrow
from embedd.bulk.stores import SCHEMES, is_remote, without_query
from embedd.bulk.unit import Embedded
from embedd.errors import ExtraMissingError, InvalidInputError

STEP: Final = 1000  # rows that are rendered at a time
VECTORS_MEMBER, ROWS_MEMBER = "vectors.npy", "rows"  # of a part of an ``npy`` output


class Output(StrEnum):
    """What the output is."""

    FOLDER = "folder"
    PARQUET = "parquet"
    NPY = "npy"
    JSONL = "jsonl"
    ARROW = "arrow"
    STDOUT = "stdout"


# The ending of the parts of an output.
SUFFIXES: Final = {
    Output.FOLDER: ".parquet",
    Output.PARQUET: ".parquet",
    Output.NPY: ".npz",
    Output.JSONL: ".jsonl",
    Output.ARROW: ".arrow",
    Output.STDOUT: ".jsonl",
}
# Endings of files that are not written, and that no folder has by chance.
OTHER_FILES: Final = frozenset(
    {"csv", "tsv", "txt", "md", "json", "ndjson", "feather", "ipc", "pq", "orc", "avro", "lance"}
    | {"npz", "pt", "safetensors", "pkl", "pickle", "h5", "hdf5", "db", "sqlite", "duckdb", "xlsx"}
    | {"gz", "zst", "bz2", "xz", "zip", "tar"}
)
WITHOUT_EXTRA: Final = (Output.NPY, Output.JSONL, Output.STDOUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Rows of the output.

    Args:
        columns: All but the vectors, in order.
        values: Of each of *columns*, as long as *vectors*.
        facts: What made the vectors, for formats that can say it.
    """

    columns: Sequence[Column]
    values: Mapping[str, Values]
    vectors: Numbers
    facts: Mapping[str, str]


def choose_output(name: str) -> Output:
    """Return what the output *name* is, by its ending; with a slash behind it, a folder.

    Raises:
        InvalidInputError: It is a file of unknown format.
        ExtraMissingError: What writes it is not installed.
    """
    if name == "-":
        return Output.STDOUT
    if not name:
        raise InvalidInputError("the output has no name: name a folder or a file with -o")
    if is_remote(name):
        name = without_query(name)
        if not has_arrow():
            raise ExtraMissingError(f"the output {name}", "bulk")
    elif "://" in name:
        raise InvalidInputError(
            f"{name} is not a path, nor a URI that begins with {', '.join(SCHEMES)}"
        )
    suffix = "" if name.endswith("/") else Path(name).suffix.lower().removeprefix(".")
    if suffix in OTHER_FILES:
        raise InvalidInputError(
            f"no output can be a .{suffix}: name a file that ends in .parquet, .npy, .jsonl or "
            f".arrow, or a folder; with a slash, {name}/ is one"
        )
    by_suffix = {Output.PARQUET, Output.NPY, Output.JSONL, Output.ARROW}
    output = Output(suffix) if suffix in by_suffix else Output.FOLDER
    if output not in WITHOUT_EXTRA and not has_arrow():
        raise ExtraMissingError(f"the output {name}", "bulk")
    return output


def is_typed(output: Output) -> bool:
    """Return whether the columns of *output* have types."""
    return output not in (Output.JSONL, Output.STDOUT) and has_arrow()


def output_columns(selection: Selection, *, chunked: bool) -> list[Column]:
    """Return the columns of the output but for the vectors, in order."""
    first = [] if selection.id is not None else [Column(name=ROW, type=INT)]
    last = [Column(name=name, type=INT) for name in CHUNK] if chunked else []
    return [*first, *selection.keep, *last]


def make_part(
    rows: Rows, embedded: Embedded, columns: Sequence[Column], facts: Mapping[str, str]
) -> Part:
    """Return the part of *rows* with their vectors."""
    values: dict[str, Values] = {}
    sources: dict[str, Values] = {ROW: rows.numbers, **rows.kept}
    places = dict(zip(CHUNK, zip(*embedded.places or (), strict=True), strict=False))
    for column in columns:
        if column.name in sources:
            values[column.name] = take_values(sources[column.name], embedded.rows.tolist())
        else:
            values[column.name] = list(places.get(column.name, ()))
    return Part(columns=columns, values=values, vectors=embedded.vectors, facts=facts)


def write_part(path: Path, part: Part, output: Output) -> None:
    """Write *part* to the new file *path*."""
    if output in (Output.JSONL, Output.STDOUT):
        with path.open("wb") as file:
            file.writelines(render_json(part))
    elif output is Output.NPY:
        _write_npz(path, part)
    else:
        from embedd.bulk import tables  # noqa: PLC0415 - needs an extra

        tables.write_part(path, part, as_parquet=output is not Output.ARROW)


def render_json(part: Part) -> Iterator[bytes]:
    """Yield the rows as lines of JSON, many at a time."""
    columns = [_to_list(part.values[column.name]) for column in part.columns]
    names = [column.name for column in part.columns]
    for start in range(0, len(part.vectors), STEP):
        vectors = _render_vectors(part.vectors[start : start + STEP])
        rows = zip(*(column[start : start + STEP] for column in columns), strict=True)
        lines = []
        for row, vector in zip(rows, vectors, strict=True):
            head = msgspec.json.encode(dict(zip(names, row, strict=True)))
            lines.append(b'%b,"%b":%b}\n' % (head[:-1], VECTOR.encode(), vector))
        yield b"".join(lines)


def _render_vectors(vectors: Numbers) -> list[bytes]:
    import orjson  # noqa: PLC0415 - only outputs of JSON need it

    if vectors.dtype == np.float16:
        vectors = vectors.astype(np.float32)
    text = orjson.dumps(np.ascontiguousarray(vectors), option=orjson.OPT_SERIALIZE_NUMPY)
    return [b"[%b]" % row for row in text[2:-2].split(b"],[")]


def _write_npz(path: Path, part: Part) -> None:
    """Write vectors and rows into one file, so that its name says that both are complete."""
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open(VECTORS_MEMBER, "w", force_zip64=True) as member:
            vectors = np.ascontiguousarray(part.vectors)
            header = np.lib.format.header_data_from_array_1_0(vectors)
            np.lib.format.write_array_header_1_0(member, header)
            member.write(vectors.reshape(-1).view(np.uint8).data)  # without a copy
        with archive.open(ROWS_MEMBER, "w", force_zip64=True) as member:
            _write_rows(member, part)


def _write_rows(member: IO[bytes], part: Part) -> None:
    if has_arrow():
        from embedd.bulk import tables  # noqa: PLC0415 - needs an extra

        buffer = io.BytesIO()
        tables.write_ids(buffer, part)
        member.write(buffer.getbuffer())
        return
    names = [column.name for column in part.columns]
    rows = zip(*(part.values[name] for name in names), strict=True)
    while some := list(islice(rows, STEP)):
        lines = (msgspec.json.encode(dict(zip(names, row, strict=True))) for row in some)
        member.write(b"\n".join(lines) + b"\n")


def take_values(values: Values, rows: Sequence[int]) -> Values:
    """Return the values of *rows*."""
    if hasattr(values, "take"):  # an array of Arrow
        from embedd.bulk import tables  # noqa: PLC0415 - needs an extra

        taken: Values = tables.take(values, rows)
        return taken
    return [values[row] for row in rows]


def _to_list(values: Values) -> Sequence[Any]:
    if hasattr(values, "to_pylist"):  # an array of Arrow
        from embedd.bulk import tables  # noqa: PLC0415 - needs an extra

        return tables.to_list(values)
    return values
