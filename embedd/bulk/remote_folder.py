"""The folder of a job in a store: what `Folder` is on a file system."""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from embedd.bulk import lease
from embedd.bulk.folder import RECORDS, FolderLockedError
from embedd.bulk.lease import Lease
from embedd.bulk.remote import RemotePath


class RemoteFolder:
    """Files below *root*; each is uploaded whole, and its size looked at afterwards.

    Args:
        shard: Which part of the job this process does.
        notify: Called with a text when a lock has to be waited for.
        sleep: Waits for seconds.
    """

    is_exclusive = False

    def __init__(
        self,
        root: RemotePath,
        shard: str = "1-of-1",
        *,
        notify: Callable[[str], object] = lambda _text: None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.root = root
        self.shard = shard
        self._notify = notify
        self._sleep = sleep
        self._lease: Lease | None = None

    def list(self, folder: str = "") -> set[str]:
        """See `JobFolder`."""
        return set(self.sizes(folder))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """See `JobFolder`."""
        return (self.root / folder).list()

    def read(self, name: str) -> bytes | None:
        """See `JobFolder`."""
        try:
            return self.path(name).read_bytes()
        except FileNotFoundError:
            return None

    def path(self, name: str) -> RemotePath:
        """See `JobFolder`."""
        return self.root / name

    def fetch(self, names: Iterable[str]) -> Iterator[Path]:
        """See `JobFolder`; one copy is there at a time."""
        with tempfile.TemporaryDirectory(prefix="embedd-") as folder:
            for name in names:
                path = Path(folder) / name
                self.path(name).download(path)
                yield path
                path.unlink()

    def replace(self, name: str, data: bytes) -> None:
        """See `JobFolder`."""
        self.path(name).write_bytes(data)

    def create(self, name: str, data: bytes) -> bool:
        """See `JobFolder`; of two that create it in the same second the later one counts."""
        if self.read(name) is not None:
            return False
        self.replace(name, data)
        self._sleep(lease.SETTLE)
        return self.read(name) == data

    def add(self, name: str, write: Callable[[Path], object]) -> None:
        """See `JobFolder`."""
        self.path(name).fill(write)

    def remove(self, name: str) -> None:
        """See `JobFolder`."""
        self.path(name).unlink(missing_ok=True)

    def remove_folder(self, name: str) -> None:
        """See `JobFolder`."""
        (self.root / name).remove_folder()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """See `JobFolder`; after a process that was killed it takes `lease.STALE` seconds."""
        held = self._make_lease(self.shard)
        with held.hold():
            self._lease = held
            for name in self.list():  # of probes of a cluster
                if name.startswith(f".tmp-{self.shard}-"):
                    self.remove(name)
            try:
                yield
            finally:
                self._lease = None

    def check_lock(self) -> None:
        """See `JobFolder`."""
        if self._lease is not None:
            self._lease.check()

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """See `JobFolder`."""
        if not self.list(RECORDS):
            yield False
            return
        with ExitStack() as stack:
            is_held = False
            while not is_held:
                with suppress(FolderLockedError):
                    stack.enter_context(self._make_lease("ending").hold())
                    is_held = True
            yield True

    def _make_lease(self, name: str) -> Lease:
        path = self.path(f"{RECORDS}/lock-{name}")
        return Lease(path, str(self.root), notify=self._notify, sleep=self._sleep)
