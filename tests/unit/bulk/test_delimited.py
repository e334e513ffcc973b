"""Tables as text whose fields are not divided by the delimiter of their format."""

import io
from pathlib import Path

import pytest

from embedd.bulk import delimited
from embedd.bulk.columns import select
from embedd.bulk.commit import JOB
from embedd.bulk.delimited import read_first_header
from embedd.bulk.folder import Folder
from embedd.bulk.job import decode_job
from embedd.bulk.sources import Format
from embedd.bulk.stdin import StreamUnits
from embedd.bulk.units import Limits
from embedd.errors import InvalidInputError
from tests.unit.bulk.jobs import FakeCompute, read_lines, run_job


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize(
    ("header", "names", "found"),
    [
        (b"id;text", ["id", "text"], ";"),
        (b'"id";"text"', ["id", "text"], ";"),
        (b"id\ttext", ["id", "text"], "\t"),
        (b"a;b\tc\td", ["a;b", "c", "d"], "\t"),
        (b"id,a;text", ["id", "a;text"], ","),
        (b'"id;text"', ["id;text"], ","),
        (b"text", ["text"], ","),
        (b'id;"te\nxt"', ['id;"te'], ","),
    ],
)
def test_the_header_of_a_csv_says_its_delimiter(
    mark: bytes, header: bytes, names: list[str], found: str
) -> None:
    read, delimiter, line = read_first_header(io.BytesIO(mark + header + b"\n1;hallo\n"), ",")
    assert (read, delimiter, line) == (names, found, 2)


def test_a_tsv_has_tabs_alone() -> None:
    assert read_first_header(io.BytesIO(b"id;text\n"), "\t") == (["id;text"], "\t", 2)


@pytest.mark.parametrize("delimiter", [";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_units_of_a_csv_have_the_delimiter_of_its_header(
    tmp_path: Path, delimiter: str, end: str
) -> None:
    source = tmp_path / "a.csv"
    rows = [f'{number}{delimiter}"3,{number}{delimiter}x"' for number in range(7)]
    source.write_bytes(end.join(["\ufeff" + delimiter.join(["id", "text"]), *rows, ""]).encode())
    for shard in ((2, 2), (1, 2)):  # one that has not the first unit reads the header too
        run_job([source], tmp_path / "o.jsonl", limits=Limits(rows=2), shard=shard)
    found = [(row["id"], row["text"]) for row in read_lines(tmp_path / "o.jsonl")]
    assert found == [(str(number), f"3,{number}{delimiter}x") for number in range(7)]


def test_stdin_has_the_delimiter_of_its_header() -> None:
    data = io.BytesIO(b"id;text\n1;hallo\n2;welt\n")
    stream = StreamUnits(data, Format.CSV, Limits())
    selection = select(stream.find_columns(), text=None, id_=None, keep="all")
    [(_, rows)] = stream.iterate(selection, typed=False)
    assert rows.texts == ["hallo", "welt"]
    assert rows.kept["id"] == ["1", "2"]


def test_a_job_that_was_planned_with_another_delimiter_goes_on_with_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As versions did that knew no other delimiters: their records name none."""
    source, out = tmp_path / "a.csv", tmp_path / "o.jsonl"
    source.write_text("id;text\n1;one\n2;two\n3;three\n")

    def run(compute: FakeCompute, shard: tuple[int, int]) -> None:
        limits = Limits(rows=1)
        run_job([source], out, compute, limits=limits, shard=shard, text="id;text")

    with monkeypatch.context() as patch:
        patch.setattr(delimited, "OTHERS", {})
        run(FakeCompute(), (1, 3))
    path = tmp_path / "o.jsonl.parts" / JOB
    path.write_text(path.read_text().replace('"delimiter": null', '"of_another_version": null'))
    assert decode_job(Folder(out.with_name("o.jsonl.parts"), "x").read(JOB) or b"").planned
    for shard in ((2, 3), (3, 3)):
        run(FakeCompute(), shard)
    assert [row["id;text"] for row in read_lines(out)] == ["1;one", "2;two", "3;three"]


def test_a_name_of_before_is_refused_with_the_columns_that_there_are(tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_text("id;text\n1;one\n")
    with pytest.raises(InvalidInputError, match="no column 'id;text': the columns are id, text"):
        run_job([source], tmp_path / "o.jsonl", text="id;text")
