"""Inputs in object stores, for which a folder of this machine stands."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from embedd.bulk import stores
from embedd.bulk.sources import Format, find_paths
from embedd.errors import ExtraMissingError, InvalidInputError
from tests.unit.bulk.jobs import read_lines, run_job, write_lines
from tests.unit.bulk.test_tables import ROWS, TEXTS, WRITERS, compress

fs = pytest.importorskip("pyarrow.fs")


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is the bucket ``s3://bucket``."""
    folder = tmp_path / "bucket"
    folder.mkdir()
    system = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    monkeypatch.setattr(stores, "_open", lambda _uri: system)
    return folder


def find(name: str, form: Format | None = None) -> list[str]:
    return [path for path, _ in find_paths([name], form)]


def test_files_folders_and_globs_are_found_as_those_of_a_disk(bucket: Path) -> None:
    for name in ("b.txt", "a.jsonl.gz", "deep/c.csv", "deep/er/d.csv", "_x.txt", ".y/z.txt", "q"):
        (bucket / name).parent.mkdir(exist_ok=True, parents=True)
        (bucket / name).touch()
    root = "s3://bucket"
    assert find(f"{root}/b.txt") == [f"{root}/b.txt"]
    assert find(root) == [
        f"{root}/{name}" for name in ("a.jsonl.gz", "b.txt", "deep/c.csv", "deep/er/d.csv")
    ]
    assert find(f"{root}/*.txt") == [f"{root}/_x.txt", f"{root}/b.txt"]
    assert find(f"{root}/**/*.csv") == [f"{root}/deep/c.csv", f"{root}/deep/er/d.csv"]
    assert find(f"{root}/d*/c.csv?region=eu") == [f"{root}/deep/c.csv?region=eu"]
    assert find_paths([f"{root}/q"], Format.TXT) == [(f"{root}/q", Format.TXT)]


@pytest.mark.parametrize("name", ["no.txt", "no/", "*.csv", "empty"])
def test_a_name_that_means_no_file_is_refused(bucket: Path, name: str) -> None:
    (bucket / "empty").mkdir()
    with pytest.raises(InvalidInputError, match="no input"):
        find(f"s3://bucket/{name}")


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_read_from_a_store(bucket: Path, name: str, ending: str) -> None:
    WRITERS[name](bucket / name)
    source = compress(bucket / name, ending)
    out = bucket.parent / "o.jsonl"
    total = run_job([f"s3://bucket/{source.name}"], out, id="key", text="text")
    assert total is not None
    assert total.rows == len(ROWS)
    assert [row["text"] for row in read_lines(out)] == TEXTS


def test_documents_of_a_store_are_rows(bucket: Path) -> None:
    (bucket / "a.md").write_text("# one")
    (bucket / "b.md").write_bytes(b"\xff")
    out = bucket.parent / "o.jsonl"
    run_job(["s3://bucket/*.md"], out)
    assert [row["text"] for row in read_lines(out)] == ["# one"]
    [error] = read_lines(bucket.parent / "o.jsonl.errors.jsonl")
    assert error["file"] == "s3://bucket/b.md"


def test_a_changed_input_is_refused_by_name(bucket: Path) -> None:
    write_lines(bucket / "a.jsonl", [{"text": "one"}])
    run_job(["s3://bucket/a.jsonl"], bucket.parent / "out")
    write_lines(bucket / "a.jsonl", [{"text": "two"}])
    with pytest.raises(InvalidInputError, match=r"the input s3://bucket/a\.jsonl has changed"):
        run_job(["s3://bucket/a.jsonl"], bucket.parent / "out")


def test_a_file_that_is_gone_is_an_error_that_names_it(bucket: Path) -> None:
    del bucket
    with pytest.raises(InvalidInputError, match=r"s3://bucket/gone\.txt cannot be read"):
        stores.open_remote("s3://bucket/gone.txt")


def test_a_store_that_does_not_answer_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Away:
        def get_file_info(self, _what: object) -> Iterator[object]:
            raise OSError("no route")

    monkeypatch.setattr(stores, "_open", lambda _uri: Away())
    for name in ("a.txt", "*.txt"):
        with pytest.raises(InvalidInputError, match=r"s3://bucket/.* cannot be listed: no route"):
            find(f"s3://bucket/{name}")


def test_keys_are_not_part_of_a_uri() -> None:
    with pytest.raises(InvalidInputError, match="AWS_ACCESS_KEY_ID"):
        find("s3://key:secret@bucket/a.txt")


def test_a_store_is_opened_without_the_path() -> None:
    opened: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "_open", opened.append)
        assert stores.open_place("s3://b/a/c%20d.txt?region=eu").path == "b/a/c%20d.txt"
        assert stores.open_place("hdfs://node:8020/a/b.txt").path == "/a/b.txt"
    assert opened == ["s3://b?region=eu", "hdfs://node:8020/"]


def test_a_container_of_azure_may_name_its_account() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "_open", lambda _uri: None)
        place = stores.open_place("abfs://box@account.dfs.core.windows.net/a/b.txt?x=1")
    assert place.path == "box/a/b.txt"
    assert place.to_uri("box/c") == "abfs://box@account.dfs.core.windows.net/c?x=1"
    with pytest.raises(InvalidInputError, match="must not have keys"):
        stores.open_place("abfs://box:key@account.dfs.core.windows.net/a.txt")


def test_options_that_a_store_has_not_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="cannot be opened"):
        find("s3://bucket/a.txt?no_such_option=1")


def test_a_store_needs_the_optional_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ExtraMissingError, match="bulk"):
        find("s3://without-arrow/a.txt")
