"""Content-addressed files: a blob gets its name only after its bytes were hashed."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from embedd.errors import CorruptBlobError, InvalidInputError, StoreError
from embedd.gguf.reader import open_regular
from embedd.store.disk import (
    TEMPORARY_PREFIX,
    Disk,
    check_room,
    is_abandoned,
    open_temporary,
    place,
    translated,
)
from embedd.store.layout import Layout, parse_digest

CHUNK: Final = 4 << 20
# Seconds; younger unused files may belong to a process that is still working (contract 6.2).
BLOB_GRACE: Final = 3600.0
PARTIAL_GRACE: Final = 24 * 3600.0

# (bytes done, bytes in total)
Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A stored file: ``sha256:<hex>`` and its size in bytes."""

    digest: str
    size: int


class Incoming:
    """A new file of the store: fill `path` (or `write` to it), then `seal`, then `keep` it."""

    def __init__(self, path: Path, layout: Layout, disk: Disk) -> None:
        self.path = path
        self._layout = layout
        self._disk = disk
        self._sealed: Blob | None = None

    def write(self, data: bytes) -> None:
        """Append *data*."""
        folder = self.path.parent
        with translated(f"cannot write to {folder}", folder), self.path.open("ab") as file:
            file.write(data)

    def copy_from(self, source: Path, report: Report | None = None) -> None:
        """Append the bytes of the file *source*."""
        what, folder = f"cannot copy {source} into the store", self.path.parent
        with translated(what, folder):
            total, done = source.stat().st_size, 0
            check_room(folder, total, f"{what}: it")
            with open_regular(source) as reader, self.path.open("ab") as writer:
                while chunk := reader.read(CHUNK):
                    writer.write(chunk)
                    done += len(chunk)
                    if report is not None:
                        report(done, total)

    def seal(self, expected: str | None = None) -> Blob:
        """Hash the bytes. Nothing may be written afterwards.

        Raises:
            CorruptBlobError: Their digest is not *expected*.
            StoreError: They cannot be read.
        """
        digest = hash_file(self.path)
        if expected is not None and digest != parse_digest(expected):
            raise CorruptBlobError(f'digest mismatch, expected "{expected}", got "{digest}"')
        with translated(f"cannot read {self.path}"):
            self._sealed = Blob(digest=digest, size=self.path.stat().st_size)
        return self._sealed

    def keep(self) -> Blob:
        """Move the sealed file to its digest, unless there is such a blob already.

        Raises:
            StoreError: It cannot be moved; the store is unchanged.
        """
        if self._sealed is None:
            raise StoreError("a blob must be sealed before it is kept")
        target = self._layout.blob(self._sealed.digest)
        with translated(f"cannot write {target}", target.parent):
            if not _is_whole(target, self._sealed.size):
                place(self._disk, self.path, target)
        return self._sealed


class BlobStore:
    """The blobs of one store. All calls block; none takes the store's lock."""

    def __init__(self, layout: Layout, disk: Disk) -> None:
        self._layout = layout
        self._disk = disk

    def path(self, digest: str) -> Path:
        """Path of the blob *digest*, whether it exists or not.

        Raises:
            InvalidInputError: *digest* is not a digest.
        """
        return self._layout.blob(digest)

    def has(self, digest: str, size: int | None = None) -> bool:
        """Whether the blob exists, and has *size* bytes if that is given."""
        return _is_whole(self.path(digest), size)

    def read(self, digest: str, limit: int) -> bytes:
        """The bytes of a small blob.

        Raises:
            StoreError: It is missing, cannot be read, or has more than *limit* bytes.
        """
        path = self.path(digest)
        with translated(f"cannot read blob {path}"), open_regular(path) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise StoreError(f"blob {path} is larger than {limit} bytes", limit=limit)
        return data

    @contextmanager
    def open_incoming(self) -> Iterator[Incoming]:
        """A new file in the folder of the blobs; removed at the end unless it was kept."""
        with open_temporary(self._layout.blobs, self._disk) as temporary:
            yield Incoming(temporary, self._layout, self._disk)

    def add_bytes(self, data: bytes) -> Blob:
        """Store *data*."""
        with self.open_incoming() as incoming:
            incoming.write(data)
            incoming.seal()
            return incoming.keep()

    def verify(self, digest: str) -> None:
        """Hash the blob again.

        Raises:
            CorruptBlobError: The digest of its bytes is not its name.
            StoreError: It is missing or cannot be read.
        """
        path = self.path(digest)
        actual = hash_file(path)
        if actual != parse_digest(digest):
            raise CorruptBlobError(f"blob {path} is corrupt: its bytes have the digest {actual}")

    def remove(self, digest: str) -> None:
        """Remove the blob, if it exists."""
        path = self.path(digest)
        with translated(f"cannot remove blob {path}"):
            self._disk.remove(path)

    def digests(self) -> Iterator[str]:
        """Digests of all blobs, in any order."""
        for path in self._files():
            with suppress(InvalidInputError):
                yield parse_digest(path.name)

    def sweep(self, used: set[str], now: float | None = None) -> list[str]:
        """Remove blobs that are not in *used*, and temporary and partial files.

        Younger ones than their grace period stay: another process may be about to use them.
        Temporary files go at once if the process that wrote them has ended.

        Returns:
            Names of the removed files.
        """
        now = time.time() if now is None else now
        removed = []
        # Also in the root, where an interrupted `prepare` leaves a temporary file.
        leftovers = self._layout.root.glob(f"{TEMPORARY_PREFIX}*")
        for path in [*self._files(), *leftovers]:
            with translated(f"cannot remove {path}"):
                grace = _grace(path, used)
                if grace is not None and now - path.stat().st_mtime > grace:
                    self._disk.remove(path)
                    removed.append(path.name)
        return removed

    def _files(self) -> Iterator[Path]:
        with translated(f"cannot list {self._layout.blobs}"):
            if self._layout.blobs.is_dir():
                yield from (path for path in self._layout.blobs.iterdir() if path.is_file())


def hash_file(path: Path, report: Report | None = None) -> str:
    """``sha256:<hex>`` of the file at *path*.

    Raises:
        StoreError: It cannot be read.
    """
    with translated(f"cannot read {path}"), open_regular(path) as file:
        return _hash(file, path.stat().st_size, report)


def hash_bytes(data: bytes) -> str:
    """``sha256:<hex>`` of *data*."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _hash(file: BinaryIO, total: int, report: Report | None) -> str:
    hasher, done = hashlib.sha256(), 0
    while chunk := file.read(CHUNK):
        hasher.update(chunk)
        done += len(chunk)
        if report is not None:
            report(done, total)
    return f"sha256:{hasher.hexdigest()}"


def _is_whole(path: Path, size: int | None) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return size is None or status.st_size == size


def _grace(path: Path, used: set[str]) -> float | None:
    """Grace period of an unused file in seconds; None if the file must stay."""
    name = path.name
    # Not a download, which resumes: `.embedd-sha256-…` is one too.
    is_temporary = name.startswith(TEMPORARY_PREFIX) and "sha256-" not in name
    if is_temporary and is_abandoned(path):
        return -math.inf
    if name.startswith(TEMPORARY_PREFIX) or "-partial" in name:
        return PARTIAL_GRACE
    try:
        return None if parse_digest(name) in used else BLOB_GRACE
    except InvalidInputError:
        return None
