"""Blobs: named by their bytes, whole or absent."""

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.errors import CorruptBlobError, StoreError
from embedd.store.blobs import BLOB_GRACE, PARTIAL_GRACE, BlobStore, hash_bytes, hash_file
from embedd.store.disk import Disk
from embedd.store.layout import Layout
from tests.unit.store.faults import FaultyDisk, ProcessDied
from tests.unit.stored import add_file

HEX = "0123456789abcdef" * 4


def make_blobs(root: Path, disk: Disk | None = None) -> BlobStore:
    layout = Layout(root=root)
    layout.prepare(Disk())
    return BlobStore(layout, disk or Disk())


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return make_blobs(tmp_path)


def files(root: Path) -> set[str]:
    return {path.name for path in (root / "blobs").iterdir()}


@given(data=st.binary(max_size=100))
def test_a_digest_is_the_sha256_of_the_bytes(data: bytes) -> None:
    assert hash_bytes(data) == "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("data", [b"", b"x", b"y" * 100])
def test_bytes_come_back_under_their_digest(blobs: BlobStore, data: bytes) -> None:
    blob = blobs.add_bytes(data)
    assert (blob.digest, blob.size) == (hash_bytes(data), len(data))
    assert blobs.read(blob.digest, limit=100) == data
    assert blobs.has(blob.digest)
    assert blobs.has(blob.digest, len(data))
    assert not blobs.has(blob.digest, len(data) + 1)
    assert list(blobs.digests()) == [blob.digest]
    blobs.verify(blob.digest)


def test_a_file_is_copied_and_the_copying_reported(blobs: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"a" * (5 << 20))
    seen: list[tuple[int, int]] = []
    blob = add_file(blobs, source, report=lambda done, total: seen.append((done, total)))
    assert seen == [(4 << 20, 5 << 20), (5 << 20, 5 << 20)]
    assert blob.digest == hash_file(source) == hash_file(blobs.path(blob.digest))
    assert add_file(blobs, source, expected=blob.digest.upper().replace("SHA", "sha")) == blob


def test_hashing_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    seen: list[tuple[int, int]] = []
    hash_file(tmp_path / "f", lambda done, total: seen.append((done, total)))
    assert seen == [(3, 3)]


def test_a_file_with_another_digest_is_refused_and_leaves_nothing(
    blobs: BlobStore, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"a")
    with pytest.raises(CorruptBlobError) as caught:
        add_file(blobs, source, expected=f"sha256:{HEX}")
    got = hash_bytes(b"a")
    assert str(caught.value) == f'digest mismatch, expected "sha256:{HEX}", got "{got}"'
    assert files(tmp_path) == set()


def test_a_missing_source_leaves_nothing(blobs: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"missing.*No such file"):
        add_file(blobs, tmp_path / "missing")
    assert files(tmp_path) == set()


def test_a_blob_is_kept_only_after_it_was_sealed(blobs: BlobStore, tmp_path: Path) -> None:
    with blobs.open_incoming() as incoming, pytest.raises(StoreError, match="sealed"):
        incoming.write(b"a")
        incoming.keep()
    assert files(tmp_path) == set()


def test_a_blob_of_the_wrong_size_is_replaced(blobs: BlobStore) -> None:
    digest = blobs.add_bytes(b"whole").digest
    blobs.path(digest).write_bytes(b"who")
    blobs.add_bytes(b"whole")
    blobs.verify(digest)


def test_a_changed_blob_is_found(blobs: BlobStore) -> None:
    digest = blobs.add_bytes(b"right").digest
    blobs.path(digest).write_bytes(b"wrong")
    with pytest.raises(CorruptBlobError, match=hash_bytes(b"wrong")):
        blobs.verify(digest)


def test_reading_is_bounded_and_names_what_is_missing(blobs: BlobStore) -> None:
    with pytest.raises(StoreError, match="larger than 4 bytes"):
        blobs.read(blobs.add_bytes(b"12345").digest, limit=4)
    with pytest.raises(StoreError, match=f"sha256-{HEX}: No such file"):
        blobs.read(f"sha256:{HEX}", limit=4)


def test_removing_twice_is_fine(blobs: BlobStore) -> None:
    digest = blobs.add_bytes(b"a").digest
    blobs.remove(digest)
    blobs.remove(digest)
    assert not blobs.has(digest)


