"""A blob that is being downloaded: a file that survives a broken download, and its lock."""

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
from embedd.store.disk import TEMPORARY_PREFIX, Disk, check_room, place, translated
from embedd.store.layout import Layout
from embedd.store.remote import Stop

STOPPED: Final = "pull stopped: all its clients have left; pull again to resume"
_LOCK_PAUSE: Final = 0.05


def partial_path(layout: Layout, digest: str) -> Path:
    """Path of the unfinished download of the blob *digest*: ``sha256-<hex>-partial``.

    Where Ollama has such a file with its own ``-partial-<n>`` files beside it, which has its
    full length from the start and is filled out of order, another name that Ollama ignores.
    """
    blob = layout.blob(digest)
    if any(blob.parent.glob(f"{blob.name}-partial-*")):
        return blob.with_name(f"{TEMPORARY_PREFIX}{blob.name}")
    return blob.with_name(f"{blob.name}-partial")


class Partial:
    """An open partial file, whose lock the caller holds. Its bytes are hashed as they come."""

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
        """``sha256:<hex>`` of the bytes so far."""
        return f"sha256:{self._hasher.hexdigest()}"

    @property
    def done(self) -> int:
        """Number of bytes so far."""
        return self._done

    def resume(self) -> None:
        """Hash the bytes that an earlier download left; drop them if they are too many.

        Raises:
            PullError: *stop* returned True.
            StoreError: The file cannot be read.
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
            PullError: *stop* returned True.
            StoreError: The disk is full or fails.
        """
        self._check_stop()
        view = memoryview(data)
        with translated(f"cannot write {self._path}", self._path.parent):
            while view:
                view = view[os.pwrite(self._descriptor, view, self._done + len(data) - len(view)) :]
        self._add(data)
        return len(data)

    def restart(self) -> None:
        """Drop all bytes: the source cannot resume and sends the file from its beginning."""
        with translated(f"cannot write {self._path}"):
            os.ftruncate(self._descriptor, 0)
        self._done = 0
        self._hasher = hashlib.sha256()

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
    """Download the blob *wanted*, resuming an earlier download, and verify its digest.

    One thread of one process downloads; others wait for it and find the finished blob.

    Args:
        stream: Appends the missing bytes to the partial file.
        report: Called with the bytes done and the bytes in total.

    Raises:
        PullError: The digest is not the wanted one (the bytes are deleted), or *stop*
            returned True.
        StoreError: The bytes cannot be written.
    """
    target = layout.blob(wanted.digest)
    path = partial_path(layout, wanted.digest)
    with _open_locked(path, target, stop) as descriptor:
        if _has(target, wanted.size):
            report(wanted.size, wanted.size)
            return wanted
        partial = Partial(descriptor, path, size=wanted.size, stop=stop, report=report)
        partial.resume()
        if partial.done < wanted.size:
            check_room(path.parent, wanted.size - partial.done, f"cannot pull {target.name}: it")
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
    """The file at *path*, created if missing, and locked; removed at the end if *target* exists."""
    while True:
        with translated(f"cannot write {path}"):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _lock(descriptor, path, stop)
            # The previous holder of the lock may have finished and renamed the file.
            if _is_at(descriptor, path):
                try:
                    yield descriptor
                finally:
                    _remove_leftover(descriptor, path, target)
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


def _remove_leftover(descriptor: int, path: Path, target: Path) -> None:
    """Remove the partial file if it is empty or its blob is finished."""
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
