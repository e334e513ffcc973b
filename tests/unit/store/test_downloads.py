"""Downloads under way: shared by all who wait, stopped when the last one leaves."""

import threading
from collections.abc import Callable

import pytest

from embedd.errors import PullError, StoreError
from embedd.store import downloads as downloads_module
from embedd.store.blobs import Blob, Report
from embedd.store.downloads import Downloads
from embedd.store.partial import STOPPED
from embedd.store.remote import Stop, never

DIGEST = f"sha256:{'a' * 64}"
BLOB = Blob(digest=DIGEST, size=10)


class Gated:
    """A transfer that ends when the test lets it, or when no pull waits for it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.started, self.go = threading.Event(), threading.Event()
        self.stopped = threading.Event()
        self.report: Report = lambda *_: None
        self.calls = 0

    def __call__(self, stop: Stop, report: Report) -> Blob:
        self.calls += 1
        self.report = report
        self.started.set()
        while not self.go.wait(0.01):
            if stop():
                self.stopped.set()
                raise PullError(STOPPED)
        if self.error:
            raise self.error
        return BLOB


class Waiter(threading.Thread):
    """A pull that waits for the download, until the test cancels it."""

    def __init__(self, downloads: Downloads, transfer: Callable[[Stop, Report], Blob]) -> None:
        super().__init__()
        self.leave = threading.Event()
        self.reported: list[tuple[int, int]] = []
        self.seen = threading.Event()
        self.result: Blob | Exception | None = None
        self._downloads, self._transfer = downloads, transfer
        self.start()

    def run(self) -> None:
        try:
            self.result = self._downloads.fetch(
                DIGEST, self._transfer, stop=self.leave.is_set, report=self._tell
            )
        except (PullError, StoreError) as error:
            self.result = error

    def _tell(self, done: int, total: int) -> None:
        self.reported.append((done, total))
        self.seen.set()

    def end(self) -> Blob | Exception | None:
        self.join(60)
        assert not self.is_alive()
        return self.result


def wait_for_waiters(downloads: Downloads, count: int) -> None:
    deadline = threading.Event()
    for _ in range(1000):
        with downloads._changed:
            if sum(download.waiters for download in downloads._under_way.values()) == count:
                return
        deadline.wait(0.01)
    raise AssertionError("they did not come")


def test_two_pulls_of_one_blob_share_its_transfer_and_its_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(downloads_module, "INTERVAL", 0.001)
    downloads, transfer = Downloads(), Gated()
    waiters = [Waiter(downloads, transfer), Waiter(downloads, transfer)]
    wait_for_waiters(downloads, 2)
    assert transfer.started.wait(60)
    transfer.report(4, 10)
    for waiter in waiters:
        assert waiter.seen.wait(60)
    transfer.report(2, 10)  # a source that cannot resume: no pull reports less than before
    assert not transfer.stopped.wait(0.05)  # many looks of both
    transfer.report(10, 10)
    transfer.go.set()
    assert [waiter.end() for waiter in waiters] == [BLOB, BLOB]
    assert transfer.calls == 1
    assert all(waiter.reported == [(4, 10), (10, 10)] for waiter in waiters)


def test_a_cancelled_pull_does_not_end_a_transfer_that_another_waits_for() -> None:
    downloads, transfer = Downloads(), Gated()
    leaving, staying = Waiter(downloads, transfer), Waiter(downloads, transfer)
    wait_for_waiters(downloads, 2)
    leaving.leave.set()
    error = leaving.end()
    assert isinstance(error, PullError)
    assert str(error) == STOPPED
    assert not transfer.stopped.wait(0.05)
    transfer.go.set()
    assert staying.end() == BLOB


def test_when_the_last_one_leaves_the_transfer_stops_and_a_newcomer_starts_another() -> None:
    downloads, first, second = Downloads(), Gated(), Gated()
    waiter = Waiter(downloads, first)
    assert first.started.wait(60)
    waiter.leave.set()
    assert isinstance(waiter.end(), PullError)
    newcomer = Waiter(downloads, second)
    assert first.stopped.wait(60)
    second.go.set()
    assert newcomer.end() == BLOB
    assert second.calls == 1
    assert downloads._under_way == {}


def test_a_failure_reaches_all_pulls_and_the_next_pull_tries_again() -> None:
    downloads, failing = Downloads(), Gated(StoreError("disk full"))
    waiters = [Waiter(downloads, failing), Waiter(downloads, failing)]
    wait_for_waiters(downloads, 2)
    failing.go.set()
    assert [str(waiter.end()) for waiter in waiters] == ["disk full", "disk full"]
    good = Gated()
    good.go.set()
    assert downloads.fetch(DIGEST, good, stop=never, report=lambda *_: None) == BLOB


def test_a_bug_in_a_transfer_ends_every_wait() -> None:
    downloads, broken = Downloads(), Gated(ZeroDivisionError())
    broken.go.set()
    with pytest.raises(StoreError, match="internal error"):
        downloads.fetch(DIGEST, broken, stop=never, report=lambda *_: None)
