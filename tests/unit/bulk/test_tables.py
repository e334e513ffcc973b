"""Parquet and Arrow, in and out, with what else can be in them."""

# ruff: noqa: E402 - where pyarrow is not installed the module ends before it is imported
import datetime as dt
import gzip
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.needs import require_arrow

require_arrow()

import pyarrow as pa
import pyarrow.parquet as pq

from embedd.bulk import tables
from embedd.bulk.compute import Wanted
from embedd.bulk.parts import Part
from embedd.bulk.units import Limits
from embedd.errors import InvalidInputError
from embedd.types import Arrays
from tests.unit.bulk.jobs import (
    BAD,
    SERVED_BY,
    WIDTH,
    FakeCompute,
    read_lines,
    run_job,
    vector_of,
    write_lines,
)

TEXTS = ["plain", 'a "quoted", text', "two\nlines", "", "Übergröße 日本語 🙂", "x " * 2000]
ROWS = [{"key": f"k{n // 2}", "text": text, "n": n} for n, text in enumerate(TEXTS)]
SMALL = Limits(rows=2, bytes=1 << 20)


def write_csv(path: Path, delimiter: str = ",") -> None:
    def quote(value: object) -> str:
        return '"' + str(value).replace('"', '""') + '"'

    rows = [[*map(quote, row.values())] for row in ROWS]
    path.write_text(
        "\r\n".join(delimiter.join(row) for row in [["key", "text", "n"], *rows]) + "\r\n"
    )


def write_stream(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)


def write_file(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.jsonl": lambda path: write_lines(path, ROWS),
    "a.csv": write_csv,
    "a.tsv": lambda path: write_csv(path, "\t"),
    "a.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=4),
    "a.feather": write_file,
    "data-00000-of-00001.arrow": write_stream,
}


def compress(path: Path, ending: str) -> Path:
    """The same file, compressed as *ending* says."""
    packed = path.with_name(path.name + ending)
    data = path.read_bytes()
    if ending == ".gz":
        data = gzip.compress(data)
    elif ending == ".zst":
        data = pa.compress(data, codec="zstd", asbytes=True)
    packed.write_bytes(data)
    return packed


def read_output(path: Path) -> list[dict[str, Any]]:
    """The rows of an output of any format."""
    if path.suffix == ".jsonl":
        return read_lines(path)
    if path.suffix == ".npy":
        ids = pq.read_table(path.with_suffix(".ids.parquet")).to_pylist()
        vectors = np.load(path).tolist()
        return [{**row, "embedding": one} for row, one in zip(ids, vectors, strict=True)]
    if path.suffix == ".arrow":
        rows: list[dict[str, Any]] = pa.ipc.open_file(str(path)).read_all().to_pylist()
        return rows
    parts = sorted(path.glob("part-*.parquet")) if path.is_dir() else [path]
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


OUTPUTS = ["out", "o.parquet", "o.arrow", "o.npy", "o.jsonl"]
CASES = [(name, "", out) for name in WRITERS for out in OUTPUTS]
CASES += [(name, ending, "out") for name in WRITERS for ending in (".gz", ".zst")]


@pytest.mark.parametrize(("name", "ending", "out"), CASES)
def test_every_input_becomes_every_output(tmp_path: Path, name: str, ending: str, out: str) -> None:
    WRITERS[name](tmp_path / name)
    source = compress(tmp_path / name, ending)
    total = run_job([source], tmp_path / out, limits=SMALL, id="key", text="text")
    rows = read_output(tmp_path / out)
    assert [row["key"] for row in rows] == [row["key"] for row in ROWS]
    assert [row["text"] for row in rows] == TEXTS
    assert [int(row["n"]) for row in rows] == list(range(6))
    vectors = np.array([row["embedding"] for row in rows], np.float32)
    np.testing.assert_array_equal(vectors, np.array([vector_of(one) for one in TEXTS], np.float32))
    assert total is not None
    assert total.rows == 6


