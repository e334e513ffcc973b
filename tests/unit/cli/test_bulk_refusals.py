"""``embedd bulk`` that is refused leaves the disk as it was."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_server import FakeServer

TEXTS = "a\nb\n"
ROWS = '{"text":"a","id":"1"}\n'


def nothing(folder: Path) -> None:
    del folder


def own_file(folder: Path) -> None:
    (folder / "o.jsonl").write_text("precious")


def parts_without_a_record(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "part-000000.parquet").write_bytes(b"precious")


def own_errors(folder: Path) -> None:
    (folder / "o.jsonl.errors.jsonl").write_text("precious")


def own_ids(folder: Path) -> None:
    (folder / "o.ids.parquet").write_text("precious")


def own_errors_in_a_folder(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "errors.jsonl").write_text("precious")


def own_mark_in_a_folder(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "_SUCCESS").write_text("precious")


def damaged_record(folder: Path) -> None:
    (folder / "o.jsonl.parts" / "_embedd").mkdir(parents=True)
    (folder / "o.jsonl.parts" / "_embedd" / "job.json").write_text("{")


def empty_folder(folder: Path) -> None:
    (folder / "out").mkdir()


def read_tree(folder: Path) -> dict[str, bytes | None]:
    """All files with their content, and all folders; locks have the time in them."""
    return {
        str(one.relative_to(folder)): one.read_bytes() if one.is_file() else None
        for one in folder.rglob("*")
        if not one.name.startswith("lock-")
    }


REFUSALS: list[tuple[Callable[[Path], None], list[str], str]] = [
    (nothing, ["a.txt", "-o", "x.csv"], "no output can be a .csv"),
    (nothing, ["a.txt", "-o", "x.jsonl.zst"], "no output can be a .zst"),
    (nothing, ["a.txt", "-o", "x.jsonl.gz"], "no output can be a .gz"),
    (nothing, ["a.txt", "-o", "x.NDJSON"], "no output can be a .ndjson"),
    (nothing, ["a.txt", "-o", "x.npz"], "ends in .parquet, .npy, .jsonl or .arrow, or a folder"),
    (nothing, ["a.txt", "-o", ""], "the output has no name"),
    (nothing, ["a.txt", "-o", "b"], "b is a file, and this output is a folder"),
    (nothing, ["-", "-o", "b", "--format", "txt"], "b is a file, and this output is a folder"),
    (nothing, ["a.txt", "-o", "-", "--shard", "1/2"], "stdout is not shared"),
    (nothing, ["-", "-o", "o.jsonl"], "add --format"),
    (nothing, ["-", "a.txt", "-o", "o.jsonl", "--format", "txt"], "beside others"),
    (nothing, ["-", "-o", "o.jsonl", "--format", "md"], "cannot be read from stdin"),
    (nothing, ["nowhere.txt", "-o", "o.jsonl"], "nowhere.txt is not a file"),
    (nothing, ["nowhere/*.txt", "-o", "o.jsonl"], "nowhere/*.txt"),
    (nothing, ["a.txt", "-o", "a.txt/o.jsonl"], "a.txt"),
    (nothing, ["a.txt", "-o", "o.jsonl", "--text", "title"], "no column 'title'"),
    (nothing, ["a.txt", "-o", "deep/er/o.jsonl", "--text", "title"], "no column 'title'"),
    (nothing, ["a.txt", "-o", "o.jsonl", "--text", "{text"], "is not valid"),
    (nothing, ["a.txt", "-o", "o.jsonl", "--id", "title"], "no column 'title'"),
    (nothing, ["a.txt", "-o", "o.jsonl", "--keep", "title"], "no column 'title'"),
    (nothing, ["a.txt", "-o", "o.npy", "--text", "title"], "no column 'title'"),
    (nothing, ["a.txt", "-o", "out", "--text", "title"], "no column 'title'"),
    (nothing, ["a.txt", "-o", "out", "--text", "title", "--shard", "2/3"], "no column 'title'"),
    (nothing, ["a.txt", "rows.jsonl", "-o", "out", "--id", "id"], "no column 'id'"),
    (nothing, ["-", "-o", "o.jsonl", "--format", "txt", "--text", "x"], "no column 'x'"),
    (empty_folder, ["a.txt", "-o", "out", "--text", "title"], "no column 'title'"),
    (own_file, ["a.txt", "-o", "o.jsonl"], "was not made by embedd bulk"),
    (own_file, ["a.txt", "-o", "o.jsonl", "--restart"], "was not made by embedd bulk"),
    (own_file, ["-", "-o", "o.jsonl", "--format", "txt"], "was not made by embedd bulk"),
    (parts_without_a_record, ["a.txt", "-o", "out"], "and no record"),
    (parts_without_a_record, ["a.txt", "-o", "out", "--restart"], "and no record"),
    (own_errors, ["a.txt", "-o", "o.jsonl"], "o.jsonl.errors.jsonl was not made by embedd bulk"),
    (own_errors, ["a.txt", "-o", "o.jsonl", "--restart"], "was not made by embedd bulk"),
    (own_ids, ["a.txt", "-o", "o.npy"], "o.ids.parquet was not made by embedd bulk"),
    (own_ids, ["a.txt", "-o", "o.npy", "--restart"], "was not made by embedd bulk"),
    (own_errors_in_a_folder, ["a.txt", "-o", "out"], "out has errors.jsonl and no record"),
    (own_errors_in_a_folder, ["a.txt", "-o", "out", "--restart"], "and no record"),
    (own_mark_in_a_folder, ["a.txt", "-o", "out"], "out has _SUCCESS and no record"),
    (own_mark_in_a_folder, ["a.txt", "-o", "out", "--restart"], "and no record"),
    (damaged_record, ["a.txt", "-o", "o.jsonl"], "not readable"),
]  # fmt: skip


@pytest.mark.parametrize(("prepare", "arguments", "message"), REFUSALS)
def test_a_command_that_is_refused_leaves_the_disk_as_it_was(
    embedd: Run,
    server: FakeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    prepare: Callable[[Path], None],
    arguments: list[str],
    message: str,
) -> None:
    del server
    (tmp_path / "b").write_text("precious")
    if {"out", "o.npy", "b"} & set(arguments):
        pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(TEXTS)
    (tmp_path / "rows.jsonl").write_text(ROWS)
    prepare(tmp_path)
    before = read_tree(tmp_path)
    result = embedd("bulk", "all-minilm", *arguments, stdin=TEXTS.encode())
    assert result.status == 1
    assert message in result.err
    assert read_tree(tmp_path) == before


@pytest.mark.parametrize("out", ["o.jsonl", "out"])
@pytest.mark.parametrize("source", ["a.txt", "-"])
def test_a_restart_that_is_refused_keeps_the_output(
    embedd: Run,
    server: FakeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    out: str,
    source: str,
) -> None:
    del server
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(TEXTS)
    arguments = ["bulk", "all-minilm", source, "-o", out, "--restart", "--format", "txt"]
    assert embedd(*arguments, stdin=TEXTS.encode()).status == 0
    before = read_tree(tmp_path)
    result = embedd(*arguments, "--text", "title", stdin=TEXTS.encode())
    assert result.status == 1
    assert "no column 'title'" in result.err
    after = read_tree(tmp_path)
    locks = {name for name in before | after if "lock-" in name}  # who had it last
    assert {name: after[name] for name in after.keys() - locks} == {
        name: before[name] for name in before.keys() - locks
    }


@pytest.mark.parametrize("form", ["txt", "openai-batch"])
def test_files_of_the_user_in_the_folder_of_the_parts_stay(
    embedd: Run, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    del server
    monkeypatch.chdir(tmp_path)
    body = '{"model":"all-minilm","input":"a"}'
    line = f'{{"custom_id":"1","method":"POST","url":"/v1/embeddings","body":{body}}}\n'
    (tmp_path / "a").write_text(TEXTS if form == "txt" else line)
    (tmp_path / "o.jsonl.parts" / "deep").mkdir(parents=True)
    for name in ("mine.txt", "deep/mine.txt"):
        (tmp_path / "o.jsonl.parts" / name).write_text("precious")
    result = embedd("bulk", "all-minilm", "a", "-o", "o.jsonl", "--format", form)
    assert result.status == 0, result.err
    assert read_tree(tmp_path / "o.jsonl.parts") == {
        "mine.txt": b"precious",
        "deep": None,
        "deep/mine.txt": b"precious",
    }


@pytest.mark.parametrize("out", ["o.npy", "o.jsonl"])
def test_a_restart_replaces_what_a_job_made_beside_its_output(
    embedd: Run, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    del server
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text(ROWS + "{bad\n")
    assert embedd("bulk", "all-minilm", "a.jsonl", "-o", out).status == 3
    before = set(read_tree(tmp_path))
    assert embedd("bulk", "all-minilm", "a.jsonl", "-o", out, "--restart").status == 3
    assert set(read_tree(tmp_path)) == before
    (tmp_path / "a.jsonl").write_text(ROWS)
    assert embedd("bulk", "all-minilm", "a.jsonl", "-o", out, "--restart").status == 0
    assert set(read_tree(tmp_path)) == before - {f"{out}.errors.jsonl"}


@pytest.mark.parametrize("out", ["o.jsonl", "out"])
@pytest.mark.parametrize("source", ["a.txt", "-"])
def test_an_output_of_stdin_is_replaced_by_a_restart_and_by_nothing_else(
    embedd: Run,
    server: FakeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    out: str,
    source: str,
) -> None:
    del server
    if out == "out":
        pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("c\n")
    arguments = ["bulk", "all-minilm", source, "-o", out, "--format", "txt"]
    first = embedd("bulk", "all-minilm", "-", *arguments[3:], stdin=TEXTS.encode())
    assert first.status == 0
    before = read_tree(tmp_path)
    again = embedd(*arguments, stdin=b"c\n")
    assert again.status == 1
    assert "--restart" in again.err
    assert "stdin" in again.err or "exists" in again.err
    assert read_tree(tmp_path) == before
    assert embedd(*arguments, "--restart", stdin=b"c\n").status == 0
    assert set(read_tree(tmp_path)) == set(before)
    assert read_tree(tmp_path) != before
    assert "1 row," in embedd("bulk", "all-minilm", "a.txt", *arguments[3:], "--restart").err


def test_stdin_again_says_that_it_cannot_be_continued(
    embedd: Run, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del server
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    arguments = ["bulk", "all-minilm", "-", "-o", "out", "--format", "txt"]
    assert embedd(*arguments, stdin=TEXTS.encode()).status == 0
    again = embedd(*arguments, stdin=TEXTS.encode())
    assert again.status == 1
    assert "stdin cannot be continued" in again.err
