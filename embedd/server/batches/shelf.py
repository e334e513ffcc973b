"""The files and batches of a server: in memory as records, on the disk for the next start."""

import asyncio
import contextlib
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

import msgspec
from aiohttp import web

from embedd.bulk.folder import Folder
from embedd.errors import InvalidInputError, UnavailableError, UnknownRouteError
from embedd.server.batches.quota import OVERHEAD, Quota
from embedd.server.batches.records import DAY, FINAL, Batch, Done, Purpose, StoredFile

log = logging.getLogger(__name__)

KEPT: Final = 7 * DAY  # that files and batches which have ended are kept, at most
FILES: Final = "files"
BATCHES: Final = "batches"
PRIVATE: Final = 0o600
_ID: Final = re.compile(r"(file|batch)-?_?[0-9a-f]{32}")
R = TypeVar("R", StoredFile, Batch)


class Upload:
    """A file that arrives; what is not kept is deleted and no longer counted."""

    def __init__(self, path: Path, quota: Quota, owner: str) -> None:
        self.path = path
        self.size = 0
        self._quota = quota
        self._owner = owner
        self._file = open_private(path)

    def reserve(self, size: int) -> None:
        """Count *size* bytes that are about to be written.

        Raises:
            TooLargeError: The owner may not keep so many.
        """
        self._quota.add(self._owner, size)
        self.size += size

    def write(self, data: bytes) -> None:
        """Write bytes that were counted; blocks.

        Raises:
            UnavailableError: The disk takes no more.
        """
        with _name_the_disk():
            self._file.write(data)

    def seal(self) -> None:
        """Flush all to the disk; blocks.

        Raises:
            UnavailableError: The disk takes no more.
        """
        with _name_the_disk():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def drop(self) -> None:
        """Delete it."""
        with contextlib.suppress(OSError):  # what could not be written is not needed
            self._file.close()
        self.path.unlink(missing_ok=True)
        self._quota.count(self._owner, -self.size)