def test_a_part_says_what_made_it_and_its_vectors_are_plain_arrow(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "a.jsonl", ROWS)
    run_job([source], tmp_path / "out")
    part = pq.ParquetFile(tmp_path / "out" / "part-000000.parquet")
    assert part.schema_arrow.field("embedding").type == pa.list_(pa.float32(), 4)
    metadata = {key.decode(): one.decode() for key, one in part.schema_arrow.metadata.items()}
    assert metadata["embedd.served_by"] == SERVED_BY
    assert metadata["embedd.model"] == "fake"
    assert metadata["embedd.numbers"] == "4"
    leaf = part.metadata.row_group(0).column(part.metadata.num_columns - 1)
    assert "BYTE_STREAM_SPLIT" in leaf.encodings
    assert leaf.compression == "ZSTD"


def facts_of(path: Path) -> dict[str, str]:
    """What a table says of its vectors."""
    if path.suffix == ".arrow":
        metadata = pa.ipc.open_file(str(path)).schema.metadata
    else:
        metadata = pq.read_schema(path).metadata
    facts = {key.decode(): one.decode() for key, one in metadata.items()}
    return {key: one for key, one in facts.items() if key.startswith("embedd.")}


FILES = {"o.parquet": "o.parquet", "o.arrow": "o.arrow", "o.npy": "o.ids.parquet"}


@pytest.mark.parametrize("out", ["out", *FILES])
def test_a_table_says_all_that_made_its_vectors(tmp_path: Path, out: str) -> None:
    source = write_lines(tmp_path / "a.jsonl", ROWS)
    run_job([source], tmp_path / out, limits=SMALL)
    expected = {
        "embedd.model": "fake",
        "embedd.served_by": SERVED_BY,
        "embedd.prefix": "",
        "embedd.dimensions": "4",
        "embedd.numbers": "4",
        "embedd.dtype": "float32",
        "embedd.normalize": "l2",
    }
    files = [tmp_path / FILES[out]] if out in FILES else sorted((tmp_path / out).glob("*.parquet"))
    assert len(files) == (1 if out in FILES else 3)
    assert [facts_of(one) for one in files] == [expected] * len(files)


@pytest.mark.parametrize("out", FILES)
def test_a_file_names_every_backend_of_its_parts(tmp_path: Path, out: str) -> None:
    source = write_lines(tmp_path / "a.jsonl", ROWS)
    other = "0123456789ab;engine=other"
    run_job([source], tmp_path / out, limits=SMALL, shard=(1, 2), mixed=True)
    compute = FakeCompute(served_by=other)
    run_job([source], tmp_path / out, compute, limits=SMALL, shard=(2, 2), mixed=True)
    assert facts_of(tmp_path / FILES[out])["embedd.served_by"] == f"{SERVED_BY}, {other}"


def test_vectors_of_bits_have_more_dimensions_than_numbers(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "a.jsonl", ROWS[:1])
    wanted = Wanted(model="fake", dtype="ubinary")
    compute = FakeCompute()

    async def bits(texts: Sequence[str]) -> Arrays:
        computed = await compute(texts)
        return replace(computed, vectors=np.zeros((len(texts), WIDTH), np.uint8))

    run_job([source], tmp_path / "o.parquet", bits, wanted=wanted)
    facts = facts_of(tmp_path / "o.parquet")
    assert (facts["embedd.dimensions"], facts["embedd.numbers"]) == ("32", "4")


def test_row_groups_have_ten_thousand_rows(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "a.jsonl", [{"text": str(n)} for n in range(12_000)])
    run_job([source], tmp_path / "out")
    metadata = pq.ParquetFile(tmp_path / "out" / "part-000000.parquet").metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [
        10_000,
        2_000,
    ]


def test_row_groups_of_long_vectors_have_fewer_rows(tmp_path: Path) -> None:
    part = Part(columns=[], values={}, vectors=np.zeros((3000, 4096), np.float32), facts={})
    tables.write_part(tmp_path / "a.parquet", part, as_parquet=True)
    tables.join_parts(tmp_path / "b.parquet", [tmp_path / "a.parquet"], {}, as_parquet=True)
    for name, most in {"a.parquet": 16 << 20, "b.parquet": 8 << 20}.items():
        metadata = pq.ParquetFile(tmp_path / name).metadata
        rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        assert sum(rows) == 3000
        assert max(rows) * 4096 * 4 == most


