"""The folder of a job on a file system: files that appear whole, and a lock."""

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TextIO

import msgspec

from embedd.errors import UnavailableError

if TYPE_CHECKING:
    from embedd.bulk.remote import Target

# Names of what a job puts beside its records.
OWN: Final = re.compile(r"(part-\d{6,}|results|empty|_SUCCESS|\.tmp-.*)(\.[a-z]+)?")
RECORDS: Final = "_embedd"  # what is known of the job and its parts
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
WAY_OUT: Final = "wait until it has ended, or stop it"  # of another process with the lock


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """A process that has a lock, as the file of the lock names it."""

    host: str
    pid: int
    time: int  # seconds since 1970


class FolderLockedError(UnavailableError):
    """Another process works on the same shard of the same job."""


class JobFolder(Protocol):
    """Files of a job that appear whole, and a lock for each shard.

    Attributes:
        shard: Which part of the job this process does.
        is_exclusive: Whether the lock keeps others away, and a file that has its name is whole.
    """

    shard: str
    is_exclusive: bool

    @property
    def root(self) -> "Target":
        """Where the files are."""
        ...

    def list(self, folder: str = "") -> set[str]:
        """Return the names of the files in *folder*, without it."""
        ...

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Return the names of the files in *folder* with their bytes."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, None if it does not exist."""
        ...

    def path(self, name: str) -> "Target":
        """Return where a file lies."""
        ...

    def fetch(self, names: Iterable[str]) -> Iterator[Path]:
        """Yield each of the files as one of this machine, which is there until the next."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Write a file, in the place of one that may be there."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it is there; return whether it was written."""
        ...

    def add(self, name: str, write: Callable[[Path], object]) -> None:
        """Let *write* fill a new file, and give it its name once it is complete."""
        ...

    def remove(self, name: str) -> None:
        """Delete a file, which may be missing."""
        ...

    def remove_folder(self, name: str) -> None:
        """Delete a folder with all that a job makes, which may be missing; other files stay."""
        ...

    def lock(self) -> AbstractContextManager[None]:
        """Hold the lock of the shard until the end of the block.

        Raises:
            FolderLockedError: Another process has it; the message names it.
        """
        ...

    def check_lock(self) -> None:
        """Check that a lock that is held still is.

        Raises:
            FolderLockedError: Another process has taken it.
        """
        ...

    def turn(self) -> AbstractContextManager[bool]:
        """Wait until no other process completes the output; false if one has, and is done."""
        ...


