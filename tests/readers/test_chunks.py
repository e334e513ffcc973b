"""What the command prints to read an output tells the chunks of a text apart."""

import json
import re
import subprocess

import duckdb
import numpy as np
import psycopg
import pyarrow.parquet as pq
import pytest

from tests.readers.conftest import ROOT, WORDS, Written, run_bulk

# Characters of one to four bytes: places count characters.
TEXTS = {word: " ".join(f"{word} étude 中 🦉 {number}." for number in range(40)) for word in WORDS}


@pytest.fixture(scope="module")
def chunks(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Some long texts in chunks; the ids are those of texts."""
    folder = tmp_path_factory.mktemp("chunks")
    source = folder / "books.jsonl"
    rows = [json.dumps({"isbn": word, "text": text}) + "\n" for word, text in TEXTS.items()]
    source.write_text("".join(rows))
    options = ["--chunk", "100", "--overlap", "10"]
    status, lines = run_bulk(environment, source, folder / "books", *options)
    assert status == 0
    table = pq.read_table(folder / "books" / "part-000000.parquet")
    assert len(table) > 2 * len(TEXTS)
    return Written(
        target=folder / "books",
        lines=lines,
        ids=table["isbn"].to_pylist(),
        vectors=np.array(table["embedding"].to_pylist(), np.float32),
    )


def places(written: Written) -> list[tuple[str, int, int, int]]:
    """Each chunk's id, number, start and end."""
    table = pq.read_table(written.target / "part-000000.parquet")
    columns = ("isbn", "chunk", "start", "end")
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))


def test_duckdb_finds_the_nearest_chunk_and_its_place(chunks: Written) -> None:
    query = chunks.lines["nearest"].partition("  --")[0]
    found = duckdb.execute(query, {"query": chunks.vectors[7].tolist()}).fetchall()
    assert found[0] == places(chunks)[7]


def test_postgresql_has_a_table_in_which_each_chunk_has_its_place(
    chunks: Written, postgres: dict[str, str]
) -> None:
    subprocess.run(["psql", "-c", "DROP TABLE IF EXISTS vectors"], env=postgres, check=True)
    subprocess.run(["sh", "-c", chunks.lines["pgvector"]], env=postgres, check=True)
    nearest = (
        'SELECT id, chunk, start, "end" FROM vectors ORDER BY embedding <=> %s::vector LIMIT 1'
    )
    with psycopg.connect(host=postgres["PGHOST"], user=postgres["PGUSER"]) as db:
        count = db.execute("SELECT count(DISTINCT (id, chunk)) FROM vectors").fetchone()
        assert count == (len(chunks.ids),)
        found = db.execute(nearest, [str(chunks.vectors[7].tolist())]).fetchone()
    assert found == places(chunks)[7]


def test_the_own_text_of_a_chunk_is_found_in_the_carried_text_as_the_documents_say(
    chunks: Written,
) -> None:
    text = (ROOT / "docs" / "bulk.md").read_text()
    [expression] = re.findall(r"`(substring\([^`]*)`", text)
    found = duckdb.sql(chunks.lines["DuckDB"]).project(f"isbn, {expression}").fetchall()
    expected = [(isbn, TEXTS[isbn][start:end]) for isbn, _, start, end in places(chunks)]
    assert sorted(found) == sorted(expected)
    assert all("🦉" in text and text != TEXTS[isbn] for isbn, text in expected)


def test_each_chunk_carries_the_whole_text(chunks: Written) -> None:
    table = pq.read_table(chunks.target / "part-000000.parquet")
    assert table["text"].to_pylist() == [TEXTS[isbn] for isbn in chunks.ids]
