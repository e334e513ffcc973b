"""The runner of batches: restarts, patience, expiry, and what is left on the disk."""

import asyncio
import errno
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from embedd.bulk import requests
from embedd.bulk.answering import Answered
from embedd.bulk.requests import EMBEDDINGS
from embedd.bulk.units import Limits
from embedd.errors import (
    DeadlineError,
    EmbeddError,
    InvalidInputError,
    LoadTimeoutError,
    OverloadedError,
    ShuttingDownError,
    TooLargeError,
    UnavailableError,
)
from embedd.server.batches.quota import OVERHEAD, Quota
from embedd.server.batches.records import DAY, FINAL, Batch, Purpose, Status
from embedd.server.batches.runner import Runner
from embedd.server.batches.shelf import KEPT, Shelf, make_file, make_id

ROWS = 4


@dataclass
class FakeAnswer:
    """Answers a body with itself.

    Attributes:
        computed: Names of inputs, in the order in which they were begun.
        errors: Raised by the next requests, one each.
        stop: Called with the number of requests before each.
    """

    computed: list[str] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    stop: Callable[[int], None] = lambda _: None

    async def compute(self, url: str, body: bytes) -> Answered:
        assert url == EMBEDDINGS
        self.computed.append(json.loads(body)["input"])
        self.stop(len(self.computed))
        if self.errors:
            raise self.errors.pop(0)
        return Answered(status=200, request_id="r", body=body, tokens=2)

    def refuse(self, error: EmbeddError) -> Answered:
        return Answered(status=503, request_id="r", body=b'"%s"' % type(error).__name__.encode())


