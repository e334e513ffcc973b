"""How files are cut into ranges, whatever is in them."""

import io
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.bulk import lines
from embedd.bulk.delimited import read_delimited, read_header, scan_delimited, split_records
from embedd.bulk.lines import read_json_lines, read_text_lines, scan_lines
from embedd.bulk.reading import read_head
from embedd.bulk.records import Fault
from embedd.bulk.sources import Format, find_paths, make_sources
from embedd.bulk.units import Limits, Range
from embedd.errors import InvalidInputError

limits = st.builds(Limits, rows=st.integers(1, 9), bytes=st.integers(1, 60))


def check_ranges(ranges: Sequence[Range], size: int, most: Limits, *, start: int = 0) -> None:
    """They follow each other from the start to the end, within the limits."""
    ends = [start, *(one.end for one in ranges)]
    assert [one.start for one in ranges] == ends[:-1]
    assert ends[-1] == size
    assert all(one.rows <= most.rows for one in ranges)
    assert all(one.end - one.start <= most.bytes or one.rows == 1 for one in ranges)


@given(st.lists(st.binary(max_size=30).map(lambda one: one.replace(b"\n", b"")), max_size=40),
       st.booleans(), limits, st.integers(1, 70))  # fmt: skip
def test_lines_are_cut_without_a_gap_whatever_the_blocks(
    rows: list[bytes], ends: bool, most: Limits, block: int
) -> None:
    data = b"\n".join(rows) + (b"\n" if ends else b"")
    before = lines.BLOCK
    lines.BLOCK = block  # type: ignore[misc]  # blocks that end anywhere
    try:
        ranges = list(scan_lines(io.BytesIO(data), most))
    finally:
        lines.BLOCK = before  # type: ignore[misc]  # as it was
    check_ranges(ranges, len(data), most)
    pieces = [data[one.start : one.end] for one in ranges]
    counts = [piece.count(b"\n") + (not piece.endswith(b"\n")) for piece in pieces]
    assert counts == [one.rows for one in ranges]
    assert all(piece.endswith(b"\n") for piece in pieces[:-1])
    assert [one.line for one in ranges] == [1 + data[: one.start].count(b"\n") for one in ranges]
    read = [
        record.values
        for one, piece in zip(ranges, pieces, strict=True)
        for record in read_text_lines(piece, line=one.line)
    ]
    assert len(read) == sum(one.rows for one in ranges)


fields = st.text(st.sampled_from('ab,"\r\n\té'), max_size=6)


@given(st.lists(st.tuples(fields, fields), min_size=1, max_size=20), limits)
def test_records_with_line_ends_in_quotes_stay_whole(
    rows: list[tuple[str, str]], most: Limits
) -> None:
    def quote(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    text = "one,two\r\n" + "".join(f"{quote(a)},{quote(b)}\r\n" for a, b in rows)
    data = text.encode()
    names, start, _ = read_header(io.BytesIO(data), ",")
    ranges = list(scan_delimited(io.BytesIO(data), most, ","))
    check_ranges(ranges, len(data), most, start=start)
    found = []
    for one in ranges:
        records = list(read_delimited(data[one.start : one.end], names, ",", line=one.line))
        assert len(records) == one.rows
        assert records[0].line == 1 + data[: one.start].count(b"\n")
        found += [record.values for record in records]
    assert found == [{"one": a, "two": b} for a, b in rows]


@given(st.binary(max_size=200), limits)
def test_any_bytes_are_records_and_the_same_ones_when_they_are_read(
    data: bytes, most: Limits
) -> None:
    data = b"one,two\n" + data
    ranges = list(scan_delimited(io.BytesIO(data), most, ","))
    for one in ranges:
        records = list(read_delimited(data[one.start : one.end], ["one", "two"], ",", line=1))
        assert [record.row for record in records] == sorted({record.row for record in records})
        assert all(record.row < one.rows for record in records)
    pieces = [piece for piece, _ in split_records(io.BytesIO(data), ",")]
    assert b"".join(pieces) == data


def test_memory_does_not_grow_with_a_file_or_a_line() -> None:
    class Endless(io.RawIOBase):
        def __init__(self, blocks: int, block: bytes) -> None:
            self._left, self._block = blocks, block

        def read(self, _: int = -1) -> bytes:
            self._left -= 1
            return self._block if self._left >= 0 else b""

    tracemalloc.start()
    try:
        for block in (b"a line of text\n" * 70_000, b"x" * (1 << 20)):
            ranges = scan_lines(Endless(100, block), Limits())  # type: ignore[arg-type]  # reads alone
            assert sum(one.end - one.start for one in ranges) == 100 * len(block)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@given(st.integers(0, 11), st.sampled_from(['"oops,x', 'x,"oops', '"oo""ps,x']), limits)
def test_a_quote_that_is_not_closed_takes_no_other_rows(at: int, bad: str, most: Limits) -> None:
    rows = [f"{number},text" for number in range(11)]
    data = "".join(f"{row}\n" for row in ["n,text", *rows[:at], bad, *rows[at:]]).encode()
    ranges = list(scan_delimited(io.BytesIO(data), most, ","))
    check_ranges(ranges, len(data), most, start=len("n,text\n"))
    read = [
        record
        for one in ranges
        for record in read_delimited(data[one.start : one.end], ["n", "text"], ",", line=one.line)
    ]
    assert [record.line for record in read] == list(range(2, 14))
    bad_ones = [record for record in read if isinstance(record.values, Fault)]
    assert [record.line for record in bad_ones] == [at + 2]
    assert "a quote is not closed" in str(bad_ones[0].values)
    assert [one.values["n"] for one in read if not isinstance(one.values, Fault)] == [
        str(number) for number in range(11)
    ]
    lengths = [len(line) for line in data.splitlines(keepends=True)]
    split = list(split_records(io.BytesIO(data), ","))
    assert [(len(record), count) for record, count in split] == [(one, 1) for one in lengths]


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="two columns are 'text'"):
        read_header(io.BytesIO(b"text,n,text\na,1,b\n"), ",")