class Shelf:
    """Keeps files and batches below *root*; one process at a time does.

    What is in memory changes at once, on the event loop; the disk follows in threads, in order.

    Args:
        limit: Bytes of all files and results.
        max_body: Bytes of the longest request in a file.
        clock: Present time in seconds since 1970.
    """

    def __init__(
        self, root: Path, *, limit: int, max_body: int, clock: Callable[[], float] = time.time
    ) -> None:
        self.root = root
        self.quota = Quota(limit)
        self.max_body = max_body
        self.files: dict[str, StoredFile] = {}
        self.batches: dict[str, Batch] = {}
        self.progress: dict[str, Done] = {}  # of batches in work: what is not committed too
        self._numbers = count(1)  # of records
        self._folder = Folder(root)
        self._writing = asyncio.Lock()
        self._clock = clock
        self._closed: str | None = "the server is starting"

    @property
    def now(self) -> int:
        """Present time."""
        return int(self._clock())

    @contextmanager
    def open(self) -> Iterator[None]:
        """Read the records, and keep other processes from the folder meanwhile; blocks.

        Raises:
            UnavailableError: Another process has the folder.
            OSError: The folder cannot be used.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._folder.lock():
                self._read()
                self._closed = None
                yield
        except (UnavailableError, OSError) as error:
            self._closed = str(error)
            raise
        finally:
            self._closed = self._closed or "the server is shutting down"

    def check_open(self) -> None:
        """Check that files and batches can be used.

        Raises:
            UnavailableError: They cannot; the message says why.
        """
        if self._closed is not None:
            raise UnavailableError(f"files and batches cannot be used: {self._closed}")

    def path(self, id_: str) -> Path:
        """Return where the content of a file lies."""
        return self.root / FILES / id_

    def open_content(self, id_: str) -> BinaryIO:
        """Open the content of a file to be read; blocks."""
        return self.path(id_).open("rb")

    def find_file(self, id_: str, owner: str) -> StoredFile:
        """Return a file of *owner*.

        Raises:
            UnknownRouteError: There is none.
        """
        return _find_own(self.files, id_, owner, "file")

    def find_batch(self, id_: str, owner: str) -> Batch:
        """Return a batch of *owner*.

        Raises:
            UnknownRouteError: There is none.
        """
        return _find_own(self.batches, id_, owner, "batch")

    def begin_upload(self, owner: str) -> Upload:
        """Return a file to write.

        Raises:
            TooLargeError: The owner may not keep so many.
        """
        self.quota.check(owner, OVERHEAD)
        (self.root / FILES).mkdir(exist_ok=True)
        return Upload(self.path(make_id("file-")), self.quota, owner)

    async def add_file(self, file: StoredFile) -> None:
        """Keep a file whose content is in its place and counted."""
        file = msgspec.structs.replace(file, number=next(self._numbers))
        self.quota.count(file.owner, OVERHEAD)
        self.files[file.id] = file
        await self._follow(lambda: self._write(FILES, file))

    async def delete_file(self, file: StoredFile) -> None:
        """Delete a file.

        Raises:
            InvalidInputError: A batch that has not ended needs it.
        """
        if self._is_needed(file):
            raise InvalidInputError(
                f"{file.id} is the input of a batch that has not ended: cancel the batch first"
            )
        await self._remove_file(file)

    def _is_needed(self, file: StoredFile) -> bool:
        return any(
            one.input == file.id and one.status not in FINAL for one in self.batches.values()
        )

    async def _remove_file(self, file: StoredFile) -> None:
        del self.files[file.id]

        def remove() -> None:
            # The record first: content without one is removed at the next start.
            self._folder.remove(f"{FILES}/{file.id}.json")
            self._folder.remove(f"{FILES}/{file.id}")

        await self._follow(remove)
        self.quota.count(file.owner, -file.size - OVERHEAD)

    async def put_batch(self, batch: Batch) -> Batch:
        """Keep a batch, in the place of an earlier state of it.

        Raises:
            TooLargeError: It is new, and its owner has too much.
        """
        if batch.id not in self.batches:
            self.quota.add(batch.owner, OVERHEAD)
            batch = msgspec.structs.replace(batch, number=next(self._numbers))
        self.batches[batch.id] = batch
        await self._follow(lambda: self._write(BATCHES, self.batches[batch.id]))
        return self.batches[batch.id]

    async def remove_expired(self) -> None:
        """Delete batches with their files, and files, whose time has passed."""
        now = self.now
        for batch in list(self.batches.values()):
            if batch.removed is not None and batch.removed <= now:
                await self._remove_batch(batch)
        for file in list(self.files.values()):
            # Asked each time: others change files and batches while one is deleted.
            if file.expires <= now and file.id in self.files and not self._is_needed(file):
                await self._remove_file(file)

    async def _remove_batch(self, batch: Batch) -> None:
        del self.batches[batch.id]
        await self._follow(lambda: self._folder.remove(f"{BATCHES}/{batch.id}.json"))
        self.quota.count(batch.owner, -OVERHEAD)
        for id_ in (batch.input, batch.output, batch.errors):
            shared = any(one.input == id_ for one in self.batches.values())
            if id_ is not None and id_ in self.files and not shared:
                await self._remove_file(self.files[id_])

    async def _follow(self, change: Callable[[], None]) -> None:
        """Change the disk, after all changes before; also when cancelled."""
        async with self._writing:
            task = asyncio.ensure_future(asyncio.to_thread(change))
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                await asyncio.wait([task])
                raise

    def _write(self, folder: str, record: StoredFile | Batch) -> None:
        data = msgspec.json.encode(record)

        def fill(path: Path) -> None:
            with open_private(path) as file:
                file.write(data)

        self._folder.add(f"{folder}/{record.id}.json", fill)

    def _read(self) -> None:
        for folder in (FILES, BATCHES):
            for name in self._folder.list(folder):
                if name.startswith(".tmp-"):
                    self._folder.remove(f"{folder}/{name}")
        self.files = self._read_records(FILES, StoredFile)
        self.batches = self._read_records(BATCHES, Batch)
        records: list[StoredFile | Batch] = [*self.files.values(), *self.batches.values()]
        self._numbers = count(1 + max((one.number for one in records), default=0))
        for batch in self.batches.values():
            self.quota.count(batch.owner, OVERHEAD)
        for file in self.files.values():
            self.quota.count(file.owner, file.size + OVERHEAD)
        growing = self._count_growing()
        for name in self._folder.list(FILES):
            if not name.endswith(".json") and name not in self.files and name not in growing:
                self._folder.remove(f"{FILES}/{name}")

    def _count_growing(self) -> set[str]:
        """Count what batches in work have written; return the names of those files."""
        names: set[str] = set()
        for batch in self.batches.values():
            if batch.status in FINAL:
                continue
            for id_, size in results_of(batch):
                if id_ not in self.files:
                    names.add(id_)
                    self.quota.count(batch.owner, size)
        return names

    def _read_records(self, folder: str, kind: type[R]) -> dict[str, R]:
        found: dict[str, R] = {}
        for name in self._folder.list(folder):
            id_ = name.removesuffix(".json")
            if id_ == name or not _ID.fullmatch(id_):
                continue
            try:
                record = msgspec.json.decode(
                    self._folder.read(f"{folder}/{name}") or b"", type=kind
                )
            except msgspec.MsgspecError as error:
                facts = {"file": name, "reason": str(error)}
                log.warning("a record of a file or batch cannot be read", extra=facts)
                continue
            found[id_] = record
        return found


SHELF: Final = web.AppKey("shelf", Shelf)


@contextmanager
def _name_the_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.error("a file cannot be stored", extra={"reason": str(error)})  # noqa: TRY400 - the message is complete
        raise UnavailableError(f"the file cannot be stored: {error.strerror}") from error


def _find_own(kept: Mapping[str, R], id_: str, owner: str, kind: str) -> R:
    """Return what has this id; what belongs to another is not there either.

    Raises:
        UnknownRouteError: There is none.
    """
    found = kept.get(id_)
    if found is None or found.owner != owner:
        raise UnknownRouteError(f"no such {kind}: {id_[:80]!r}")
    return found


def results_of(batch: Batch) -> list[tuple[str, int]]:
    """Return names and sizes of the files of output and errors; none before they are begun."""
    if batch.output is None or batch.errors is None:
        return []
    return [(batch.output, batch.done.output_size), (batch.errors, batch.done.errors_size)]


def make_id(prefix: str) -> str:
    """Return a random id, which cannot be guessed."""
    return prefix + secrets.token_hex(16)


def open_private(path: Path, *, append: bool = False) -> BinaryIO:
    """Open a file to write that only this user can read."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_APPEND if append else os.O_TRUNC)
    return os.fdopen(os.open(path, flags, PRIVATE), "ab" if append else "wb")


def make_file(
    id_: str, *, owner: str, name: str, purpose: Purpose, size: int, now: int, keep: int
) -> StoredFile:
    """Return the record of a file that is kept for *keep* seconds."""
    return StoredFile(
        id=id_,
        owner=owner,
        name=name,
        purpose=purpose,
        size=size,
        created=now,
        expires=now + keep,
    )