@dataclass
class Place:
    """A folder of batches, opened as often as a server would be started."""

    root: Path
    limit: int = 1 << 20
    now: float = 1e9
    slept: list[float] = field(default_factory=list)

    def shelf(self) -> Shelf:
        return Shelf(self.root, limit=self.limit, max_body=1000, clock=lambda: self.now)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    @asynccontextmanager
    async def serve(self, answer: FakeAnswer) -> AsyncIterator[tuple[Shelf, Runner]]:
        shelf = self.shelf()
        runner = Runner(shelf, answer, sleep=self.sleep)
        with shelf.open():
            task = asyncio.create_task(runner.run())
            try:
                yield shelf, runner
            finally:
                task.cancel()
                await asyncio.wait([task])

    async def add(self, shelf: Shelf, count: int = 10, owner: str = "") -> Batch:
        lines = [
            {"custom_id": str(i), "method": "POST", "url": EMBEDDINGS, "body": {"input": str(i)}}
            for i in range(count)
        ]
        upload = shelf.begin_upload(owner)
        content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        upload.reserve(len(content))
        upload.write(content)
        upload.seal()
        file = make_file(
            upload.path.name,
            owner=owner,
            name="in",
            purpose=Purpose.BATCH,
            size=len(content),
            now=shelf.now,
            keep=KEPT,
        )
        await shelf.add_file(file)
        return await shelf.put_batch(
            Batch(
                id=make_id("batch_"),
                owner=owner,
                endpoint=EMBEDDINGS,
                input=file.id,
                window="24h",
                metadata=None,
                status=Status.VALIDATING,
                created=shelf.now,
                expires=shelf.now + DAY,
                keep=KEPT,
            )
        )

    async def finish(self, shelf: Shelf, runner: Runner, batch: Batch) -> Batch:
        runner.wake()
        async with asyncio.timeout(60):
            while shelf.batches[batch.id].status not in FINAL:
                await asyncio.sleep(0.001)
        return shelf.batches[batch.id]

    def read(self, shelf: Shelf, id_: str | None) -> list[dict[str, object]]:
        assert id_ is not None
        return [json.loads(line) for line in shelf.path(id_).read_bytes().splitlines()]

    def count_bytes(self, shelf: Shelf, id_: str | None, lines: int) -> int:
        assert id_ is not None
        return sum(map(len, shelf.path(id_).read_bytes().splitlines(keepends=True)[:lines]))

    def names(self, shelf: Shelf, id_: str | None) -> list[object]:
        return [line["custom_id"] for line in self.read(shelf, id_)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(requests, "RANGES", Limits(rows=ROWS, bytes=1 << 20))
    return Place(tmp_path / "batches")


@pytest.mark.parametrize("stop_at", range(1, 11))
async def test_no_request_is_lost_or_doubled_wherever_the_server_stops(
    place: Place, stop_at: int
) -> None:
    stopped = asyncio.Event()

    def stop(count: int) -> None:
        if count == stop_at:
            stopped.set()
            raise ShuttingDownError

    async with place.serve(FakeAnswer(stop=stop)) as (shelf, runner):
        batch = await place.add(shelf)
        runner.wake()
        await stopped.wait()
    second = FakeAnswer()
    async with place.serve(second) as (shelf, runner):
        ended = await place.finish(shelf, runner, batch)
        assert ended.status is Status.COMPLETED
        assert place.names(shelf, ended.output) == [str(i) for i in range(10)]
        assert (ended.done.completed, ended.done.tokens) == (10, 20)
    assert len(second.computed) == 10 - (stop_at - 1) // ROWS * ROWS


async def test_lines_that_were_not_committed_are_cut_off(place: Place) -> None:
    async with place.serve(FakeAnswer()) as (shelf, runner):
        batch = await place.finish(shelf, runner, await place.add(shelf))
        position = place.count_bytes(shelf, batch.input, ROWS)
        committed = place.count_bytes(shelf, batch.output, ROWS)
        [output] = [one for one in shelf.files.values() if one.id == batch.output]
        done = replace(batch.done, completed=ROWS, position=position, output_size=committed)
        back = replace(
            batch,
            status=Status.IN_PROGRESS,
            ended=None,
            removed=None,
            errors=make_id("file-"),
            done=done,
        )
        await shelf.put_batch(back)
        (place.root / "files" / f"{output.id}.json").unlink()
    async with place.serve(FakeAnswer()) as (shelf, runner):
        ended = await place.finish(shelf, runner, batch)
        assert place.names(shelf, ended.output) == [str(i) for i in range(10)]


async def test_results_that_are_missing_fail_the_batch(place: Place) -> None:
    def stop(count: int) -> None:
        if count == ROWS + 1:
            raise ShuttingDownError

    async with place.serve(FakeAnswer(stop=stop)) as (shelf, runner):
        batch = await place.add(shelf)
        runner.wake()
        async with asyncio.timeout(60):
            while not shelf.batches[batch.id].done.position:
                await asyncio.sleep(0.001)
    output = shelf.batches[batch.id].output
    shelf.path(output or "").write_bytes(b"")
    async with place.serve(FakeAnswer()) as (shelf, runner):
        ended = await place.finish(shelf, runner, batch)
        assert ended.status is Status.FAILED
        assert [one.code for one in ended.faults] == ["storage_error"]


async def test_a_request_is_tried_again_while_the_model_is_busy(place: Place) -> None:
    answer = FakeAnswer(errors=[OverloadedError("busy"), LoadTimeoutError("slow")])
    async with place.serve(answer) as (shelf, runner):
        ended = await place.finish(shelf, runner, await place.add(shelf, 1))
        assert ended.done.completed == 1
    assert answer.computed == ["0"] * 3
    assert place.slept == [0.5, 1.0]


async def test_a_request_fails_that_cannot_be_computed_for_too_long(place: Place) -> None:
    answer = FakeAnswer(errors=[LoadTimeoutError("slow") for _ in range(1000)])
    async with place.serve(answer) as (shelf, runner):
        ended = await place.finish(shelf, runner, await place.add(shelf, 1))
        assert (ended.status, ended.done.failed) == (Status.COMPLETED, 1)
        [line] = place.read(shelf, ended.errors)
        assert line["response"] == {
            "status_code": 503,
            "request_id": "r",
            "body": "LoadTimeoutError",
        }
    assert 120 < sum(place.slept) < 140


@pytest.mark.parametrize("error", [DeadlineError(), InvalidInputError("no")])
async def test_an_error_that_stays_is_not_tried_again(place: Place, error: EmbeddError) -> None:
    answer = FakeAnswer(errors=[error])
    async with place.serve(answer) as (shelf, runner):
        ended = await place.finish(shelf, runner, await place.add(shelf, 2))
        assert (ended.done.completed, ended.done.failed) == (1, 1)
    assert place.slept == []


async def test_what_is_not_computed_within_the_window_is_given_up(place: Place) -> None:
    def late(count: int) -> None:
        if count == ROWS:
            place.now += DAY

    async with place.serve(FakeAnswer(stop=late)) as (shelf, runner):
        ended = await place.finish(shelf, runner, await place.add(shelf))
        assert ended.status is Status.EXPIRED
        assert (ended.done.completed, ended.done.given_up) == (4, 6)
        lines = place.read(shelf, ended.errors)
        assert [line["error"] for line in lines] == [
            {
                "code": "batch_expired",
                "message": "this request was not computed before the batch expired",
            }
        ] * 6


async def test_a_batch_that_is_cancelled_at_once_computes_nothing(place: Place) -> None:
    answer = FakeAnswer()
    async with place.serve(answer) as (shelf, runner):
        batch = await place.add(shelf)
        cancelled = replace(batch, status=Status.CANCELLING, cancelling=shelf.now)
        ended = await place.finish(shelf, runner, await shelf.put_batch(cancelled))
        assert (ended.status, ended.done.given_up) == (Status.CANCELLED, 10)
        assert (ended.output, ended.total) == (None, 10)
        assert place.names(shelf, ended.errors) == [str(i) for i in range(10)]
    assert answer.computed == []


async def test_an_input_is_kept_while_another_batch_has_it(place: Place) -> None:
    async with place.serve(FakeAnswer()) as (shelf, runner):
        batch = await place.add(shelf)
        second = replace(batch, id=make_id("batch_"))
        first = await shelf.put_batch(replace(batch, keep=3600))
        for one in (first, await shelf.put_batch(second)):
            await place.finish(shelf, runner, one)
        place.now += 3601
        await shelf.remove_expired()
        assert list(shelf.batches) == [second.id]
        assert set(shelf.files) == {second.input, shelf.batches[second.id].output}


async def test_a_batch_and_its_files_are_removed_a_week_after_its_end(place: Place) -> None:
    async with place.serve(FakeAnswer()) as (shelf, runner):
        await place.finish(shelf, runner, await place.add(shelf))
        place.now += KEPT - 1
        await shelf.remove_expired()
        assert len(shelf.batches) == 1
        place.now += 2
        await shelf.remove_expired()
        assert (shelf.batches, shelf.files) == ({}, {})
        shelf.quota.check("", place.limit)
    assert [*(place.root / "files").iterdir(), *(place.root / "batches").iterdir()] == []


async def test_files_without_records_are_removed_at_the_start(place: Place) -> None:
    files = place.root / "files"
    files.mkdir(parents=True)
    for name in (make_id("file-"), f".tmp-1-of-1-{make_id('file-')}.json"):
        (files / name).write_bytes(b"x")
    damaged = files / f"{make_id('file-')}.json"
    damaged.write_bytes(b"{")
    with place.shelf().open():
        pass
    assert list(files.iterdir()) == [damaged]


async def test_a_batch_whose_input_is_gone_fails(place: Place) -> None:
    async with place.serve(FakeAnswer()) as (shelf, runner):
        batch = await place.add(shelf)
        shelf.path(batch.input).unlink()
        ended = await place.finish(shelf, runner, batch)
        assert [one.code for one in ended.faults] == ["file_not_found"]


async def test_a_bug_fails_the_batch_and_not_the_others(place: Place) -> None:
    answer = FakeAnswer(errors=[RuntimeError("bug")])
    async with place.serve(answer) as (shelf, runner):
        first = await place.add(shelf)
        ended = await place.finish(shelf, runner, first)
        assert [one.code for one in ended.faults] == ["internal_error"]
        second = await place.finish(shelf, runner, await place.add(shelf))
        assert second.status is Status.COMPLETED


async def test_bytes_of_a_range_that_fails_are_given_back(place: Place) -> None:
    place.limit = 5 * OVERHEAD
    async with place.serve(FakeAnswer()) as (shelf, runner):
        ended = await place.finish(shelf, runner, await place.add(shelf, 60))
        assert [one.code for one in ended.faults] == ["storage_limit_exceeded"]
        kept = sum(one.size + OVERHEAD for one in shelf.files.values()) + OVERHEAD
        shelf.quota.check("", place.limit - kept)
        with pytest.raises(TooLargeError):
            shelf.quota.check("", place.limit - kept + 1)


async def test_one_batch_of_each_owner_is_in_work_at_a_time(place: Place) -> None:
    place.limit = 1 << 30
    async with place.serve(FakeAnswer()) as (shelf, runner):
        batches = [await place.add(shelf, 1, owner) for owner in ("a", "a", "b")]
        assert [one.id for one in runner._choose()] == [batches[0].id, batches[2].id]
        for batch in batches:
            await place.finish(shelf, runner, batch)


class FullDisk(io.RawIOBase):
    """Takes nothing."""

    def writable(self) -> bool:
        return True

    def write(self, _: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_an_upload_to_a_full_disk_is_refused_and_forgotten(place: Place) -> None:
    with place.shelf().open():
        pass
    shelf = place.shelf()
    upload = shelf.begin_upload("a")
    upload._file.close()
    upload._file = io.BufferedWriter(FullDisk())
    upload.reserve(10)
    upload.write(bytes(10))
    with pytest.raises(UnavailableError, match="cannot be stored: No space left"):
        upload.seal()
    upload.drop()
    assert list((place.root / "files").iterdir()) == []
    shelf.quota.check("a", place.limit // 2)


def test_all_owners_together_have_a_limit() -> None:
    quota = Quota(100)
    quota.add("a", 50)
    quota.add("b", 40)
    with pytest.raises(TooLargeError, match="all batches"):
        quota.add("c", 11)
    quota.count("a", -50)
    quota.add("c", 11)
