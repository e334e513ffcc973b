"""What is said of an output: how it is read elsewhere, its size, where its errors are."""

import glob
import shlex
from collections.abc import Sequence
from typing import Final

from embedd.bulk.columns import CHUNK, ROW, VECTOR, Selection
from embedd.bulk.ending import errors_path, ids_path
from embedd.bulk.parts import Output
from embedd.bulk.reading import SAMPLE_ROWS
from embedd.bulk.remote import RemotePath, Target

OF_DUCKDB: Final = ("DuckDB:", "nearest:", "pgvector:")


def describe_reading(
    target: Target,
    output: Output,
    selection: Selection,
    *,
    width: int,
    dtype: str,
    chunked: bool = False,
) -> list[str]:
    """Return lines of Python, SQL and shell that read the output; each works as it is.

    Args:
        chunked: Whether rows are chunks, which a row's id alone does not name.
    """
    if isinstance(target, RemotePath) and output in (Output.NPY, Output.ARROW):
        return []  # their readers take files
    place = str(target)
    if place.startswith("~"):
        place = f"./{place}"  # else it is a user's home
    # Names may have what patterns have. What reads a folder as a whole must skip `errors.jsonl`.
    pattern = glob.escape(place)
    if output is Output.FOLDER:
        pattern = f"{pattern.rstrip('/')}/*.parquet"
    names = [selection.id or ROW, *(CHUNK if chunked else ())]
    lines = _describe(target, output, names, place, pattern, width=width, dtype=dtype)
    if "\\" in place and set(pattern) & set("*?["):  # in its patterns that is a separator
        lines = [line for line in lines if not line.startswith(OF_DUCKDB)]
    return lines


def _describe(
    target: Target,
    output: Output,
    names: Sequence[str],
    place: str,
    pattern: str,
    *,
    width: int,
    dtype: str,
) -> list[str]:
    if output is Output.NPY:
        return [
            f"numpy:   import numpy as np; vectors = np.load({place!r}, mmap_mode='r')",
            f"ids:     {ids_path(target)}, in the same order",
        ]
    if output is Output.JSONL:
        return [
            f"DuckDB:  FROM {_to_sql(pattern)}",
            f"pandas:  import pandas as pd; df = pd.read_json({place!r}, lines=True)",
            f"polars:  import polars as pl; df = pl.read_ndjson({pattern!r})",
        ]
    if output is Output.ARROW:
        return [
            f"pyarrow: import pyarrow as pa; table = pa.ipc.open_file({place!r}).read_all()",
            f"polars:  import polars as pl; df = pl.read_ipc({pattern!r})",
            f"pandas:  import pandas as pd; df = pd.read_feather({place!r})",
        ]
    return _parquet(pattern, place, names, width=width, dtype=dtype)


def _parquet(files: str, place: str, names: Sequence[str], *, width: int, dtype: str) -> list[str]:
    """Lines for a table: *files* is its pattern, *place* the path of it, or of its folder.

    Args:
        names: The columns that say which text a vector is of, the id first.
    """
    lines = [
        f"DuckDB:  FROM {_to_sql(files)}",
        f"polars:  import polars as pl; df = pl.read_parquet({files!r})",
        (
            "pandas:  import pyarrow.dataset as ds; df = "
            f"ds.dataset({place!r}, exclude_invalid_files=True).to_table().to_pandas()"
        ),
        (
            "numpy:   import numpy as np, pyarrow.dataset as ds; vectors = np.stack("
            f"ds.dataset({place!r}, exclude_invalid_files=True).to_table(columns=[{VECTOR!r}])"
            f"[{VECTOR!r}].to_numpy())"
        ),
    ]
    if dtype not in ("float32", "float16"):
        return lines
    number = f"FLOAT[{width}]"
    columns = ", ".join(map(_quote, names))
    rows = f"FROM {_quote(files)} SELECT {columns}, {VECTOR}"
    typed = "".join(f"{_quote(name)} bigint, " for name in names[1:])
    return [
        *lines,
        (
            f"nearest: FROM {_to_sql(files)} SELECT {columns} ORDER BY array_cosine_similarity("
            f"{VECTOR}::{number}, $query::{number}) DESC LIMIT 10  -- DuckDB"
        ),
        (
            "LanceDB: import lancedb, pyarrow.dataset as ds; lancedb.connect('lance').create_table("
            f"'vectors', ds.dataset({place!r}, exclude_invalid_files=True).to_table())"
        ),
        (
            "Qdrant:  import numpy as np, pyarrow.dataset as ds; from qdrant_client import "
            "QdrantClient, models; db = QdrantClient('localhost'); db.create_collection('vectors', "
            f"models.VectorParams(size={width}, distance='Cosine')); "
            f"t = ds.dataset({place!r}, exclude_invalid_files=True).to_table(); "
            f"db.upload_collection('vectors', np.stack(t[{VECTOR!r}].to_numpy()), "
            f"t.drop_columns({VECTOR!r}).to_pylist())"
        ),
        (
            "pgvector: duckdb -csv -noheader -c "
            f"{shlex.quote(rows)} | "
            "psql -v ON_ERROR_STOP=1 -c 'CREATE EXTENSION IF NOT EXISTS vector' "
            f"-c 'CREATE TABLE vectors (id text, {typed}embedding vector({width}))' "
            "-c 'COPY vectors FROM STDIN (FORMAT csv)'"
        ),
    ]


def describe_errors(target: Target, output: Output) -> Target:
    """Return where the rows without a vector are listed."""
    return target / "errors.jsonl" if output is Output.FOLDER else errors_path(target)


def describe_left_out(names: Sequence[str]) -> str:
    """Return what to say of fields of rows that are not in the output."""
    return (
        f"left out of some rows: {', '.join(names)}. The columns are those of the inputs that the "
        f"job began with, of jsonl those of the first {SAMPLE_ROWS:,} rows: move a row that has "
        "all fields there, and begin anew with --restart"
    )


def measure_output(target: Target, names: Sequence[Target] = ()) -> int:
    """Return the bytes of the output *target*, a file or the parts of a folder."""
    if isinstance(target, RemotePath):
        parts = target.list()
        if parts:
            return sum(size for name, size in parts.items() if name.startswith("part-"))
        return sum(one.size() or 0 for one in (target, *names) if isinstance(one, RemotePath))
    if target.is_dir():
        return sum(one.stat().st_size for one in target.glob("part-*"))
    files = (one for one in (target, *names) if not isinstance(one, RemotePath))
    return sum(one.stat().st_size for one in files if one.exists())


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _to_sql(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