@pytest.mark.parametrize(
    ("dtype", "kind"), [("float16", "halffloat"), ("int8", "int8"), ("ubinary", "uint8")]
)
def test_numbers_have_the_type_that_is_wanted(tmp_path: Path, dtype: str, kind: str) -> None:
    class Other(FakeCompute):
        async def __call__(self, texts: Any) -> Any:
            from dataclasses import replace

            answer = await super().__call__(texts)
            numpy_type = {"ubinary": "uint8"}.get(dtype, dtype)
            return replace(answer, vectors=answer.vectors.astype(numpy_type))

        __hash__ = FakeCompute.__hash__

    source = write_lines(tmp_path / "a.jsonl", ROWS)
    wanted = Wanted(model="fake", dtype=dtype)
    for name in ("out", "o.npy"):
        run_job([source], tmp_path / name, Other(), wanted=wanted, limits=SMALL)
    schema = pq.read_schema(tmp_path / "out" / "part-000000.parquet")
    assert str(schema.field("embedding").type.value_type) == kind
    assert np.load(tmp_path / "o.npy").shape == (6, 4)


def test_types_of_a_table_are_kept(tmp_path: Path) -> None:
    when = dt.datetime(2026, 11, 26, tzinfo=dt.UTC)
    table = pa.table(
        {
            "text": pa.array(["a", None, "c"], pa.large_string()),
            "when": pa.array([when] * 3, pa.timestamp("us", "UTC")),
            "tags": pa.array([["x"], [], None]),
            "small": pa.array([1, 2, 3], pa.int8()),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    total = run_job([tmp_path / "a.parquet"], tmp_path / "out", id="small")
    out = pq.read_table(tmp_path / "out" / "part-000000.parquet")
    assert out.schema.field("when").type == pa.timestamp("us", "UTC")
    assert out.schema.field("small").type == pa.int8()
    assert out.column("tags").to_pylist() == [["x"], None]
    assert out.column("small").to_pylist() == [1, 3]
    [error] = read_lines(tmp_path / "out" / "errors.jsonl")
    assert (error["id"], error["row"]) == (2, 1)
    assert "null" in error["error"]
    assert total is not None
    assert (total.rows, total.errors) == (2, 1)


def test_columns_as_polars_writes_them_are_carried_along(tmp_path: Path) -> None:
    """Views of strings, also in lists, structures and dictionaries."""
    view = pa.string_view()
    dictionary = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, 0], pa.uint32()), pa.array(["u", "v"], view)
    )
    table = pa.table(
        {
            "text": pa.array(["a", None, "b"], view),
            "bytes": pa.array([b"x", b"y", b"z"], pa.binary_view()),
            "list": pa.array([["p"], ["q"], None], pa.large_list(view)),
            "pair": pa.array([["p", "r"]] * 3, pa.list_(view, 2)),
            "plain": pa.array([["p"]] * 3, pa.list_(view)),
            "struct": pa.array([{"k": "v"}] * 3, pa.struct([("k", view)])),
            "category": dictionary,
        }
    )
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    for out in OUTPUTS:
        run_job([tmp_path / "a.arrow"], tmp_path / out)
        first, second = read_output(tmp_path / out)
        assert (first["text"], first["list"], first["pair"]) == ("a", ["p"], ["p", "r"])
        assert (second["text"], second["list"], second["category"]) == ("b", None, "u")
        assert second["struct"] == {"k": "v"}


