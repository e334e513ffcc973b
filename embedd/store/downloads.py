"""Running downloads: pulls of the same blob at the same time share one transfer."""

import logging
import threading
from collections.abc import Callable
from typing import Final, TypeAlias

from embedd.errors import EmbeddError, PullError, StoreError
from embedd.store.blobs import Blob, Report
from embedd.store.partial import STOPPED
from embedd.store.remote import Stop

_log = logging.getLogger(__name__)

# Seconds between two looks of a waiting pull, and at least between two of its reports
# (contract 7.2).
INTERVAL: Final = 0.06

Transfer: TypeAlias = Callable[[Stop, Report], Blob]


class _Download:
    """A transfer in its own thread, and the number of pulls that wait for it.

    Guarded by the condition of `Downloads`. The transfer continues when a waiting pull is
    cancelled, and stops when the last one is.
    """

    def __init__(self) -> None:
        self.waiters = 0
        self.abandoned = False
        self.done, self.total = 0, 0
        # None until the transfer has ended.
        self.outcome: Blob | EmbeddError | None = None


class Downloads:
    """The transfers of one process, by digest."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._under_way: dict[str, _Download] = {}

    def fetch(self, digest: str, transfer: Transfer, *, stop: Stop, report: Report) -> Blob:
        """Run *transfer*, or join the running transfer of *digest*; return its blob.

        Raises:
            PullError: *stop* returned True, or the transfer failed.
            StoreError: The transfer cannot write.
        """
        download = self._join(digest, transfer)
        try:
            return self._wait(download, stop, report)
        finally:
            self._leave(digest, download)

    def _join(self, digest: str, transfer: Transfer) -> _Download:
        with self._changed:
            download = self._under_way.get(digest)
            if download is None:
                download = self._start(digest, transfer)
            download.waiters += 1
            return download

    def _start(self, digest: str, transfer: Transfer) -> _Download:
        download = self._under_way[digest] = _Download()
        # A daemon, so that the process can exit during a slow connection. The next pull
        # resumes the partial file.
        thread = threading.Thread(
            target=self._run, args=(digest, download, transfer), daemon=True, name="download"
        )
        thread.start()
        return download

    def _wait(self, download: _Download, stop: Stop, report: Report) -> Blob:
        reported = -1
        while True:
            with self._changed:
                if download.outcome is None:
                    self._changed.wait(INTERVAL)
                outcome, done, total = download.outcome, download.done, download.total
            # Never decreasing, even if a source that cannot resume starts again.
            if done > reported and total:
                report(done, total)
                reported = done
            if isinstance(outcome, EmbeddError):
                raise outcome
            if outcome is not None:
                return outcome
            if stop():
                raise PullError(STOPPED)

    def _leave(self, digest: str, download: _Download) -> None:
        with self._changed:
            download.waiters -= 1
            # A later pull must not join a transfer that is about to stop.
            download.abandoned = download.waiters == 0
            if download.abandoned and self._under_way.get(digest) is download:
                del self._under_way[digest]

    def _run(self, digest: str, download: _Download, transfer: Transfer) -> None:
        def report(done: int, total: int) -> None:
            with self._changed:
                download.done, download.total = done, total

        outcome: Blob | EmbeddError
        try:
            outcome = transfer(lambda: download.abandoned, report)
        except EmbeddError as error:
            outcome = error
        except Exception:
            _log.exception("download failed")
            outcome = StoreError("the download failed with an internal error: see the log")
        with self._changed:
            download.outcome = outcome
            if self._under_way.get(digest) is download:
                del self._under_way[digest]
            self._changed.notify_all()
