"""The lines that read an output work, as far as their libraries are here."""

import ast
import glob
import re
import shlex
import sqlite3
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from embedd.bulk.columns import Piece, Selection
from embedd.bulk.parts import Output, choose_output
from embedd.bulk.sources import has_arrow
from embedd.bulk.summary import describe_reading, measure_output
from tests.unit.bulk.jobs import WIDTH, run_job, write_lines

SELECTION = Selection(text=(Piece(literal="", column="text"),), id="key")
NAMES = ["o.jsonl", "o.npy", *(["out", "o.parquet", "o.arrow"] if has_arrow() else [])]


@pytest.mark.parametrize("name", NAMES)
def test_each_output_can_be_read_as_the_summary_says(tmp_path: Path, name: str) -> None:
    rows = [{"key": n, "text": f"t{n}"} for n in range(7)]
    source = write_lines(tmp_path / "a.jsonl", [*rows, {"key": 7, "text": None}])
    target = tmp_path / name
    run_job([source], target, id="key")
    lines = describe_reading(
        target, choose_output(str(target)), SELECTION, width=WIDTH, dtype="float32"
    )
    read = 0
    for line in lines:
        tool, _, code = line.partition(":")
        module = {one: one for one in ("numpy", "pyarrow", "pandas")}.get(tool)
        if module is None or not find_spec(module):
            continue
        names: dict[str, Any] = {}
        exec(code.strip(), names)  # noqa: S102 - the line is what is tested
        [found] = [names[one] for one in ("vectors", "table", "df") if one in names]
        assert len(found) == 7
        read += 1
    assert read or name == "o.jsonl"
    assert measure_output(target) > 0


HARD = ["a[b]c", "a*b", "a?b", "it's", 'say "x"', """b'o"th""", "a{b}", "~a", "~", "[!x]'\"*"]


def patterns_in(line: str) -> list[str]:
    """The patterns of files in a line that DuckDB or polars reads: strings of SQL or Python."""
    tool, _, code = line.partition(":")
    if tool == "polars":
        [call] = re.findall(r"pl\.read_\w+\((.*)\)", code)
        return [ast.literal_eval(call)]
    if tool == "pgvector":
        words = shlex.split(code)
        [name] = re.findall(r'FROM "((?:[^"]|"")+)"', words[words.index("-c") + 1])
        return [name.replace('""', '"')]
    if tool not in ("DuckDB", "nearest"):
        return []
    [string] = re.findall(r"FROM ('(?:[^']|'')+')", code)
    with sqlite3.connect(":memory:") as database:
        return [text for (text,) in database.execute(f"SELECT {string}")]


@pytest.mark.parametrize("ending", ["", ".parquet", ".jsonl", ".arrow"])
@pytest.mark.parametrize("name", HARD)
def test_lines_name_the_output_whatever_its_name_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, name: str, ending: str
) -> None:
    if ending != ".jsonl":
        pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    target = Path(name + ending)
    read = [name + ending] if ending else [f"{name}/part-0.parquet"]
    for one in (*read, *(other.replace("*", "X").replace("?", "X") for other in read)):
        Path(one).parent.mkdir(exist_ok=True)
        Path(one).touch()
    lines = describe_reading(
        target, choose_output(str(target)), SELECTION, width=WIDTH, dtype="float32"
    )
    tools = 0
    for line in lines:
        for pattern in patterns_in(line):
            assert [str(Path(one)) for one in glob.glob(pattern)] == read  # noqa: PTH207 - what is tested
            assert not pattern.startswith("~")
            tools += 1
    assert tools >= 1


@pytest.mark.parametrize("name", [*HARD, "a\\b"])
@pytest.mark.parametrize("ending", ["", ".parquet", ".arrow", ".npy"])
def test_lines_of_python_read_the_output_whatever_its_name_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, name: str, ending: str
) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    target = Path(name + ending)
    run_job([write_lines(tmp_path / "a.jsonl", [{"key": 1, "text": "a"}])], target, id="key")
    lines = describe_reading(
        target, choose_output(str(target)), SELECTION, width=WIDTH, dtype="float32"
    )
    [code] = [line.partition(":")[2] for line in lines if line.startswith(("numpy:", "pyarrow:"))]
    names: dict[str, Any] = {}
    exec(code.strip(), names)  # noqa: S102 - the line is what is tested
    assert len(names["vectors" if "vectors" in names else "table"]) == 1


def test_duckdb_is_not_given_a_pattern_with_a_backslash_which_is_a_separator_there() -> None:
    def tools(name: str) -> set[str]:
        output = Output.PARQUET if name.endswith(".parquet") else Output.FOLDER
        lines = describe_reading(Path(name), output, SELECTION, width=8, dtype="float32")
        return {line.partition(":")[0] for line in lines}

    others = {"polars", "pandas", "numpy", "LanceDB", "Qdrant"}
    assert tools("a\\b.parquet") == {*others, "DuckDB", "nearest", "pgvector"}
    assert tools("a\\b[c].parquet") == tools("a\\b") == others


def test_vectors_of_bytes_have_no_cosine_in_a_database() -> None:
    kinds = {}
    for dtype in ("float32", "ubinary"):
        lines = describe_reading(Path("x"), Output.FOLDER, SELECTION, width=8, dtype=dtype)
        kinds[dtype] = [line.partition(":")[0] for line in lines]
    assert "nearest" in kinds["float32"]
    assert "nearest" not in kinds["ubinary"]


def test_lines_that_choose_columns_choose_those_that_tell_chunks_apart() -> None:
    lines = describe_reading(
        Path("x"), Output.FOLDER, SELECTION, width=8, dtype="float32", chunked=True
    )
    by_tool = dict(line.split(":", 1) for line in lines)
    assert 'SELECT "key", "chunk", "start", "end" ORDER BY' in by_tool["nearest"]
    assert 'SELECT "key", "chunk", "start", "end", embedding' in by_tool["pgvector"]
    assert '(id text, "chunk" bigint, "start" bigint, "end" bigint, ' in by_tool["pgvector"]
