"""`Lease`: a lock in a store, where nothing can be created by one process only.

Its holder writes it anew every few seconds. One that does not change for longer is of a process
that has ended: that takes no clock that two machines agree on.
"""

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import msgspec

from embedd.bulk.folder import WAY_OUT, FolderLockedError
from embedd.bulk.remote import RemotePath
from embedd.errors import EmbeddError

BEAT = 5.0  # seconds between two writes of a holder
STALE = 30.0  # seconds without a change after which a holder has ended
SETTLE = 1.0  # seconds until another one that has begun to write at the same time has done so


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process with a lease."""

    host: str
    pid: int
    time: int
    id: str

    def __str__(self) -> str:
        """Return it for a message."""
        return f"process {self.pid} on {self.host}"


class Lease:
    """A lock that is an object of a store.

    Two processes that take it in the same second may both get it: `check` is for each of their
    effects, and has one of them stop.

    Args:
        subject: What is locked, for messages.
        notify: Called with a text when it has to wait.
        sleep: Waits for seconds.
    """

    def __init__(
        self,
        path: RemotePath,
        subject: str,
        *,
        notify: Callable[[str], object],
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._path = path
        self._subject = subject
        self._notify = notify
        self._sleep = sleep
        self._own = Holder(
            host=socket.gethostname(), pid=os.getpid(), time=0, id=secrets.token_hex(8)
        )
        self._ended = threading.Event()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold it until the end of the block.

        Raises:
            FolderLockedError: Another process has it.
        """
        self._take()
        thread = threading.Thread(target=self._keep, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            with suppress(EmbeddError):  # it is taken over when it no longer changes
                if self._is_own(self._path):
                    self._path.unlink(missing_ok=True)

    def check(self) -> None:
        """Check that it is still this process's.

        Raises:
            FolderLockedError: Another process has taken it: this one was not seen for too long.
        """
        holder = _read(self._path)
        if holder is None or holder.id != self._own.id:
            by = "deleted" if holder is None else f"taken over by {holder}"
            raise FolderLockedError(
                f"the lock of {self._subject} was {by}; run the same command again when no other "
                "works on it"
            )

    def _take(self) -> None:
        self._wait_until_free()
        self._write(self._path)
        self._sleep(SETTLE)
        self.check()

    def _wait_until_free(self) -> None:
        before = _read(self._path)
        if before is None:
            return
        self._notify(
            f"{self._subject} has a lock of {before}: waiting up to {STALE:.0f} s to see whether "
            "that has ended"
        )
        waited = 0.0
        while waited < STALE:
            self._sleep(BEAT)
            waited += BEAT
            now = _read(self._path)
            if now is None:
                return
            if now != before:
                raise FolderLockedError(f"{self._subject} is in use by {now}: {WAY_OUT}")

    def _keep(self) -> None:
        """Write it again and again until the end, or until another process has it."""
        once = replace(self._path, patient=False)
        while not self._ended.wait(BEAT):
            with suppress(EmbeddError):  # what is wrong is said where something is written
                if self._is_own(once):
                    self._write(once)

    def _is_own(self, path: RemotePath) -> bool:
        holder = _read(path)
        return holder is not None and holder.id == self._own.id

    def _write(self, path: RemotePath) -> None:
        self._own = replace(self._own, time=time.time_ns())
        path.write_bytes(msgspec.json.encode(self._own))


def _read(path: RemotePath) -> Holder | None:
    """The holder of a lease; None if nothing holds it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Holder)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
