"""What the command prints to read an output works in each library, and finds every vector."""

import json
import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import lancedb
import numpy as np
import pandas as pd
import polars as pl
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import qdrant_client
from psycopg import sql
from qdrant_client import QdrantClient

from tests.readers.conftest import ROOT, WIDTH, Matrix, Written

Write = Callable[..., Written]

TABLES = ["DuckDB", "polars", "pandas"]
PARQUET = [*TABLES, "numpy", "nearest", "LanceDB", "Qdrant", "pgvector"]
HARD = """[b]o*o?k's "x" """  # what patterns, SQL and Python read as something else
BY_ENDING = {
    "": PARQUET,
    ".parquet": PARQUET,
    ".jsonl": TABLES,
    ".arrow": ["pyarrow", "polars", "pandas"],
    ".npy": ["numpy", "ids"],
}
NAMES = ["books", HARD]
PRINTED = {name + ending: printed for name in NAMES for ending, printed in BY_ENDING.items()}
WHOLE = [name + ending for name in NAMES for ending in ("", ".parquet")]


def run_python(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the line is what is tested
    return names


def sort(ids: list[str], vectors: Any, expected: Written) -> Matrix:
    """Vectors in the order of those that are expected."""
    assert sorted(ids) == sorted(expected.ids)
    order = [ids.index(one) for one in expected.ids]
    return np.stack([np.asarray(one, np.float32) for one in vectors])[order]


def read_duckdb(code: str) -> tuple[list[str], Any]:
    found = duckdb.sql(code).project("isbn, embedding").fetchall()
    return [row[0] for row in found], [row[1] for row in found]


def read_frame(code: str) -> tuple[list[str], Any]:
    frame = run_python(code)["df"]
    assert isinstance(frame, pl.DataFrame | pd.DataFrame)
    return list(frame["isbn"]), list(frame["embedding"])


def read_arrow(code: str) -> tuple[list[str], Any]:
    table = run_python(code)["table"]
    assert isinstance(table, pa.Table)
    return table["isbn"].to_pylist(), table["embedding"].to_pylist()


READ = {"DuckDB": read_duckdb, "polars": read_frame, "pandas": read_frame, "pyarrow": read_arrow}


@pytest.mark.parametrize("name", PRINTED)
def test_the_lines_of_an_output_are_of_these_libraries(write: Write, name: str) -> None:
    assert sorted(write(name).lines) == sorted(PRINTED[name])


@pytest.mark.parametrize(
    ("name", "library"),
    [
        (name, library)
        for name, printed in PRINTED.items()
        for library in printed
        if library in READ
    ],
)
def test_a_table_has_every_id_and_its_vector(write: Write, name: str, library: str) -> None:
    written = write(name)
    ids, vectors = READ[library](written.lines[library])
    np.testing.assert_allclose(sort(ids, vectors, written), written.vectors, atol=1e-6)


@pytest.mark.parametrize("library", TABLES)
def test_vectors_in_float16_are_read_too(write: Write, library: str) -> None:
    written = write("books", "--dtype", "float16")
    ids, vectors = READ[library](written.lines[library])
    np.testing.assert_allclose(sort(ids, vectors, written), written.vectors, atol=1e-3)


@pytest.mark.parametrize("name", [*WHOLE, *(f"{name}.npy" for name in NAMES)])
def test_numpy_has_the_vectors_in_the_order_of_the_rows(write: Write, name: str) -> None:
    written = write(name)
    found = run_python(written.lines["numpy"])["vectors"]
    np.testing.assert_allclose(found, written.vectors, atol=1e-6)


def test_an_array_has_its_ids_beside_it(write: Write) -> None:
    written = write("books.npy")
    path, _, rest = written.lines["ids"].partition(",")
    assert rest == " in the same order"
    assert pq.read_table(path)["isbn"].to_pylist() == written.ids


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_duckdb_finds_what_is_nearest(write: Write, name: str, dtype: str) -> None:
    written = write(name, "--dtype", dtype)
    query = written.lines["nearest"].partition("  --")[0]
    found = duckdb.execute(query, {"query": written.vectors[42].tolist()}).fetchall()
    assert len(found) == 10
    assert found[0][0] == written.ids[42]


@pytest.mark.parametrize("name", WHOLE)
def test_lancedb_has_a_table_that_finds_what_is_nearest(
    write: Write, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written = write(name)
    run_python(written.lines["LanceDB"])
    table = lancedb.connect("lance").open_table("vectors")
    assert table.count_rows() == len(written.ids)
    [nearest] = table.search(written.vectors[42]).limit(1).to_list()
    assert (nearest["isbn"], nearest["year"]) == (written.ids[42], 1904)


@pytest.fixture
def qdrant(monkeypatch: pytest.MonkeyPatch) -> QdrantClient:
    """A database in memory, which whoever asks for a server gets."""
    client = QdrantClient(":memory:")
    monkeypatch.setattr(qdrant_client, "QdrantClient", lambda _host: client)
    return client


def check_qdrant(client: QdrantClient, collection: str, written: Written) -> None:
    assert client.count(collection).count == len(written.ids)
    [nearest] = client.query_points(collection, written.vectors[42], limit=1).points
    assert nearest.payload is not None
    assert nearest.payload["isbn"] == written.ids[42]
    assert nearest.score == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", WHOLE)
def test_qdrant_has_a_collection_that_finds_what_is_nearest(
    write: Write, name: str, qdrant: QdrantClient
) -> None:
    written = write(name)
    run_python(written.lines["Qdrant"])
    check_qdrant(qdrant, "vectors", written)


def check_postgres(postgres: dict[str, str], table: str, key: str, written: Written) -> None:
    names = {"key": sql.Identifier(key), "table": sql.Identifier(table)}
    count = sql.SQL("SELECT count(*), min(vector_dims(embedding)) FROM {table}").format(**names)
    nearest = sql.SQL("SELECT {key} FROM {table} ORDER BY embedding <=> %s::vector LIMIT 1")
    query = [str(written.vectors[42].tolist())]
    with psycopg.connect(host=postgres["PGHOST"], user=postgres["PGUSER"]) as db:
        assert db.execute(count).fetchone() == (len(written.ids), WIDTH)
        assert db.execute(nearest.format(**names), query).fetchone() == (written.ids[42],)


@pytest.mark.parametrize("name", WHOLE)
def test_postgresql_has_a_table_that_finds_what_is_nearest(
    write: Write, name: str, postgres: dict[str, str]
) -> None:
    written = write(name)
    run = partial(subprocess.run, env=postgres, capture_output=True, text=True, check=False)
    run(["psql", "-c", "DROP TABLE IF EXISTS vectors"])
    assert run(["sh", "-c", written.lines["pgvector"]]).returncode == 0
    check_postgres(postgres, "vectors", "id", written)
    again = run(["sh", "-c", written.lines["pgvector"]])
    assert "already exists" in again.stderr
    assert again.returncode != 0
    check_postgres(postgres, "vectors", "id", written)


def read_block(library: str) -> str:
    """The lines of ``docs/bulk.md`` that put a folder into a database."""
    text = (ROOT / "docs" / "bulk.md").read_text()
    found = re.search(rf"<!-- not run: needs {library};.*?```python\n(.*?)```", text, re.DOTALL)
    assert found
    return found[1]


def test_qdrant_takes_a_folder_in_batches_as_the_documents_say(
    write: Write, qdrant: QdrantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = write("books")
    monkeypatch.chdir(written.target.parent)
    run_python(read_block("Qdrant"))
    check_qdrant(qdrant, "books", written)


def test_postgresql_takes_a_folder_in_batches_as_the_documents_say(
    write: Write, postgres: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = write("books", "--keep", "year")
    monkeypatch.chdir(written.target.parent)
    for variable in ("PGHOST", "PGUSER", "PGDATABASE"):
        monkeypatch.setenv(variable, postgres[variable])
    run_python(read_block("PostgreSQL"))
    check_postgres(postgres, "books", "isbn", written)


def test_a_folder_lists_its_errors_beside_the_parts(write: Write) -> None:
    [line] = (write("books").target / "errors.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == "none"
