"""Whole jobs without the optional library: every row once, in order, whatever interrupts them."""

import asyncio
import gzip
import os
import random
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedd.bulk.commit import JOB
from embedd.bulk.compute import MixedBackendsError, Wanted
from embedd.bulk.ending import finish_job
from embedd.bulk.folder import Folder, FolderLockedError
from embedd.bulk.job import Model, decode_job, fit_limits
from embedd.bulk.parts import Output, choose_output
from embedd.bulk.runner import ErrorBudget, ErrorBudgetError
from embedd.bulk.sources import Format
from embedd.bulk.units import Limits
from embedd.errors import ExtraMissingError, InvalidInputError
from tests.unit.bulk.jobs import (
    BAD,
    MODEL,
    FakeCompute,
    read_lines,
    run_job,
    vector_of,
    write_lines,
)

SMALL = Limits(rows=3, bytes=64)
LATIN_1 = "iconv -f latin1 -t utf8"


class Killed(BaseException):
    """Stands for a death of the process in the middle of a request."""


def to_vectors(texts: Sequence[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array([vector_of(one) for one in texts], np.float32)


def test_each_line_becomes_a_row_in_order(tmp_path: Path) -> None:
    texts = [f"line {number}" for number in range(10)]
    source = tmp_path / "a.txt"
    source.write_text("\n".join(texts))
    total = run_job([source], tmp_path / "out.jsonl", limits=SMALL)
    rows = read_lines(tmp_path / "out.jsonl")
    assert [row["row"] for row in rows] == list(range(10))
    assert [row["text"] for row in rows] == texts
    np.testing.assert_array_equal(
        np.array([row["embedding"] for row in rows], np.float32), to_vectors(texts)
    )
    assert total is not None
    assert (total.rows, total.errors) == (10, 0)
    assert not (tmp_path / "out.jsonl.parts").exists()


@settings(max_examples=15)  # each is several jobs with their files
@given(
    st.lists(
        st.lists(
            st.text(st.characters(codec="utf-8", exclude_characters=BAD), max_size=9), max_size=12
        ),
        max_size=4,
    ),
    st.integers(1, 5),
    st.integers(8, 40),
    st.integers(0, 6),
    st.randoms(use_true_random=False),
)
def test_every_row_is_there_once_and_in_order_however_often_the_job_dies(
    files: list[list[str]], rows: int, size: int, deaths: int, chance: random.Random
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        texts = [text for file in files for text in file]
        inputs = [
            write_lines(root / f"{number}.jsonl", [{"text": text} for text in file])
            for number, file in enumerate(files)
        ]
        inputs = [one for one in inputs if one.stat().st_size] or [
            write_lines(root / "one.jsonl", [{"text": "a"}])
        ]
        texts = texts or ["a"]
        target, limits = root / "out.jsonl", Limits(rows=rows, bytes=size)

        def die(_: Sequence[str]) -> None:
            if chance.random() < 0.3:
                raise Killed

        for _ in range(deaths):
            try:
                total = run_job(inputs, target, FakeCompute(before=die), limits=limits)
            except Killed:
                continue
            assert total is not None
            break
        else:
            run_job(inputs, target, limits=limits)
        found = read_lines(target)
        assert [row["row"] for row in found] == list(range(len(texts)))
        assert [row["text"] for row in found] == texts
        vectors = np.array([row["embedding"] for row in found], np.float32)
        np.testing.assert_array_equal(vectors, to_vectors(texts))


def test_the_finished_parts_are_not_computed_again(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("".join(f"{number}\n" for number in range(9)))
    first = FakeCompute()

    def stop_later(event: asyncio.Event) -> None:
        first.before = lambda _texts: event.set()

    run_job([source], tmp_path / "out.jsonl", first, limits=SMALL, stop=stop_later)
    assert not (tmp_path / "out.jsonl").exists()
    second = FakeCompute()
    run_job([source], tmp_path / "out.jsonl", second, limits=SMALL)
    once = sorted(text for request in first.requests + second.requests for text in request)
    assert once == [str(number) for number in range(9)]
    assert first.requests
    assert second.requests
    assert len(read_lines(tmp_path / "out.jsonl")) == 9


def test_npy_has_the_vectors_and_beside_them_the_ids(tmp_path: Path) -> None:
    source = write_lines(
        tmp_path / "a.jsonl", [{"text": f"text {n}", "key": f"k{n}"} for n in range(7)]
    )
    run_job([source], tmp_path / "v.npy", limits=SMALL, id="key", keep="none")
    vectors = np.load(tmp_path / "v.npy")
    np.testing.assert_array_equal(vectors, to_vectors([f"text {n}" for n in range(7)]))
    assert sorted(one.name for one in tmp_path.iterdir() if one.name.startswith("v.")) in (
        ["v.ids.jsonl", "v.npy", "v.npy.job.json"],
        ["v.ids.parquet", "v.npy", "v.npy.job.json"],
    )


def test_without_the_optional_library_the_ids_are_json_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedd.bulk.sources.find_spec", lambda _name: None)
    source = write_lines(tmp_path / "a.jsonl", [{"text": "a", "key": 3}, {"text": "b", "key": 1}])
    run_job([source], tmp_path / "v.npy", id="key", keep="none")
    assert read_lines(tmp_path / "v.ids.jsonl") == [{"key": 3}, {"key": 1}]
    assert np.load(tmp_path / "v.npy").shape == (2, 4)


def test_what_a_command_left_that_was_killed_while_it_put_parts_together_is_removed(
    tmp_path: Path,
) -> None:
    source = tmp_path / "a.txt"
    source.write_text("a\n")
    others = [".tmp-12-b-o.jsonl", ".tmp-x-o.jsonl"]
    for name in (".tmp-12-o.jsonl", *others):
        (tmp_path / name).write_text("half")
    run_job([source], tmp_path / "o.jsonl")
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(
        [*others, "a.txt", "o.jsonl", "o.jsonl.job.json"]
    )


def test_a_table_needs_the_optional_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedd.bulk.sources.find_spec", lambda _name: None)
    source = tmp_path / "a.parquet"
    source.touch()
    with pytest.raises(ExtraMissingError, match=r"pip install 'embedd-server\[bulk\]'"):
        run_job([source], tmp_path / "o.jsonl")
    with pytest.raises(ExtraMissingError, match="the output"):
        run_job([source], tmp_path / "out")
    with pytest.raises(ExtraMissingError, match=r"s3://bucket/o\.jsonl"):
        choose_output("s3://bucket/o.jsonl?scheme=http")


@pytest.mark.parametrize("name", ["o.npz/", "o.jsonl/", "corpus.v2", "s.e.books"])
def test_a_slash_or_an_ending_of_no_file_is_a_folder(name: str) -> None:
    pytest.importorskip("pyarrow")
    assert choose_output(name) is Output.FOLDER


def test_rows_that_cannot_be_read_or_embedded_are_listed_and_the_others_computed(
    tmp_path: Path,
) -> None:
    source = tmp_path / "a.jsonl"
    lines = [
        b'{"text": "good", "id": "a"}',
        b'{"text": null, "id": "b"}',
        b'{"text": "broken',
        b"[1]",
        b"",
        b'{"text": "\xff"}',
        b'{"text": ["a"], "id": "c"}',
        b'{"id": "d"}',
        b'{"text": "%b", "id": "e"}' % BAD.encode(),
        b'{"text": "", "id": "a"}',
    ]
    source.write_bytes(b"\n".join(lines))
    total = run_job([source], tmp_path / "out.jsonl", id="id")
    rows = read_lines(tmp_path / "out.jsonl")
    assert [(row["id"], row["text"]) for row in rows] == [("a", "good"), ("a", "")]
    errors = read_lines(tmp_path / "out.jsonl.errors.jsonl")
    assert {error["file"] for error in errors} == {str(source)}
    assert [(one["row"], one["line"], one.get("id")) for one in errors] == [
        (1, 2, "b"),
        (2, 3, None),
        (3, 4, None),
        (5, 6, None),
        (6, 7, "c"),
        (7, 8, "d"),
        (8, 9, "e"),
    ]
    assert [one["error"].split(":")[0] for one in errors] == [
        "the text is null (column text)",
        "the line is not valid JSON",
        "the line is not a JSON object",
        "not UTF-8",
        "column 'text' is not a text",
        "the text is null (column text)",
        "the text is bad",
    ]
    assert errors[3]["error"].endswith(": convert the file, if it is Latin-1 with " + LATIN_1)
    assert (errors[-1]["tokens"], errors[-1]["limit"]) == (9, 8)
    assert total is not None
    assert (total.rows, total.errors) == (2, 7)


@pytest.mark.parametrize("names", [True, False])
def test_a_text_at_fault_is_found_whether_or_not_the_error_names_it(
    tmp_path: Path, *, names: bool
) -> None:
    texts = [f"{number}{BAD if number in {3, 17} else ''}" for number in range(20)]
    source = tmp_path / "a.txt"
    source.write_text("\n".join(texts))
    run_job([source], tmp_path / "out.jsonl", FakeCompute(names=names))
    kept = [row["row"] for row in read_lines(tmp_path / "out.jsonl")]
    assert kept == [number for number in range(20) if number not in {3, 17}]
    errors = read_lines(tmp_path / "out.jsonl.errors.jsonl")
    assert [one["row"] for one in errors] == [3, 17]


def test_equal_texts_of_a_unit_are_computed_once(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("a\nb\na\na\nb\n")
    compute = FakeCompute()
    run_job([source], tmp_path / "out.jsonl", compute)
    assert sorted(text for request in compute.requests for text in request) == ["a", "b"]
    assert [row["text"] for row in read_lines(tmp_path / "out.jsonl")] == ["a", "b", "a", "a", "b"]


def test_texts_of_like_length_share_a_request(tmp_path: Path) -> None:
    texts = [letter * length for letter in "abcd" for length in (40_000, 30_000, 10)]
    source = tmp_path / "a.txt"
    source.write_text("\n".join(texts))
    compute = FakeCompute()
    run_job([source], tmp_path / "out.jsonl", compute)
    lengths = [[len(text) for text in request] for request in compute.requests]
    assert [one for request in lengths for one in request] == sorted(
        (len(text) for text in texts), reverse=True
    )
    assert max(map(sum, lengths)) <= 80_000


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"model": replace(MODEL, digest="ba9876543210")}, "digest was '0123456789ab'"),
        ({"model": replace(MODEL, prefix="doc: ")}, "prefix was '' and is 'doc: '"),
        ({"wanted": Wanted(model="fake", dimensions=2)}, "dimensions was not set and is 2"),
        ({"wanted": Wanted(model="fake", chunk=8)}, "chunk was not set and is 8"),
        ({"wanted": Wanted(model="fake", dtype="int8")}, "dtype was 'float32' and is 'int8'"),
        ({"limit": 3}, "limit was not set and is 3"),
        ({"text": "{text}!"}, "text was not set and is '{text}!'"),
    ],
)
def test_another_job_is_refused_with_the_difference(
    tmp_path: Path, change: dict[str, object], difference: str
) -> None:
    source = tmp_path / "a.txt"
    source.write_text("a\nb\n")
    run_job([source], tmp_path / "out.jsonl", stop=lambda event: event.set())
    with pytest.raises(InvalidInputError, match="--restart") as caught:
        run_job([source], tmp_path / "out.jsonl", **change)  # type: ignore[arg-type]  # of a table
    assert difference in str(caught.value)


@pytest.mark.parametrize(
    ("before", "now"), [("fake", "FAKE:latest"), ("library/fake:latest", "fake")]
)
def test_names_of_the_same_model_go_on_with_a_job(tmp_path: Path, before: str, now: str) -> None:
    source = tmp_path / "a.txt"
    source.write_text("a\nb\n")
    target = tmp_path / "out.jsonl"
    run_job([source], target, wanted=Wanted(model=before), stop=lambda event: event.set())
    with pytest.raises(InvalidInputError, match=rf"model was '{before}' and is 'fake:v2'"):
        run_job([source], target, wanted=Wanted(model="fake:v2"))
    assert run_job([source], target, wanted=Wanted(model=now)) is not None
    assert len(read_lines(target)) == 2


def test_a_changed_or_missing_input_is_refused_by_name(tmp_path: Path) -> None:
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("a\n")
    second.write_text("b\n")
    run_job([first, second], tmp_path / "o.jsonl", stop=lambda event: event.set())
    with pytest.raises(InvalidInputError, match=r"a\.txt is missing"):
        run_job([second], tmp_path / "o.jsonl")
    first.write_text("ab\n")
    with pytest.raises(InvalidInputError, match=r"a\.txt has changed \(size\)"):
        run_job([first, second], tmp_path / "o.jsonl")


def test_further_inputs_come_behind_those_that_were_there(tmp_path: Path) -> None:
    later, first = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("1\n2\n3\n4\n")
    run_job([first], tmp_path / "o.jsonl", limits=SMALL, stop=lambda event: event.set())
    later.write_text("5\n6\n")
    run_job([later, first], tmp_path / "o.jsonl", limits=SMALL)
    rows = read_lines(tmp_path / "o.jsonl")
    assert [(row["row"], row["text"]) for row in rows] == [(n, str(n + 1)) for n in range(6)]


def test_shards_do_disjoint_parts_and_the_last_one_completes_the_output(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("".join(f"{number}\n" for number in range(20)))
    computes = [FakeCompute() for _ in range(3)]
    totals = [
        run_job([source], tmp_path / "o.jsonl", compute, limits=SMALL, shard=(index, 3))
        for index, compute in enumerate(computes, start=1)
    ]
    assert totals[:2] == [None, None]
    assert totals[2] is not None
    assert totals[2].rows == 20
    assert [row["text"] for row in read_lines(tmp_path / "o.jsonl")] == [str(n) for n in range(20)]
    done = [{text for request in one.requests for text in request} for one in computes]
    assert sum(map(len, done)) == len(set().union(*done)) == 20


def test_the_first_part_decides_the_backend_for_all_shards(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("".join(f"{number}\n" for number in range(20)))
    run_job([source], tmp_path / "o.jsonl", limits=SMALL, shard=(1, 2))
    other = FakeCompute(served_by="0123456789ab;engine=other")
    with pytest.raises(MixedBackendsError, match="engine=other"):
        run_job([source], tmp_path / "o.jsonl", other, limits=SMALL, shard=(2, 2))
    parts = {one.name for one in (tmp_path / "o.jsonl.parts").glob("part-*")}
    assert parts == {f"part-{number:06d}.jsonl" for number in range(0, 7, 2)}


def test_a_locked_folder_names_the_process_that_has_it(tmp_path: Path) -> None:
    folder, lock = Folder(tmp_path), tmp_path / "_embedd" / "lock-1-of-1"
    with folder.lock():
        with pytest.raises(FolderLockedError, match=rf"in use by process {os.getpid()} on "):
            folder.lock().__enter__()
        lock.write_text("")
        with pytest.raises(FolderLockedError, match="in use by another process"):
            folder.lock().__enter__()


def test_a_limit_ends_the_job_after_so_many_rows(tmp_path: Path) -> None:
    inputs = [tmp_path / name for name in ("a.txt", "b.txt", "c.txt")]
    for one in inputs:
        one.write_text("a\nb\nc\nd\n")
    run_job(inputs, tmp_path / "o.jsonl", limits=SMALL, limit=6)
    rows = read_lines(tmp_path / "o.jsonl")
    assert [row["text"] for row in rows] == ["a", "b", "c", "d", "a", "b"]


def test_too_many_errors_stop_the_job_and_keep_what_was_finished(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("".join(f"{n}{BAD if n > 6 else ''}\n" for n in range(12)))
    with pytest.raises(ErrorBudgetError, match=r"rows that failed: [2-5], allowed: 1 "):
        run_job([source], tmp_path / "o.jsonl", limits=SMALL, budget=ErrorBudget(most=1))
    assert (tmp_path / "o.jsonl.parts" / "part-000000.jsonl").exists()


@pytest.mark.parametrize(
    ("wanted", "width", "rows", "text"),
    [
        (Wanted(model="m"), 100, 50_000, 64 << 20),
        (Wanted(model="m"), 384, 16_384, 64 << 20),
        (Wanted(model="m"), 4096, 1_536, 64 << 20),
        (Wanted(model="m", dtype="int8"), 4096, 6_144, 64 << 20),
        (Wanted(model="m", chunk=500, overlap=100), 4096, 1_536, 1_536 * 400 * 3),
    ],
)
def test_units_of_large_vectors_have_fewer_rows(
    wanted: Wanted, width: int, rows: int, text: int
) -> None:
    found = fit_limits(Limits(), wanted, Model(digest="", prefix="", width=width))
    assert found == Limits(rows=rows, bytes=text)


def test_documents_are_rows(tmp_path: Path) -> None:
    for name in ("b.md", "a.md", "_hidden.md", "c.png"):
        (tmp_path / "docs" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "docs" / name).write_text(f"# {name}\n\ntext")
    run_job([tmp_path / "docs"], tmp_path / "o.jsonl", id="file")
    rows = read_lines(tmp_path / "o.jsonl")
    assert [Path(row["file"]).name for row in rows] == ["a.md", "b.md"]
    assert rows[0]["text"] == "# a.md\n\ntext"


def test_a_document_that_fails_is_named_itself(tmp_path: Path) -> None:
    """It may be one that cannot be read, or one that cannot be embedded."""
    folder = tmp_path / "docs" / "deep"
    folder.mkdir(parents=True)
    (folder.parent / "a.md").write_text("good")
    (folder.parent / "b.md").write_bytes(b"\xff")
    (folder / "c.md").write_text("also good")
    (folder / "d.md").write_text(BAD)
    run_job([folder.parent], tmp_path / "o.jsonl", id="file")
    errors = read_lines(tmp_path / "o.jsonl.errors.jsonl")
    found = [(one["file"], one["row"], one["error"]) for one in errors]
    assert found == [
        (
            str(folder.parent / "b.md"),
            1,
            "not UTF-8: invalid start byte at byte 0: convert the file, if it is Latin-1 with "
            + LATIN_1,
        ),
        (str(folder / "d.md"), 3, "the text is bad"),
    ]


def test_the_error_that_stops_a_job_names_the_file_the_line_and_the_fault(tmp_path: Path) -> None:
    good, source = tmp_path / "a.txt", tmp_path / "b.txt"
    good.write_text("x\n")
    source.write_text(f"x\n{BAD}\n")
    with pytest.raises(ErrorBudgetError) as caught:
        run_job([good, source], tmp_path / "o.jsonl", budget=ErrorBudget(most=0))
    assert str(caught.value) == (
        "rows that failed: 1, allowed: 0 (--errors, --max-errors): allow more, or mend the rows "
        f"and begin anew with --restart:\n  {source}, line 2: the text is bad"
    )


def test_the_error_that_stops_a_job_names_a_row_where_there_are_no_lines(tmp_path: Path) -> None:
    for name, text in (("a.md", "x"), ("b.md", BAD)):
        (tmp_path / name).write_text(text)
    with pytest.raises(ErrorBudgetError, match=rf"{tmp_path}/b\.md, row 1 of all inputs: the text"):
        run_job([tmp_path], tmp_path / "o.jsonl", budget=ErrorBudget(most=0))


def test_an_output_that_another_shard_completes_is_left_to_it(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("a\nb\n")
    target = tmp_path / "o.jsonl"
    run_job([source], target, stop=lambda event: event.set())
    folder = Folder(tmp_path / "o.jsonl.parts")
    job = decode_job(folder.read(JOB) or b"")
    with ThreadPoolExecutor(1) as other:
        with folder.turn() as is_there:
            assert is_there
            waiting = other.submit(finish_job, folder, target, job, [])
            folder.remove(JOB)
            folder.remove_folder("")
            target.write_text("complete")
        assert waiting.result() is None
    assert finish_job(folder, target, job, []) is None
    assert target.read_text() == "complete"
    assert not folder.root.exists()


def test_each_row_has_the_vector_of_its_own_text(tmp_path: Path) -> None:
    """Texts are computed by length; lengths here go up, down, and repeat."""
    texts = [letter * length for length in (5, 40, 1, 300, 40, 7) for letter in "abc"] * 2
    source = tmp_path / "a.txt"
    source.write_text("\n".join(texts))
    run_job([source], tmp_path / "o.jsonl")
    rows = read_lines(tmp_path / "o.jsonl")
    vectors = np.array([row["embedding"] for row in rows], np.float32)
    np.testing.assert_array_equal(vectors, to_vectors(texts))


@pytest.mark.parametrize("content", [b"", b"\n \n", b"[1]\nbroken\n"])
@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_the_columns_are_those_of_the_first_json_lines_that_have_some(
    tmp_path: Path, content: bytes, ending: str
) -> None:
    empty = tmp_path / f"a{ending}"
    empty.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    source = write_lines(tmp_path / "b.jsonl", [{"title": "x", "n": 1}])
    run_job([empty, source], tmp_path / "o.jsonl")
    [row] = read_lines(tmp_path / "o.jsonl")
    assert (row["title"], row["n"]) == ("x", 1)


@pytest.mark.parametrize(("name", "content"), [("a.csv", ""), ("a.csv", "x,y\n"), ("a.txt", "")])
def test_an_input_without_rows_changes_nothing_wherever_it_stands(
    tmp_path: Path, name: str, content: str
) -> None:
    empty, source = tmp_path / name, tmp_path / "b.csv"
    empty.write_text(content)
    source.write_text("text,n\none,1\n")
    for number, inputs in enumerate(([empty, source], [source, empty])):
        run_job(inputs, tmp_path / f"{number}.jsonl")
        [row] = read_lines(tmp_path / f"{number}.jsonl")
        assert (row["text"], row["n"]) == ("one", "1")


def test_inputs_without_rows_and_columns_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.csv"):
        (tmp_path / name).touch()
        with pytest.raises(InvalidInputError, match=rf"{name} has no rows: its columns are not"):
            run_job([tmp_path / name], tmp_path / "o.jsonl", text="text")
    broken = tmp_path / "c.jsonl"
    broken.write_text("[1]\n")
    with pytest.raises(
        InvalidInputError, match=r"c\.jsonl has no line that is a JSON object: .* jq -c '\.\[\]'"
    ):
        run_job([broken], tmp_path / "o.jsonl")


def test_a_table_that_has_only_a_header_is_an_output_without_rows(tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_text("text,n\n")
    total = run_job([source], tmp_path / "o.jsonl")
    assert total is not None
    assert total.rows == 0
    assert (tmp_path / "o.jsonl").read_bytes() == b""


def test_a_pipe_is_refused_with_what_to_use_instead(tmp_path: Path) -> None:
    fifo = tmp_path / "a.txt"
    os.mkfifo(fifo)
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer, "w"):
        for name in (str(fifo), f"/dev/fd/{reader}"):  # of a process substitution
            with pytest.raises(InvalidInputError) as caught:
                run_job([name], tmp_path / "o.jsonl", form=Format.TXT)
            assert str(caught.value) == (
                f"{name} is a pipe, which can be read only once: pipe it into the command and give "
                "- as the input, or write it to a file first"
            )


def test_a_device_is_not_an_input(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no input: /dev/null is not a file, or a folder"):
        run_job(["/dev/null"], tmp_path / "o.jsonl", form=Format.TXT)


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
@pytest.mark.parametrize(
    ("data", "what"),
    [
        ('{"text":"a"}\n'.encode("utf-16"), "UTF-16, and not UTF-8: convert it"),
        (
            gzip.compress(b'{"text":"a"}\n', mtime=0),
            r"compressed \(gzip\): give its name the ending \.gz",
        ),
        (b"\x28\xb5\x2f\xfd ...", r"compressed \(zstd\): give its name the ending \.zst"),
        (b"PK\x03\x04 ...", "a ZIP archive: unpack it"),
    ],
    ids=["UTF-16", "gzip", "zstd", "ZIP"],
)
def test_what_is_no_text_is_refused_before_anything_is_computed(
    tmp_path: Path, name: str, data: bytes, what: str
) -> None:
    (tmp_path / "0.txt").write_text("a\n")
    (tmp_path / name).write_bytes(data)
    for inputs in (["0.txt", name], [name]):
        compute = FakeCompute()
        with pytest.raises(InvalidInputError, match=rf"{name} is {what}"):
            run_job([tmp_path / one for one in inputs], tmp_path / "o.jsonl", compute)
        assert not compute.requests


def test_a_link_to_itself_and_an_empty_name_are_no_inputs(tmp_path: Path) -> None:
    loop = tmp_path / "loop.txt"
    loop.symlink_to(loop)
    for name in (loop, tmp_path / "*.txt"):
        with pytest.raises(InvalidInputError, match=r"no input: .*\.txt is not a file"):
            run_job([name], tmp_path / "o.jsonl")
    with pytest.raises(InvalidInputError, match="the name of an input is empty"):
        run_job([""], tmp_path / "o.jsonl")


def test_a_name_that_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with open(os.fsencode(tmp_path) + b"/in/bad\xff.txt", "wb") as file:  # noqa: PTH123 - of bytes
        file.write(b"a\n")
    for name in (tmp_path / "in", tmp_path / "in" / "*.txt"):
        with pytest.raises(InvalidInputError, match=r"bad\\udcff\.txt' is not UTF-8: rename it"):
            run_job([name], tmp_path / "o.jsonl")


def test_a_table_with_another_delimiter_is_not_taken_for_one_column(tmp_path: Path) -> None:
    source, header = tmp_path / "a.tsv", "text,n"
    source.write_text(f"{header}\nx;1\n")
    with pytest.raises(InvalidInputError, match=f"the only column is '{header}': if that is"):
        run_job([source], tmp_path / "o.jsonl")
    assert run_job([source], tmp_path / "o.jsonl", text=header) is not None


def test_faults_of_json_lines_and_of_line_ends_are_said_as_they_are(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"text":"a","n":1e999}\n[1]\n{"text":"b"}\n')
    run_job([source], tmp_path / "o.jsonl")
    errors = [one["error"] for one in read_lines(tmp_path / "o.jsonl.errors.jsonl")]
    assert errors == [
        "the line is not valid JSON: Number out of range",
        "the line is not a JSON object",
    ]
    table = tmp_path / "a.csv"
    table.write_bytes(b"text,n\rone,1\r")
    with pytest.raises(InvalidInputError, match=r"a\.csv: .* has a carriage return outside quotes"):
        run_job([table], tmp_path / "p.jsonl")
    table.write_bytes("naïve,text\nà,b\n".encode("latin-1"))
    with pytest.raises(
        InvalidInputError, match=r"the header is not UTF-8: .*: convert .*" + LATIN_1
    ):
        run_job([table], tmp_path / "p.jsonl")


@pytest.mark.parametrize("damage", ["cut", "without a record", "damaged record"])
def test_a_part_that_is_not_as_its_record_says_is_computed_again(
    tmp_path: Path, damage: str
) -> None:
    source = tmp_path / "a.txt"
    source.write_text("1\n2\n3\n" + f"{BAD}\n5\n6\n" + f"{BAD}\n")
    target = tmp_path / "o.jsonl"
    with pytest.raises(ErrorBudgetError):
        run_job([source], target, limits=SMALL, budget=ErrorBudget(most=1))
    parts = tmp_path / "o.jsonl.parts"
    assert [one.name for one in sorted(parts.glob("part-*"))] == [
        "part-000000.jsonl",
        "part-000001.jsonl",
    ]
    part, record = parts / "part-000001.jsonl", parts / "_embedd" / "part-000001.json"
    if damage == "cut":
        part.write_bytes(part.read_bytes()[:9])
    elif damage == "without a record":
        record.unlink()
    else:
        record.write_bytes(b"{")
    compute = FakeCompute()
    total = run_job([source], target, compute, limits=SMALL)
    assert sorted({text for request in compute.requests for text in request}) == ["5", "6", BAD]
    assert total is not None
    assert (total.rows, total.errors) == (5, 2)
    assert [row["row"] for row in read_lines(target)] == [0, 1, 2, 4, 5]