def test_times_in_nanoseconds_become_microseconds_in_json(tmp_path: Path) -> None:
    kinds = {"at": pa.timestamp("ns", "UTC"), "for": pa.duration("ns"), "on": pa.time64("ns")}
    table = pa.table(
        {"text": ["a", None], **{name: pa.array([1501, 1], kind) for name, kind in kinds.items()}}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    run_job([tmp_path / "a.parquet"], tmp_path / "o.jsonl", id="at")
    [row] = read_lines(tmp_path / "o.jsonl")
    assert (row["at"], row["on"]) == ("1970-01-01T00:00:00.000001Z", "00:00:00.000001")
    [error] = read_lines(tmp_path / "o.jsonl.errors.jsonl")
    assert error["id"] == "1970-01-01T00:00:00Z"
    run_job([tmp_path / "a.parquet"], tmp_path / "o.parquet")
    assert pq.read_table(tmp_path / "o.parquet")["at"].cast(pa.int64()).to_pylist() == [1501]


def test_a_table_of_types_that_arrow_does_not_know_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise pa.ArrowNotImplementedError("Integers with more than 64 bits not implemented")

    (tmp_path / "a.arrow").write_bytes(b"ARROW1")
    monkeypatch.setattr(pa.ipc, "open_file", refuse)
    with pytest.raises(InvalidInputError, match=r"a\.arrow is not valid arrow: Integers with more"):
        run_job([tmp_path / "a.arrow"], tmp_path / "o.jsonl")


@pytest.mark.parametrize("kind", [pa.int64(), pa.string(), pa.timestamp("ns")])
def test_the_id_of_a_row_that_fails_is_plain(tmp_path: Path, kind: Any) -> None:
    ids = pa.array([1, 2], pa.int64()).cast(kind)
    pq.write_table(pa.table({"text": [BAD, "a"], "id": ids}), tmp_path / "a.parquet")
    run_job([tmp_path / "a.parquet"], tmp_path / "o.jsonl", id="id")
    [error] = read_lines(tmp_path / "o.jsonl.errors.jsonl")
    assert error["id"] in (1, "1", "1970-01-01T00:00:00")


@pytest.mark.parametrize("texts", [[None, None], [BAD, f"{BAD} again"]])
@pytest.mark.parametrize("out", OUTPUTS)
def test_a_unit_in_which_every_row_fails_has_no_rows(
    tmp_path: Path, out: str, texts: list[str | None]
) -> None:
    table = pa.table({"text": pa.array([*texts, "good"], pa.string()), "n": [1, 2, 3]})
    pq.write_table(table, tmp_path / "a.parquet")
    total = run_job([tmp_path / "a.parquet"], tmp_path / out, limits=Limits(rows=2))
    assert total is not None
    assert (total.rows, total.errors) == (1, 2)
    assert [row["n"] for row in read_output(tmp_path / out)] == [3]


@pytest.mark.parametrize("out", OUTPUTS)
def test_columns_with_dictionaries_are_joined(tmp_path: Path, out: str) -> None:
    names = ["a.arrow", "b.arrow"]
    for name, colours in zip(names, (["red", "blue"], ["green", "red"]), strict=True):
        table = pa.table(
            {"text": [f"{name} 0", f"{name} 1"], "colour": pa.array(colours).dictionary_encode()}
        )
        with pa.ipc.new_file(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
    run_job([tmp_path / name for name in names], tmp_path / out)
    colours = [row["colour"] for row in read_output(tmp_path / out)]
    assert colours == ["red", "blue", "green", "red"]


def test_a_value_that_does_not_fit_its_column_is_an_error_of_its_row(tmp_path: Path) -> None:
    rows: list[object] = [{"text": "a", "year": 1999} for _ in range(1000)]
    source = write_lines(tmp_path / "a.jsonl", [*rows, {"text": "b", "year": "unknown"}])
    run_job([source], tmp_path / "out")
    [error] = read_lines(tmp_path / "out" / "errors.jsonl")
    assert error["line"] == 1001
    assert "'year' is string here and int64 before" in error["error"]


def test_a_table_that_lacks_a_column_is_refused_by_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "key": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["b"]}), tmp_path / "b.parquet")
    with pytest.raises(InvalidInputError, match=r"b\.parquet has no column 'key'"):
        run_job([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "out", id="key")


def test_a_structure_in_a_column_of_numbers_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "key": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["b"], "key": [{"x": 1}]}), tmp_path / "b.parquet")
    with pytest.raises(
        InvalidInputError, match=r"column 'key' is int64 in .* and struct<x: int64> in"
    ):
        run_job([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "out")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InvalidInputError, match=r"a\.parquet has two columns 'text'"):
        run_job([tmp_path / "a.parquet"], tmp_path / "out")


def test_a_table_with_damaged_rows_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b"]}), path)
    data = path.read_bytes()
    path.write_bytes(data[:40] + b"\xff" * 8 + data[48:])
    with pytest.raises(InvalidInputError, match=r"a\.parquet is damaged"):
        run_job([path], tmp_path / "out")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_what_is_no_table_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not a table at all")
    with pytest.raises(InvalidInputError, match=rf"{name} is not valid"):
        run_job([tmp_path / name], tmp_path / "out")