def test_an_error_of_a_header_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"text\n')
    [source] = make_sources(find_paths([str(tmp_path / "a.csv")]))
    with pytest.raises(InvalidInputError, match=r"a\.csv: the table has no header: .* not closed"):
        read_head(source)


def test_json_lines_may_begin_with_a_byte_order_mark() -> None:
    [record] = read_json_lines(b'\xef\xbb\xbf{"a": 1}\r\n', line=1)
    assert record.values == {"a": 1}


@pytest.mark.parametrize(
    "line", [b'{"a": "\\ud800"}', b"[" * 3000, b'{"a": NaN}', b'"a"', b"{", b'{"a": "\xff"}']
)
def test_what_is_not_an_object_in_utf8_is_a_fault_of_its_line(line: bytes) -> None:
    first, second = read_json_lines(line + b'\n{"a": 1}', line=5)
    assert isinstance(first.values, Fault)
    assert first.line == 5
    assert second.values == {"a": 1}


def test_a_record_with_too_few_fields_is_a_fault() -> None:
    first, second = read_delimited(b"a\nb,c\n", ["one", "two"], ",", line=2)
    assert isinstance(first.values, Fault)
    assert first.values == "the record has 1 field, and the header 2"
    assert second.values == {"one": "b", "two": "c"}
    [longer] = read_delimited(b"a,b,c\n", ["one", "two"], ",", line=2)
    assert longer.values == "the record has 3 fields, and the header 2"


def test_a_field_that_is_not_utf8_is_a_fault_that_names_its_column() -> None:
    [record] = read_delimited(b"a,\xff\n", ["one", "two"], ",", line=2)
    assert isinstance(record.values, Fault)
    assert "column 'two' is not UTF-8" in record.values


def test_a_table_needs_a_header_unless_it_is_empty() -> None:
    assert read_header(io.BytesIO(b""), ",") == ([], 0, 1)
    with pytest.raises(InvalidInputError, match="the header has no names"):
        read_header(io.BytesIO(b"\na,b\n"), ",")


def test_a_byte_order_mark_is_not_part_of_the_first_name() -> None:
    names, start, line = read_header(io.BytesIO(b'\xef\xbb\xbf"a",b\nc,d\n'), ",")
    assert (names, start, line) == (["a", "b"], 9, 2)


def test_inputs_are_found_once_and_in_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a.jsonl.gz", "deep/c.csv", "_x.txt", ".y.txt", "z.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_paths([str(tmp_path / "b.txt"), str(tmp_path), str(tmp_path / "*.txt")])
    assert [(Path(path).name, form) for path, form in found] == [
        ("b.txt", Format.TXT),
        ("a.jsonl.gz", Format.JSONL),
        ("c.csv", Format.CSV),
        ("_x.txt", Format.TXT),
    ]


@pytest.mark.parametrize(("name", "text"), [("no", "no input"), ("a.bin", "--format")])
def test_an_input_that_cannot_be_read_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "a.bin").touch()
    with pytest.raises(InvalidInputError, match=text):
        find_paths([str(tmp_path / name)])
    assert find_paths([str(tmp_path / "a.bin")], Format.TXT)[0][1] is Format.TXT