class Folder:
    """Files under *root*; each is written beside its place, flushed and renamed.

    Names may have one slash. A crash leaves files that begin with ``.tmp-`` and the shard; the
    next job that locks the shard removes them.

    Args:
        shard: Which part of the job this process does.
    """

    is_exclusive = True

    def __init__(self, root: Path, shard: str = "1-of-1") -> None:
        self.root = root
        self.shard = shard

    def list(self, folder: str = "") -> set[str]:
        """See `JobFolder`."""
        try:
            with os.scandir(self.root / folder) as entries:
                return {entry.name for entry in entries if entry.is_file()}
        except FileNotFoundError:
            return set()

    def sizes(self, folder: str = "") -> dict[str, int]:
        """See `JobFolder`; files that other shards rename meanwhile are missing."""
        found = {}
        for name in self.list(folder):
            with suppress(FileNotFoundError):
                found[name] = (self.root / folder / name).stat().st_size
        return found

    def read(self, name: str) -> bytes | None:
        """See `JobFolder`."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    def path(self, name: str) -> Path:
        """See `JobFolder`."""
        return self.root / name

    def fetch(self, names: Iterable[str]) -> Iterator[Path]:
        """See `JobFolder`."""
        return (self.root / name for name in names)

    def replace(self, name: str, data: bytes) -> None:
        """See `JobFolder`."""
        self.add(name, lambda path: path.write_bytes(data))

    def create(self, name: str, data: bytes) -> bool:
        """See `JobFolder`."""
        temporary = self._write(name, lambda path: path.write_bytes(data))
        with naming(self.root / name):
            return self._link(temporary, name)

    def _link(self, temporary: Path, name: str) -> bool:
        try:
            os.link(temporary, self.root / name)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        _flush_folder((self.root / name).parent)
        return True

    def add(self, name: str, write: Callable[[Path], object]) -> None:
        """See `JobFolder`."""
        temporary = self._write(name, write)
        with naming(self.root / name):
            temporary.replace(self.root / name)
            _flush_folder((self.root / name).parent)

    def remove(self, name: str) -> None:
        """See `JobFolder`."""
        (self.root / name).unlink(missing_ok=True)

    def remove_folder(self, name: str) -> None:
        """See `JobFolder`."""
        folder = self.root / name
        shutil.rmtree(folder / RECORDS, ignore_errors=True)
        for file in self.list(name):
            if OWN.fullmatch(file):
                (folder / file).unlink(missing_ok=True)
        with suppress(OSError):  # it has files of the user's, or is missing
            folder.rmdir()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """See `JobFolder`; the system releases it with the process, however that ends."""
        path = self.root / RECORDS / f"lock-{self.shard}"
        made = [folder for folder in path.parents if not folder.exists()]
        is_new = not path.exists()
        with naming(path):
            opened = self._open_lock(path)
        with opened as file:
            self._remove_temporary()
            with suppress(OSError):  # a disk that is full: the lock is held without a name in it
                _write_holder(file.fileno())
            try:
                yield
            except BaseException:
                if is_new:
                    path.unlink(missing_ok=True)
                with suppress(OSError):  # one that has a job, or another shard's lock, stays
                    for folder in made:
                        folder.rmdir()
                raise

    def _open_lock(self, path: Path) -> TextIO:
        """Return the file of the lock, locked, which is the one that others find at *path*."""
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                with file:
                    file.seek(0)
                    owner = _describe_holder(file.read())
                raise FolderLockedError(f"{self.root} is in use by {owner}: {WAY_OUT}") from error
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    return file
            file.close()  # its owner has deleted it meanwhile

    def check_lock(self) -> None:
        """See `JobFolder`: nothing can take a lock of the kernel's away."""

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """See `JobFolder`."""
        try:
            file = (self.root / RECORDS / "lock-ending").open("a+")
        except FileNotFoundError:
            yield False
            return
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield (self.root / RECORDS).exists()

    def _remove_temporary(self) -> None:
        for folder in ("", RECORDS):
            for name in self.list(folder):
                if name.startswith(f".tmp-{self.shard}-"):
                    (self.root / folder / name).unlink(missing_ok=True)

    def _write(self, name: str, write: Callable[[Path], object]) -> Path:
        place = self.root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        # Threads of this process may write the same name at the same time.
        temporary = place.with_name(f".tmp-{self.shard}-{secrets.token_hex(8)}-{place.name}")
        try:
            with naming(place):
                write(temporary)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary


@contextmanager
def naming(place: object) -> Iterator[None]:
    """Let an error of the system that names no file name *place*, which is written.

    Raises:
        UnavailableError: It cannot be written.
    """
    try:
        yield
    except BrokenPipeError:  # who reads it needs no more
        raise
    except OSError as error:
        if error.errno in FULL:
            raise UnavailableError(
                f"the disk is full, {place} cannot be written: make room there"
            ) from error
        if error.filename is None:
            raise UnavailableError(f"{place} cannot be written: {error}") from error
        raise


def _write_holder(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    holder = Holder(host=socket.gethostname(), pid=os.getpid(), time=int(time.time()))
    os.write(descriptor, msgspec.json.encode(holder))


def hash_file(path: Path) -> str:
    """Return the sha256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _describe_holder(lock: str) -> str:
    """Return the words for the process that the content of a *lock* names."""
    try:
        holder = msgspec.json.decode(lock, type=Holder)
    except msgspec.MsgspecError:  # it has just taken the lock, or is an older embedd
        return "another process"
    return f"process {holder.pid} on {holder.host}"
