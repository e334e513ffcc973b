"""A blob on its way: bytes that survive a broken download, and who may add to them."""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from embedd.errors import PullError
from embedd.store.blobs import CHUNK, Blob, Report
from embedd.store.disk import TEMPORARY_PREFIX, Disk, place, translated
from embedd.store.layout import Layout
from embedd.store.remote import Stop

STOPPED: Final = "pull stopped: nobody waits for it any more; pull again to go on"
_LOCK_PAUSE: Final = 0.05


def partial_path(layout: Layout, digest: str) -> Path:
    """Where the bytes of the blob *digest* gather.

    ``sha256-<hex>-partial``; but where Ollama has its own pieces of that name, which are
    whole in length and full of holes, another one that it looks past.
    """
    blob = layout.blob(digest)
    if any(blob.parent.glob(f"{blob.name}-partial-*")):
        return blob.with_name(f"{TEMPORARY_PREFIX}{blob.name}")
    return blob.with_name(f"{blob.name}-partial")


class Partial:
    """An open partial file; the caller holds its lock. What is there is hashed once.

    It has what the download primitive asks of a file: `write`, `tell`, `seek`, `truncate`.
    """

    def __init__(self, descriptor: int, path: Path, *, size: int, stop: Stop, report: Report):
        self._descriptor = descriptor
        self._path = path
        self._size = size
        self._stop = stop
        self._report = report
        self._hasher = hashlib.sha256()
        self._done = 0

    @property
    def digest(self) -> str:
        """``sha256:<hex>`` of the bytes that are there."""
        return f"sha256:{self._hasher.hexdigest()}"

    def take_up(self) -> None:
        """Hash what an earlier download left; more than the whole file is not taken up.

        Raises:
            StoreError: It cannot be read.
        """
        with translated(f"cannot read {self._path}"):
            if os.fstat(self._descriptor).st_size > self._size:
                os.ftruncate(self._descriptor, 0)
            while chunk := os.pread(self._descriptor, CHUNK, self._done):
                self._check_stop()
                self._add(chunk)

    def write(self, data: bytes) -> int:
        """Append *data*.

        Raises:
            PullError: Nobody waits any more.
            StoreError: The disk is full or fails.
        """
        self._check_stop()
        view = memoryview(data)
        with translated(f"cannot write {self._path}"):
            while view:
                view = view[os.pwrite(self._descriptor, view, self._done + len(data) - len(view)) :]
        self._add(data)
        return len(data)

    def tell(self) -> int:
        """Bytes that are there."""
        return self._done

    def seek(self, position: int) -> int:
        """Only to the beginning: the source cannot resume and sends all again."""
        if position:
            raise ValueError(f"a partial file is started again from 0, not {position}")
        self._done = 0
        self._hasher = hashlib.sha256()
        return position

    def truncate(self) -> int:
        """Forget what comes after the position."""
        with translated(f"cannot write {self._path}"):
            os.ftruncate(self._descriptor, self._done)
        return self._done

    def _add(self, data: bytes) -> None:
        self._hasher.update(data)
        self._done += len(data)
        self._report(self._done, self._size)

    def _check_stop(self) -> None:
        if self._stop():
            raise PullError(STOPPED)


def fetch_blob(
    layout: Layout,
    disk: Disk,
    wanted: Blob,
    stream: Callable[[Partial], None],
    *,
    stop: Stop,
    report: Report,
) -> Blob:
    """Fetch the blob *wanted*, from where an earlier download broke off, and verify it.

    One thread of one process at a time does; others wait, and find it done.

    Args:
        stream: Appends to the partial file what it does not have yet.

    Raises:
        PullError: The bytes are others than wanted (they are deleted), or stopped.
        StoreError: They cannot be written.
    """
    target = layout.blob(wanted.digest)
    path = partial_path(layout, wanted.digest)
    with _open_locked(path, target, stop) as descriptor:
        if _has(target, wanted.size):
            report(wanted.size, wanted.size)
            return wanted
        partial = Partial(descriptor, path, size=wanted.size, stop=stop, report=report)
        partial.take_up()
        if partial.tell() < wanted.size:
            stream(partial)
        _check(partial, wanted, path, disk)
        with translated(f"cannot write {target}"):
            place(disk, path, target)
    return wanted


def _check(partial: Partial, wanted: Blob, path: Path, disk: Disk) -> None:
    if partial.digest == wanted.digest:
        return
    with suppress(OSError):
        disk.remove(path)
    raise PullError(
        "digest mismatch, file must be downloaded again: "
        f"want {wanted.digest}, got {partial.digest}"
    )


@contextmanager
def _open_locked(path: Path, target: Path, stop: Stop) -> Iterator[int]:
    """The file at *path*, made if need be and locked; removed if *target* made it needless."""
    while True:
        with translated(f"cannot write {path}"):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _lock(descriptor, path, stop)
            # Who held the lock before may have finished: then this file has another name now.
            if _is_at(descriptor, path):
                try:
                    yield descriptor
                finally:
                    _remove_needless(descriptor, path, target)
                return
        finally:
            os.close(descriptor)


def _lock(descriptor: int, path: Path, stop: Stop) -> None:
    with translated(f"cannot lock {path}"):
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if stop():
                    raise PullError(STOPPED) from None
                time.sleep(_LOCK_PAUSE)
            else:
                return


def _remove_needless(descriptor: int, path: Path, target: Path) -> None:
    """Leave no empty partial file, and none beside its finished blob."""
    with suppress(OSError):
        if _is_at(descriptor, path) and (target.exists() or not os.fstat(descriptor).st_size):
            path.unlink()


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _has(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False
