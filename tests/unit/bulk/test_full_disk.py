"""A disk that is full ends a job with the path, keeps what is finished, and leaves no debris."""

import errno
import io
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pytest

from embedd.bulk.commit import Counts, PartRecord, StreamSink
from embedd.bulk.folder import Folder
from embedd.bulk.parts import Part
from embedd.bulk.remote import RemotePath
from embedd.bulk.sources import has_arrow
from embedd.bulk.units import Limits
from embedd.errors import UnavailableError
from tests.unit.bulk.jobs import FakeCompute, read_lines, run_job, write_lines

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
QUOTA = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "some/name")
OF_ARROW = OSError(errno.ENOSPC, "Error writing bytes to file")
UNNAMED = OSError("Error writing bytes to file")


def raises(error: OSError) -> Callable[..., Any]:
    """Writes a little where it gets a path, and then raises *error*."""

    def write(path: object = None, *_: object, **__: object) -> None:
        if isinstance(path, Path):
            path.write_bytes(b"half")
        raise error

    return write


@pytest.mark.parametrize("error", [FULL, QUOTA, OF_ARROW])
def test_a_file_that_does_not_fit_is_named_and_not_left_behind(
    tmp_path: Path, error: OSError
) -> None:
    folder = Folder(tmp_path / "out")
    expected = rf"the disk is full, {folder.root}/part cannot be written: make room there"
    with folder.lock():
        before = set((tmp_path / "out").rglob("*"))
        with pytest.raises(UnavailableError, match=expected):
            folder.add("part", raises(error))
        assert set((tmp_path / "out").rglob("*")) == before


def test_another_error_names_the_file_too(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with pytest.raises(UnavailableError, match=f"{tmp_path}/part cannot be written: Error writing"):
        folder.add("part", raises(UNNAMED))
    with pytest.raises(PermissionError, match="other"):
        folder.add("part", raises(PermissionError(errno.EACCES, "denied", "other")))


def test_a_lock_is_held_where_there_is_no_room_for_its_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "write", raises(FULL))
    with (
        Folder(tmp_path).lock(),
        pytest.raises(UnavailableError, match="in use by another"),
        Folder(tmp_path).lock(),
    ):
        pass


def test_a_lock_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Folder, "_open_lock", raises(FULL))
    with (
        pytest.raises(UnavailableError, match=r"is full, .*lock-1-of-1 cannot"),
        Folder(tmp_path / "out").lock(),
    ):
        pass


OUTPUTS = ["o.jsonl", "o.npy", *(["o.parquet", "o.arrow"] if has_arrow() else [])]


@pytest.mark.parametrize("name", OUTPUTS)
def test_parts_outlive_a_disk_that_has_no_room_for_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source = write_lines(tmp_path / "a.jsonl", [{"text": f"t{n}"} for n in range(5)])
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / name
    from embedd.bulk import ending

    names = ("_concatenate", "_join_vectors")
    with monkeypatch.context() as patched:
        for one in names:
            patched.setattr(ending, one, raises(FULL))
        if has_arrow():
            from embedd.bulk import tables

            patched.setattr(tables, "join_parts", raises(FULL))
        with pytest.raises(UnavailableError, match=f"is full, {target} cannot be written"):
            run_job([source], target, limits=Limits(rows=2))
    left = {one.name for one in (tmp_path / "out").rglob("*")}
    assert not {one for one in left if one.startswith(".tmp-")}
    assert target.name not in left
    compute = FakeCompute()
    assert run_job([source], target, compute, limits=Limits(rows=2)) is not None
    assert compute.requests == []
    assert target.exists()
    if name == "o.jsonl":
        assert [row["text"] for row in read_lines(target)] == [f"t{n}" for n in range(5)]


def test_a_file_for_a_store_is_made_in_the_temporary_folder_which_is_named() -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(UnavailableError, match=r"is full, \S+/embedd-\w+/o.npy cannot be written"):
        RemotePath("s3://bucket/o.npy").fill(raises(FULL))


def test_a_download_that_does_not_fit_is_not_the_stores_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    tries: list[object] = []

    def download(path: str) -> None:
        tries.append(path)
        raise OF_ARROW

    class File:
        def __enter__(self) -> Any:
            return type("Open", (), {"download": staticmethod(download)})

        def __exit__(self, *_: object) -> None: ...

    system = type("System", (), {"open_input_file": lambda _self, _path: File()})()
    place = type("Place", (), {"system": system, "path": "bucket/a"})()
    monkeypatch.setattr(RemotePath, "_open", lambda _: place)
    path = tmp_path / "copy"
    with pytest.raises(UnavailableError, match=f"is full, {path} cannot be written"):
        RemotePath("s3://bucket/a").download(path)
    assert len(tries) == 1


def test_the_copy_of_a_compressed_table_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet.gz").write_bytes(b"")
    monkeypatch.setattr(shutil, "copyfileobj", raises(FULL))
    with pytest.raises(UnavailableError, match=r"is full, \S+embedd-\S+ cannot be written"):
        run_job([tmp_path / "a.parquet.gz"], tmp_path / "o.jsonl")


def test_stdout_on_a_full_disk_is_named() -> None:
    class Full:
        def writelines(self, _: Sequence[bytes]) -> None:
            raise FULL

    sink = StreamSink(cast("BinaryIO", Full()), io.BytesIO())
    with pytest.raises(UnavailableError, match="the disk is full, stdout cannot be written"):
        sink._write(
            Part(columns=(), values={}, vectors=np.zeros((0, 1), np.float32), facts={}),
            PartRecord(counts=Counts(), seconds=0.0, served_by=""),
        )
