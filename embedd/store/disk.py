"""The steps that make a file appear whole or not at all, and the lock between processes."""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from embedd.errors import StoreError

# A leading dot: no model name and no digest begins with one.
TEMPORARY_PREFIX: Final = ".embedd-"


class Disk:
    """The three steps whose order decides what is left after a crash.

    A seam: tests put a disk here that fails at any step.
    """

    def sync(self, path: Path) -> None:
        """Force the bytes of the file (or the names in the folder) at *path* to the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Let *source* appear as *target*, in one step, in place of what was there."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """Remove the file at *path*; it may be gone already."""
        path.unlink(missing_ok=True)


def temporary_in(folder: Path) -> Path:
    """A path in *folder* that nobody else has."""
    return folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"


def place(disk: Disk, source: Path, target: Path) -> None:
    """Let the finished file *source* appear as *target*, for good."""
    disk.sync(source)
    disk.rename(source, target)
    disk.sync(target.parent)


def write_whole(disk: Disk, target: Path, data: bytes, *, through: Path) -> None:
    """Write *data* to *target* by way of a temporary file in the folder *through*.

    Raises:
        StoreError: Writing failed; *target* is as it was.
    """
    temporary = temporary_in(through)
    with translated(f"cannot write {target}"):
        try:
            temporary.write_bytes(data)
            place(disk, temporary, target)
        finally:
            with suppress(OSError):
                disk.remove(temporary)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Let an `OSError` inside leave as a `StoreError` that begins with *what*."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{what}: {error.strerror or error}") from error


@contextmanager
def open_lock(path: Path) -> Iterator[None]:
    """Hold the lock file at *path*: one thread of one process at a time; waits for it.

    The lock ends with the process, however that ends; the file stays. Not reentrant.

    Raises:
        StoreError: The lock file cannot be made.
    """
    with translated(f"cannot lock the model store with {path}"):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with translated(f"cannot lock the model store with {path}"):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
