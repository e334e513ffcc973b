"""A blob on its way: taken up, verified, locked, and never half-visible."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from embedd.errors import PullError, StoreError
from embedd.store import partial as partial_module
from embedd.store.blobs import Blob
from embedd.store.disk import Disk
from embedd.store.layout import Layout
from embedd.store.partial import STOPPED, Partial, fetch_blob, partial_path
from embedd.store.remote import Stop, never
from tests.loopback_hub import digest_of
from tests.unit.store.faults import FaultyDisk

DATA = bytes(range(251)) * 4000
WANTED = Blob(digest=digest_of(DATA), size=len(DATA))


class Place:
    """A folder of blobs, and a download into it."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root=root)
        self.layout.blobs.mkdir()
        self.target = self.layout.blob(WANTED.digest)
        self.partial = self.target.with_name(f"{self.target.name}-partial")
        self.asked: list[int] = []
        self.reported: list[tuple[int, int]] = []

    def stream(self, partial: Partial) -> None:
        self.asked.append(partial.done)
        for start in range(partial.done, len(DATA), 100_000):
            partial.write(DATA[start : start + 100_000])

    def fetch(
        self,
        stream: Callable[[Partial], None] | None = None,
        *,
        disk: Disk | None = None,
        stop: Stop = never,
    ) -> Blob:
        def report(done: int, total: int) -> None:
            self.reported.append((done, total))

        stream = stream or self.stream
        return fetch_blob(self.layout, disk or Disk(), WANTED, stream, stop=stop, report=report)

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.layout.blobs.iterdir())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_blob_appears_whole_under_its_digest(place: Place) -> None:
    assert place.fetch() == WANTED
    assert place.target.read_bytes() == DATA
    assert place.files == [place.target.name]
    assert place.reported[-1] == (len(DATA), len(DATA))


def test_what_an_earlier_download_left_is_hashed_and_not_asked_for(place: Place) -> None:
    place.partial.write_bytes(DATA[:500_000])
    place.fetch()
    assert place.asked == [500_000]
    assert place.target.read_bytes() == DATA
    assert place.reported[0] == (500_000, len(DATA))


def test_a_finished_download_that_was_not_named_yet_is_not_streamed_again(place: Place) -> None:
    place.partial.write_bytes(DATA)
    place.fetch()
    assert place.asked == []
    assert place.files == [place.target.name]


def test_more_than_the_whole_file_is_not_taken_up(place: Place) -> None:
    place.partial.write_bytes(DATA + b"x")
    place.fetch()
    assert place.asked == [0]
    assert place.target.read_bytes() == DATA


def test_a_source_that_starts_again_replaces_what_was_there(place: Place) -> None:
    place.partial.write_bytes(b"y" * 700_000)

    def restart(partial: Partial) -> None:
        partial.restart()
        assert partial.done == 0
        place.stream(partial)

    place.fetch(restart)
    assert place.target.read_bytes() == DATA


def test_other_bytes_than_promised_are_deleted(place: Place) -> None:
    place.partial.write_bytes(b"z" * 1000)
    with pytest.raises(PullError) as caught:
        place.fetch()
    got = digest_of(b"z" * 1000 + DATA[1000:])
    assert str(caught.value) == (
        f"digest mismatch, file must be downloaded again: want {WANTED.digest}, got {got}"
    )
    assert place.files == []


def test_a_stopped_download_keeps_what_it_has(place: Place) -> None:
    stops = iter([False, False, True])
    with pytest.raises(PullError, match=STOPPED):
        place.fetch(stop=lambda: next(stops))
    assert place.files == [place.partial.name]
    assert place.partial.read_bytes() == DATA[:200_000]
    with pytest.raises(PullError, match=STOPPED):  # while what is there is hashed
        place.fetch(stop=lambda: True)
    place.fetch()
    assert place.asked == [0, 200_000]


def test_a_download_that_never_began_leaves_nothing(place: Place) -> None:
    def refuse(_: Partial) -> None:
        raise PullError("no")

    with pytest.raises(PullError, match=r"^no$"):
        place.fetch(refuse)
    assert place.files == []


@pytest.mark.parametrize("steps", [0, 1])
def test_a_disk_that_fails_at_the_end_leaves_bytes_to_take_up(place: Place, steps: int) -> None:
    full = FaultyDisk(steps, error=OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(StoreError, match="No space left on device"):
        place.fetch(disk=full)
    assert place.files == [place.partial.name]
    place.fetch()
    assert place.asked == [0]
    assert place.target.read_bytes() == DATA


def test_a_full_disk_is_a_store_error_that_names_the_file(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(
        StoreError,
        match=r"-partial: No space left on device: .*B are free in .*: delete models",
    ) as caught:
        place.fetch()
    assert not isinstance(caught.value, PullError)
    assert place.files == []


def test_a_folder_that_cannot_be_written_is_a_store_error(place: Place) -> None:
    place.layout.blobs.rmdir()
    place.layout.blobs.write_text("a file")
    with pytest.raises(StoreError, match="cannot write"):
        place.fetch()


def test_a_disk_that_writes_short_loses_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: whole(fd, data[:70_001], at))
    place.fetch()
    assert place.target.read_bytes() == DATA


def test_of_two_at_the_same_time_one_fetches_and_both_have_it(place: Place) -> None:
    started, go = threading.Event(), threading.Event()

    def slow(partial: Partial) -> None:
        started.set()
        assert go.wait(60)
        place.stream(partial)

    first = threading.Thread(target=place.fetch, args=(slow,))
    first.start()
    assert started.wait(60)
    with pytest.raises(PullError, match=STOPPED):  # it waits for the lock until it is stopped
        place.fetch(stop=lambda: True)
    second = threading.Thread(target=place.fetch)
    second.start()
    go.set()
    first.join(60)
    second.join(60)
    assert place.asked == [0]
    assert place.files == [place.target.name]
    assert place.reported[-1] == (len(DATA), len(DATA))


def test_a_blob_that_is_there_already_is_left_alone(place: Place) -> None:
    place.target.write_bytes(DATA)
    place.partial.write_bytes(b"old")
    place.fetch()
    assert place.asked == []
    assert place.files == [place.target.name]


def test_a_blob_of_the_wrong_size_is_replaced(place: Place) -> None:
    place.target.write_bytes(DATA[:10])
    place.fetch()
    assert place.target.read_bytes() == DATA


def test_pieces_of_ollama_are_not_touched(place: Place) -> None:
    foreign = {
        place.partial: b"\0" * len(DATA),
        place.partial.with_name(f"{place.partial.name}-0"): b'{"N":0}',
    }
    for path, data in foreign.items():
        path.write_bytes(data)
    assert partial_path(place.layout, WANTED.digest) != place.partial
    place.fetch()
    assert {path: path.read_bytes() for path in foreign} == foreign
    assert place.target.read_bytes() == DATA
    assert len(place.files) == 3


def test_a_file_that_was_finished_while_one_waited_is_not_written_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the partial file and locking it, its owner may have named it."""
    lock = partial_module._lock
    times: list[Path] = []

    def finish_first(descriptor: int, path: Path, stop: Stop) -> None:
        if not times:
            place.partial.write_bytes(DATA)
            place.partial.replace(place.target)
        times.append(path)
        lock(descriptor, path, stop)

    monkeypatch.setattr(partial_module, "_lock", finish_first)
    place.fetch()
    assert len(times) == 2
    assert place.asked == []
    assert place.target.read_bytes() == DATA
    assert place.files == [place.target.name]