@pytest.mark.parametrize("done_first", [True, False])
@pytest.mark.parametrize("steps", range(3))
def test_a_process_that_dies_leaves_a_whole_blob_or_none(
    tmp_path: Path, steps: int, done_first: bool
) -> None:
    disk = FaultyDisk(steps, done_first=done_first)
    with pytest.raises(ProcessDied):
        make_blobs(tmp_path, disk).add_bytes(b"content")
    after = make_blobs(tmp_path)
    for digest in after.digests():
        after.verify(digest)
    after.sweep({hash_bytes(b"content")}, now=tmp_path.stat().st_mtime + PARTIAL_GRACE + 60)
    assert files(tmp_path) <= {hash_bytes(b"content").replace(":", "-")}


@pytest.mark.parametrize("steps", range(2))
def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path: Path, steps: int) -> None:
    disk = FaultyDisk(steps, error=OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(StoreError, match="No space left on device"):
        make_blobs(tmp_path, disk).add_bytes(b"content")
    assert files(tmp_path) == set()


def test_sweeping_takes_what_is_unused_and_old(blobs: BlobStore, tmp_path: Path) -> None:
    folder = tmp_path / "blobs"
    used, unused, young = (blobs.add_bytes(data).digest for data in (b"1", b"2", b"3"))
    leftovers = [".embedd-0123", f"sha256-{HEX}-partial", f"sha256-{HEX}-partial-0"]
    for name in [*leftovers, "README"]:
        (folder / name).write_bytes(b"")
    (folder / "folder").mkdir()
    now = blobs.path(young).stat().st_mtime
    for path in folder.iterdir():
        os.utime(path, (now - BLOB_GRACE - 1,) * 2)
    os.utime(blobs.path(young), (now, now))

    assert sorted(blobs.sweep({used}, now)) == sorted([blobs.path(unused).name, leftovers[0]])
    assert sorted(blobs.sweep({used, young}, now + PARTIAL_GRACE)) == sorted(leftovers[1:])
    expected = {blobs.path(used).name, blobs.path(young).name, "README", "folder"}
    assert files(tmp_path) == expected


def test_sweeping_goes_by_the_present_time(blobs: BlobStore) -> None:
    digest = blobs.add_bytes(b"new").digest
    assert blobs.sweep(set()) == []
    assert blobs.has(digest)


def test_a_store_that_is_not_there_has_no_blobs(tmp_path: Path) -> None:
    assert list(BlobStore(Layout(root=tmp_path / "none"), Disk()).digests()) == []


def test_a_temporary_file_goes_at_once_if_its_process_has_ended(tmp_path: Path) -> None:
    blobs = make_blobs(tmp_path)
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from embedd.store.disk import open_temporary\n"
        "with open_temporary(Path(sys.argv[1])) as path:\n"
        "    print(path.name, flush=True)\n"
        "    sys.stdin.read()\n"
        "    os._exit(9)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "blobs")]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as other:
        assert other.stdout
        name = other.stdout.readline().strip()
        assert blobs.sweep(set()) == []  # it may still write
        with blobs.open_incoming():
            assert blobs.sweep(set()) == []
        other.communicate()
    assert (tmp_path / "blobs" / name).exists()
    assert blobs.sweep(set()) == [name]


def test_without_locks_temporary_files_stay_for_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int, __: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", fail)
    blobs = make_blobs(tmp_path)
    with blobs.open_incoming() as incoming:
        assert blobs.sweep(set()) == []
        now = incoming.path.stat().st_mtime
        assert blobs.sweep(set(), now + PARTIAL_GRACE + 1) == [incoming.path.name]


def test_a_file_that_the_disk_has_no_room_for_is_refused_in_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_500_000))
    source = tmp_path / "large"
    with source.open("wb") as file:
        file.truncate(2_340_000_000)
    with make_blobs(tmp_path).open_incoming() as incoming, pytest.raises(StoreError) as caught:
        incoming.copy_from(source)
    assert str(caught.value) == (
        f"cannot copy {source} into the store: it needs 2.3 GB, and 1.5 MB are free in "
        f"{tmp_path / 'blobs'}: delete models with `embedd rm`, or choose another folder with "
        "EMBEDD_MODELS"
    )


def test_a_disk_that_fills_says_how_full_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=12))
    disk = FaultyDisk(0, error=OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(StoreError, match=r"No space left on device: 12 bytes are free in "):
        make_blobs(tmp_path, disk).add_bytes(b"content")
