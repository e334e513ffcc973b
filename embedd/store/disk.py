"""Atomic writes of files, and the lock between processes."""

import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from embedd.errors import StoreError, StoreLockedError
from embedd.exhaustion import to_file_error

# A leading dot: no model name and no digest begins with one.
TEMPORARY_PREFIX: Final = ".embedd-"
_UNITS: Final = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
LOCK_TIMEOUT: Final = 30.0  # seconds; changes hold the lock for milliseconds
_LOCK_PAUSE: Final = 0.02  # seconds between two attempts


class Disk:
    """The three operations whose order decides what is left after a crash.

    Tests replace it by a disk that fails at any of them.
    """

    def sync(self, path: Path) -> None:
        """Force the bytes of the file (or the names in the folder) at *path* to the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Rename *source* to *target* atomically, replacing an existing file."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """Remove the file at *path*, if it exists."""
        path.unlink(missing_ok=True)


@contextmanager
def open_temporary(folder: Path, disk: Disk | None = None) -> Iterator[Path]:
    """An empty file in *folder*; removed at the end unless it was renamed.

    Its lock shows that its process is alive, see `is_abandoned`: the system releases it.
    """
    path, descriptor = _create_locked(folder)
    try:
        yield path
    finally:
        os.close(descriptor)
        with suppress(OSError):
            (disk or Disk()).remove(path)


def _create_locked(folder: Path) -> tuple[Path, int]:
    while True:
        path = folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        # Without the file's own name, which means nothing to a reader.
        with translated(f"cannot write to {folder}", folder):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with suppress(OSError):  # a file system without locks: it is kept for a day
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Between the two lines another process may have found it abandoned.
        if path.exists():
            return path, descriptor
        os.close(descriptor)


def is_abandoned(path: Path) -> bool:
    """Whether the process that created the temporary file *path* has ended, as far as is known."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def place(disk: Disk, source: Path, target: Path) -> None:
    """Move the finished file *source* to *target*, so that it survives a crash."""
    disk.sync(source)
    disk.rename(source, target)
    disk.sync(target.parent)


def write_whole(disk: Disk, target: Path, data: bytes, *, through: Path) -> None:
    """Write *data* to *target* atomically, through a temporary file in the folder *through*.

    Raises:
        StoreError: Writing failed; *target* is unchanged.
    """
    with (
        translated(f"cannot write {target}", through),
        open_temporary(through, disk) as temporary,
    ):
        temporary.write_bytes(data)
        place(disk, temporary, target)


def check_room(folder: Path, size: int, what: str) -> None:
    """Refuse to write *size* bytes that the disk of *folder* has no room for.

    Raises:
        StoreError: The message begins with *what*.
    """
    with suppress(OSError):  # what cannot be known is found out by writing
        free = shutil.disk_usage(folder).free
        if size > free:
            raise StoreError(
                f"{what} needs {_format_size(size)}, and {_describe_room(folder, free)}"
            )


def _describe_room(folder: Path, free: int) -> str:
    return (
        f"{_format_size(free)} are free in {folder}: delete models with `embedd rm`, or choose "
        "another folder with EMBEDD_MODELS"
    )


def _format_size(size: int) -> str:
    """Decimal units, as disks have them."""
    unit, name = next((pair for pair in _UNITS if size >= pair[0]), (1, "bytes"))
    return f"{size / unit:.1f} {name}" if unit > 1 else f"{size} {name}"


@contextmanager
def translated(what: str, written: Path | None = None) -> Iterator[None]:
    """Turn an `OSError` inside into a `StoreError` whose message begins with *what*.

    It becomes an `ExhaustedError` where the cause is that no descriptor is left.

    Args:
        written: The folder that is written to: if it is full, the message says how full.
    """
    try:
        yield
    except OSError as error:
        reason = f"{what}: {error.strerror or error}"
        if written is not None and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            with suppress(OSError):
                reason += f": {_describe_room(written, shutil.disk_usage(written).free)}"
        raise (to_file_error(error, what) or StoreError(reason)) from error


def is_read_only(error: BaseException) -> bool:
    """Whether *error* says that this process may not write to the store."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in {errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def open_lock(path: Path) -> Iterator[None]:
    """Wait for the lock file at *path* and hold it: one thread of one process at a time.

    The lock is released when the process ends, even by a signal; the file stays. Not
    reentrant.

    Raises:
        StoreLockedError: Another held it for `LOCK_TIMEOUT` seconds.
        StoreError: The lock file cannot be created.
    """
    with translated(f"cannot lock the model store with {path}"):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with translated(f"cannot lock the model store with {path}"):
            _lock(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise StoreLockedError(path, LOCK_TIMEOUT) from None
            time.sleep(_LOCK_PAUSE)
        else:
            return