def test_an_empty_table_has_no_parts(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    total = run_job([tmp_path / "a.parquet"], tmp_path / "out")
    assert total is not None
    assert total.rows == 0
    assert (tmp_path / "out" / "_SUCCESS").exists()


@pytest.mark.parametrize("out", OUTPUTS)
def test_a_job_without_rows_has_an_output_without_rows(tmp_path: Path, out: str) -> None:
    (tmp_path / "a.txt").touch()
    run_job([tmp_path / "a.txt"], tmp_path / out)
    assert read_output(tmp_path / out) == []


def test_units_of_a_table_have_fewer_rows_where_texts_are_long(tmp_path: Path) -> None:
    texts = [f"{n:05}" * 200 for n in range(40)]
    pq.write_table(
        pa.table({"text": texts}), tmp_path / "a.parquet", use_dictionary=False, row_group_size=7
    )
    compute = FakeCompute()
    run_job([tmp_path / "a.parquet"], tmp_path / "out", compute, limits=Limits(bytes=10_000))
    assert len(list((tmp_path / "out").glob("part-*"))) in range(4, 7)
    assert [row["text"] for row in read_output(tmp_path / "out")] == texts


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_table_without_rows_changes_nothing_wherever_it_stands(tmp_path: Path, name: str) -> None:
    """An empty frame of pandas has columns of the type null."""
    empty, source = tmp_path / name, tmp_path / "b.parquet"
    nothing = pa.table({"text": pa.array([], pa.null()), "n": pa.array([], pa.null())})
    if name == "a.parquet":
        pq.write_table(nothing, empty)
    else:
        with pa.OSFile(str(empty), "wb") as file, pa.ipc.new_file(file, nothing.schema) as writer:
            writer.write_table(nothing)
    pq.write_table(pa.table({"text": ["one"], "n": [1]}), source)
    for number, inputs in enumerate(([empty, source], [source, empty])):
        run_job(inputs, tmp_path / f"{number}.parquet")
        table = pq.read_table(tmp_path / f"{number}.parquet")
        assert table.schema.field("n").type == pa.int64()
        assert table.drop_columns("embedding").to_pylist() == [{"row": 0, "text": "one", "n": 1}]


def test_views_of_texts_are_texts(tmp_path: Path) -> None:
    """Polars writes its strings so."""
    table = pa.table(
        {
            "text": pa.array(["a", None, "b"], pa.string_view()),
            "raw": pa.array([b"x", b"y", b"z"], pa.binary_view()),
        }
    )
    for name in ("a.arrow", "a.parquet"):
        source = tmp_path / name
        if name == "a.arrow":
            with (
                pa.OSFile(str(source), "wb") as file,
                pa.ipc.new_file(file, table.schema) as writer,
            ):
                writer.write_table(table)
        else:
            pq.write_table(table, source)
        run_job([source], tmp_path / "o.parquet", limits=Limits(rows=2), id="raw")
        found = pq.read_table(tmp_path / "o.parquet").drop_columns("embedding")
        assert found.to_pylist() == [{"raw": b"x", "text": "a"}, {"raw": b"z", "text": "b"}]
        assert found.schema.types == [pa.binary(), pa.string()]
        for made in tmp_path.glob("o.parquet*"):
            made.unlink()


def test_a_further_input_whose_type_is_another_is_refused_before_its_vectors_are_computed(
    tmp_path: Path,
) -> None:
    first, second = tmp_path / "a.parquet", tmp_path / "b.parquet"
    pq.write_table(pa.table({"text": ["x"], "n": [1]}), first)
    pq.write_table(pa.table({"text": ["y"], "n": ["one"]}), second)
    compute = FakeCompute()
    run_job([first], tmp_path / "out", compute)
    with pytest.raises(InvalidInputError) as caught:
        run_job([first, second], tmp_path / "out", compute)
    assert str(caught.value).startswith(
        f"{second} has column 'n' as string, which is not int64 as in the output ("
    )
    assert str(caught.value).endswith("leave it out with --keep")
    assert ["y"] not in compute.requests
