"""Columns of several inputs: all of them are in the output, null where an input lacks one."""

# ruff: noqa: E402 - where pyarrow is not installed the module ends before it is imported
import datetime as dt
import gzip
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.needs import require_arrow

require_arrow()

import pyarrow as pa
import pyarrow.parquet as pq

from embedd.bulk.commit import Counts, read_record
from embedd.bulk.folder import Folder
from embedd.bulk.union import join_types
from embedd.errors import InvalidInputError
from tests.unit.bulk.jobs import FakeCompute, read_lines, run_job, write_lines

OUTPUTS = ["out", "o.parquet", "o.arrow", "o.jsonl"]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of an output without their vectors."""
    if path.suffix == ".jsonl":
        rows = read_lines(path)
    elif path.suffix == ".arrow":
        rows = pa.ipc.open_file(pa.memory_map(str(path))).read_all().to_pylist()
    else:
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        rows = pa.concat_tables([pq.read_table(one) for one in files]).to_pylist()
    return [{name: row[name] for name in row if name not in ("embedding", "row")} for row in rows]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """An input of each kind, with a column of its own each."""
    csv, table, lines = (tmp_path / f"i.{one}" for one in ("csv", "parquet", "jsonl.gz"))
    csv.write_text("text,lang\na,de\n")
    pq.write_table(pa.table({"when": [dt.date(2020, 1, 2)], "text": ["b"]}), table)
    lines.write_bytes(gzip.compress(b'{"text":"c","meta":{"n":1}}\n'))
    text = tmp_path / "i.txt"
    text.write_text("d\n")
    return {"csv": csv, "parquet": table, "jsonl": lines, "txt": text}


@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("backwards", [False, True])
def test_an_output_has_the_columns_of_all_inputs(
    tmp_path: Path, files: dict[str, Path], out: str, backwards: bool
) -> None:
    inputs = [*reversed(files.values())] if backwards else [*files.values()]
    run_job(inputs, tmp_path / out)
    is_json = out == "o.jsonl"
    expected: list[dict[str, Any]] = [
        {"text": "a", "lang": "de", "when": None, "meta": None},
        {"text": "b", "lang": None, "when": dt.date(2020, 1, 2), "meta": None},
        {"text": "c", "lang": None, "when": None, "meta": {"n": 1} if is_json else '{"n":1}'},
        {"text": "d", "lang": None, "when": None, "meta": None},
    ]
    if is_json:
        expected[1]["when"] = "2020-01-02"
    assert read_rows(tmp_path / out) == (expected[::-1] if backwards else expected)


def test_columns_come_in_the_order_in_which_inputs_have_them(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    run_job([files["jsonl"], files["parquet"], files["csv"]], tmp_path / "o.parquet")
    names = pq.read_schema(tmp_path / "o.parquet").names
    assert names == ["row", "text", "meta", "when", "lang", "embedding"]


@pytest.mark.parametrize(
    ("options", "name", "option"),
    [
        ({"keep": "lang"}, "lang", "--keep"),
        ({"id": "lang"}, "lang", "--id"),
        ({"text": "{lang} {text}"}, "lang", "--text"),
    ],
)
def test_a_column_that_is_named_must_be_in_all_inputs(
    tmp_path: Path, files: dict[str, Path], options: dict[str, Any], name: str, option: str
) -> None:
    compute = FakeCompute()
    with pytest.raises(InvalidInputError) as caught:
        run_job([files["csv"], files["parquet"]], tmp_path / "o.parquet", compute, **options)
    assert str(caught.value) == (
        f"{files['parquet']} has no column {name!r}: its columns are when, text. Name with "
        f"{option} what all inputs have, or give this one to a command of its own"
    )
    assert not compute.requests


def test_a_field_of_any_input_of_json_lines_can_be_named(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    other = write_lines(tmp_path / "e.jsonl", [{"text": "e"}])
    run_job([other, files["jsonl"]], tmp_path / "o.jsonl", keep="meta")
    assert read_rows(tmp_path / "o.jsonl") == [{"meta": None}, {"meta": {"n": 1}}]


@pytest.mark.parametrize(
    ("columns", "kind", "values"),
    [
        (([1], [2.5]), pa.float64(), [1.0, 2.5]),
        (([1], ["x"]), pa.string(), ["1", "x"]),
        (([True], ["x"]), pa.string(), ["true", "x"]),
        (([None], [7]), pa.int64(), [None, 7]),
        (([None], [None]), pa.string(), [None, None]),
    ],
)
@pytest.mark.parametrize("kinds", ["tt", "tj", "jt", "jj"])
def test_a_column_has_a_type_that_holds_the_values_of_all_inputs(
    tmp_path: Path, columns: tuple[list[Any], ...], kind: Any, values: list[Any], kinds: str
) -> None:
    inputs = []
    for number, (form, column) in enumerate(zip(kinds, columns, strict=True)):
        path = tmp_path / f"{number}.{'parquet' if form == 't' else 'jsonl'}"
        if form == "t":
            pq.write_table(pa.table({"text": ["a"], "n": column}), path)
        else:
            write_lines(path, [{"text": "a", "n": column[0]}])
        inputs.append(path)
    total = run_job(inputs, tmp_path / "o.parquet")
    assert total == Counts(rows=2, vectors=2, tokens=total.tokens if total else 0)
    found = pq.read_table(tmp_path / "o.parquet")["n"]
    assert (found.type, found.to_pylist()) == (kind, values)


def test_structures_of_a_table_are_json_beside_fields_that_are(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "m": [{"n": 1}]}), tmp_path / "a.parquet")
    write_lines(tmp_path / "b.jsonl", [{"text": "b", "m": [2]}])
    run_job([tmp_path / "a.parquet", tmp_path / "b.jsonl"], tmp_path / "o.parquet")
    assert [row["m"] for row in read_rows(tmp_path / "o.parquet")] == ['{"n":1}', "[2]"]


def test_types_of_tables_are_joined_as_arrow_joins_them(tmp_path: Path) -> None:
    inputs = []
    for number, kind in enumerate([pa.int32(), pa.int16(), pa.int64()]):
        inputs.append(tmp_path / f"{number}.parquet")
        pq.write_table(pa.table({"text": ["a"], "n": pa.array([number], kind)}), inputs[-1])
    for some, joined in ((inputs[:2], pa.int32()), (inputs, pa.int64())):
        out = tmp_path / f"{len(some)}-o.parquet"
        run_job(some, out)
        assert pq.read_schema(out).field("n").type == joined


def test_types_that_no_column_holds_are_refused_before_anything_is_computed(
    tmp_path: Path,
) -> None:
    first, second = tmp_path / "a.parquet", tmp_path / "b.csv"
    pq.write_table(pa.table({"text": ["a"], "n": [[1]]}), first)
    second.write_text("text,n\nb,x\n")
    compute = FakeCompute()
    with pytest.raises(InvalidInputError) as caught:
        run_job([first, second], tmp_path / "o.parquet", compute)
    kind = pq.read_schema(first).field("n").type
    assert str(caught.value) == (
        f"column 'n' is {kind} in {first} and string in {second}, which no column holds together: "
        "name others with --keep, or give one of the files to a command of its own"
    )
    assert not compute.requests
    run_job([first, second], tmp_path / "o.parquet", keep="text")  # what is left out may differ
    run_job([first, second], tmp_path / "o.jsonl")  # which has no types
    assert [row["n"] for row in read_lines(tmp_path / "o.jsonl")] == [[1], "x"]


def test_types_are_joined_the_same_in_any_order() -> None:
    kinds = ["null", "bool", "int64", "float64", "string", "json"]
    for one in kinds:
        assert join_types(one, one) == one
        for other in kinds:
            assert join_types(one, other) == join_types(other, one)


def test_a_text_column_holds_what_is_no_text(tmp_path: Path) -> None:
    rows: list[object] = [{"text": "a", "id": "x"} for _ in range(1000)]
    source = write_lines(tmp_path / "a.jsonl", [*rows, {"text": "b", "id": 5}])
    total = run_job([source], tmp_path / "o.parquet")
    assert total is not None
    assert total.errors == 0
    assert read_rows(tmp_path / "o.parquet")[-1] == {"id": "5", "text": "b"}


def test_a_value_that_a_type_of_a_table_does_not_hold_is_an_error_of_its_row(
    tmp_path: Path,
) -> None:
    pq.write_table(pa.table({"text": ["a"], "when": [dt.date(2020, 1, 2)]}), tmp_path / "a.parquet")
    rows: list[object] = [{"text": "b"} for _ in range(1000)]
    write_lines(tmp_path / "b.jsonl", [*rows, {"text": "c", "when": "soon"}])
    run_job([tmp_path / "a.parquet", tmp_path / "b.jsonl"], tmp_path / "out")
    [error] = read_lines(tmp_path / "out" / "errors.jsonl")
    assert error["error"] == (
        "column 'when' is string here and date32[day] before: leave it out with --keep, or write "
        ".jsonl, which has no types"
    )


def test_the_text_is_the_one_of_the_first_input(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("body\na\n")
    (tmp_path / "b.csv").write_text("body,lang\nb,de\n")
    run_job([tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "o.jsonl")
    assert [row["body"] for row in read_lines(tmp_path / "o.jsonl")] == ["a", "b"]


def test_columns_of_further_inputs_that_the_output_has_not_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,lang\na,de\n")
    (tmp_path / "b.csv").write_text("text,title,x\nb,B,1\n")
    (tmp_path / "c.csv").write_text("text\nc\n")
    inputs, said = [tmp_path / "a.csv"], list[str]()
    run_job(inputs, tmp_path / "out", notify=said.append)
    run_job([*inputs, tmp_path / "c.csv"], tmp_path / "out", notify=said.append)
    assert said == []
    inputs += [tmp_path / "c.csv", tmp_path / "b.csv"]
    run_job(inputs, tmp_path / "out", notify=said.append)
    [line] = said
    assert line == (
        "left out of the inputs that were added: title, x; the columns of the output are those "
        "of its first inputs, and --restart begins anew with all"
    )
    found = [(row["text"], row["lang"]) for row in read_rows(tmp_path / "out")]
    assert found == [("a", "de"), ("c", None), ("b", None)]


def test_further_inputs_of_a_job_that_names_its_columns_are_left_without_a_word(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.csv").write_text("text,lang\na,de\n")
    (tmp_path / "b.csv").write_text("text,lang,title\nb,de,B\n")
    said: list[str] = []
    for inputs in (["a.csv"], ["a.csv", "b.csv"]):
        files = [tmp_path / one for one in inputs]
        run_job(files, tmp_path / "out", keep="lang", notify=said.append)
    assert said == []


def test_fields_that_appear_too_late_are_counted_with_the_parts(tmp_path: Path) -> None:
    rows: list[object] = [{"text": "a"} for _ in range(1000)]
    late: list[object] = [{"text": "b", f"new{number}": 1} for number in range(30)]
    source = write_lines(tmp_path / "a.jsonl", [*rows, *late])
    total = run_job([source], tmp_path / "out")
    assert total is not None
    assert total.left_out == tuple(f"new{number}" for number in range(20))  # of any number
    record = read_record(Folder(tmp_path / "out", "1-of-1"), 0)
    assert record is not None
    assert record.counts == total
    named = run_job([source], tmp_path / "named", keep="text")
    assert named is not None
    assert named.left_out == ()


def test_totals_of_earlier_versions_are_read() -> None:
    total = msgspec.json.decode(
        b'{"rows":1,"vectors":1,"errors":0,"tokens":1,"cut":0}', type=Counts
    )
    assert total + Counts(left_out=("a",)) == Counts(rows=1, vectors=1, tokens=1, left_out=("a",))
