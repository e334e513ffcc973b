"""The lines that read an output work, as far as their libraries are here."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from embedd.bulk.columns import Piece, Selection
from embedd.bulk.parts import choose_output
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


def test_vectors_of_bytes_have_no_cosine_in_a_database() -> None:
    kinds = {}
    for dtype in ("float32", "ubinary"):
        lines = describe_reading(Path("x"), choose_folder(), SELECTION, width=8, dtype=dtype)
        kinds[dtype] = [line.partition(":")[0] for line in lines]
    assert "nearest" in kinds["float32"]
    assert "nearest" not in kinds["ubinary"]


def choose_folder() -> Any:
    from embedd.bulk.parts import Output

    return Output.FOLDER
