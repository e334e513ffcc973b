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


def damaged_record(folder: Path) -> None:
    (folder / "o.jsonl.parts" / "_embedd").mkdir(parents=True)
    (folder / "o.jsonl.parts" / "_embedd" / "job.json").write_text("{")


def empty_folder(folder: Path) -> None:
    (folder / "out").mkdir()


def read_tree(folder: Path) -> dict[str, bytes | None]:
    """All files with their content, and all folders."""
    return {
        str(one.relative_to(folder)): one.read_bytes() if one.is_file() else None
        for one in folder.rglob("*")
    }


REFUSALS: list[tuple[Callable[[Path], None], list[str], str]] = [
    (nothing, ["a.txt", "-o", "x.csv"], "no output can be a .csv"),
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
    (parts_without_a_record, ["a.txt", "-o", "out"], "has parts and no record"),
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
    if "out" in arguments:
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
