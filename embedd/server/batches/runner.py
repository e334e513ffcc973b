"""Runs batches: checked as wholes, then answered range by range, each committed by its record."""

import asyncio
import errno
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import BinaryIO, Final

from msgspec.structs import replace

from embedd.bulk.answering import Answer, answer_in_order, answer_patiently
from embedd.bulk.requests import (
    LineFault,
    NumberedLine,
    check_requests,
    plan_requests,
    read_requests,
    render_answer,
    render_error,
)
from embedd.bulk.units import Range
from embedd.errors import ShuttingDownError, TooLargeError
from embedd.server.batches.records import FINAL, Batch, Purpose, Status, by_age
from embedd.server.batches.shelf import Shelf, make_file, make_id, open_private, results_of

log = logging.getLogger(__name__)

MOST_OWNERS: Final = 4  # whose batches are in work at a time, one of each
LOOK: Final = 60.0  # seconds between two looks for what has expired
LOST: Final = "the input file is missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A line to write, and where: what was answered well goes to the output."""

    data: bytes
    is_good: bool
    is_given_up: bool = False
    tokens: int = 0


class _GivenUpError(Exception):
    """The batch is cancelled or has expired."""

    def __init__(self, status: Status) -> None:
        super().__init__(status)
        self.status = status


class Runner:
    """Runs the batches of *shelf*, those that an earlier process began too.

    Args:
        sleep: Waits for seconds.
    """

    def __init__(
        self,
        shelf: Shelf,
        answer: Answer,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._shelf = shelf
        self._answer = answer
        self._sleep = sleep
        self._wake = asyncio.Event()
        self._running: dict[str, str] = {}  # owner → batch

    def wake(self) -> None:
        """Look for work: a batch was added or changed."""
        self._wake.set()

    async def run(self) -> None:
        """Run batches until cancelled; what is not committed then is computed again later."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                await self._shelf.remove_expired()
                for batch in self._choose():
                    self._running[batch.owner] = batch.id
                    group.create_task(self._run_one(batch.id, batch.owner))
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK):
                        await self._wake.wait()

    def _choose(self) -> list[Batch]:
        """Return the batches to begin: the oldest of owners of whom none is in work."""
        oldest: dict[str, Batch] = {}
        for batch in sorted(self._shelf.batches.values(), key=by_age):
            if batch.status not in FINAL and batch.owner not in self._running:
                oldest.setdefault(batch.owner, batch)
        return list(oldest.values())[: MOST_OWNERS - len(self._running)]

    async def _run_one(self, id_: str, owner: str) -> None:
        try:
            await self._work(id_)
        except ShuttingDownError:
            return  # the next process goes on
        except TooLargeError as error:
            await self._fail(id_, "storage_limit_exceeded", str(error))
        except FileNotFoundError:
            await self._fail(id_, "file_not_found", LOST)
        except OSError as error:
            log.error("batch failed", extra={"batch": id_, "reason": str(error)})  # noqa: TRY400 - the message is complete
            await self._fail(id_, "storage_error", f"the disk: {error.strerror}")
        except Exception:
            log.exception("batch failed", extra={"batch": id_})
            await self._fail(id_, "internal_error", "internal error")
        finally:
            del self._running[owner]
        self.wake()

    async def _work(self, id_: str) -> None:
        batch = self._shelf.batches[id_]
        if batch.began is None:
            batch = await self._check(batch)
        if batch.status in FINAL:
            return
        source = self._shelf.path(batch.input)
        ranges = await asyncio.to_thread(
            lambda: list(plan_requests(source, start=batch.done.position))
        )
        for one in ranges:
            lines = await asyncio.to_thread(read_requests, source, one)
            await self._run_range(id_, one, lines)
        await self._finish(id_)

    async def _check(self, batch: Batch) -> Batch:
        """Check the input: no line of it is computed unless all are valid."""
        source = self._shelf.path(batch.input)
        checked = await asyncio.to_thread(
            check_requests, source, batch.endpoint, max_body=self._shelf.max_body
        )
        now, batch = self._shelf.now, self._shelf.batches[batch.id]
        if checked.faults:
            return await self._end(replace(batch, faults=checked.faults), Status.FAILED)
        return await self._shelf.put_batch(
            replace(
                batch,
                # A batch that was cancelled meanwhile stays so.
                status=Status.IN_PROGRESS if batch.cancelling is None else batch.status,
                began=now,
                total=checked.requests,
                output=make_id("file-"),
                errors=make_id("file-"),
            )
        )

    async def _run_range(self, id_: str, lines: Range, requests: list[NumberedLine]) -> None:
        """Answer the requests of a range in order, and commit them."""
        before = self._shelf.batches[id_]
        self._shelf.progress[id_] = before.done
        try:
            with ExitStack() as stack:
                files = await asyncio.to_thread(self._open_results, before, stack)
                await answer_in_order(
                    requests,
                    lambda one: self._answer_line(id_, one),
                    lambda line: self._write(id_, line, files),
                )
                await asyncio.to_thread(_flush, files)
            done = replace(self._shelf.progress[id_], position=lines.end)
            # Not `before`: it may have been cancelled meanwhile.
            await self._shelf.put_batch(replace(self._shelf.batches[id_], done=done))
        except BaseException:
            done = self._shelf.progress[id_]
            more = done.output_size - before.done.output_size
            more += done.errors_size - before.done.errors_size
            self._shelf.quota.count(before.owner, -more)
            raise
        finally:
            del self._shelf.progress[id_]

    def _open_results(self, batch: Batch, stack: ExitStack) -> tuple[BinaryIO, BinaryIO]:
        """Open output and errors, without what was written after the record."""
        files = []
        for name, size in results_of(batch):
            file = stack.enter_context(open_private(self._shelf.path(name), append=True))
            if file.seek(0, os.SEEK_END) < size:
                raise OSError(errno.EIO, "results that were written are missing")
            file.truncate(size)
            files.append(file)
        return files[0], files[1]

    async def _write(self, id_: str, line: _Line, files: tuple[BinaryIO, BinaryIO]) -> None:
        """Write a line, and show the progress; the record is written with the range."""
        done, size = self._shelf.progress[id_], len(line.data)
        self._shelf.quota.add(self._shelf.batches[id_].owner, size)
        if line.is_good:
            done = replace(
                done,
                completed=done.completed + 1,
                output_size=done.output_size + size,
                tokens=done.tokens + line.tokens,
            )
        else:
            done = replace(
                done,
                failed=done.failed + 1,
                given_up=done.given_up + line.is_given_up,
                errors_size=done.errors_size + size,
            )
        self._shelf.progress[id_] = done
        await asyncio.to_thread(files[0 if line.is_good else 1].write, line.data)

    async def _answer_line(self, id_: str, line: NumberedLine) -> _Line:
        name = line.request.custom_id
        try:
            answered = await answer_patiently(
                self._answer,
                line.request.url,
                line.body,
                check=lambda: self._check_going_on(id_),
                sleep=self._sleep,
            )
        except _GivenUpError as error:
            status = error.status
            why = "was cancelled" if status is Status.CANCELLED else "expired"
            text = f"this request was not computed before the batch {why}"
            return _Line(
                data=render_error(name, f"batch_{status}", text), is_good=False, is_given_up=True
            )
        data = render_answer(name, answered.status, answered.request_id, answered.body)
        return _Line(data=data, is_good=answered.is_good, tokens=answered.tokens)

    def _check_going_on(self, id_: str) -> None:
        status = self._given_up(id_)
        if status is not None:
            raise _GivenUpError(status)

    def _given_up(self, id_: str) -> Status | None:
        """Return the status that a batch will have that is cancelled or has expired."""
        batch = self._shelf.batches[id_]
        if batch.cancelling is not None:
            return Status.CANCELLED
        return Status.EXPIRED if batch.expires <= self._shelf.now else None

    async def _finish(self, id_: str) -> None:
        batch = self._shelf.batches[id_]
        now = self._shelf.now
        status = Status.COMPLETED
        if batch.cancelling is not None:
            status = Status.CANCELLED
        elif batch.done.given_up:
            status = Status.EXPIRED
        if status is not Status.CANCELLED:
            final = replace(batch, status=Status.FINALIZING, finalizing=now)
            batch = await self._shelf.put_batch(final)
        await self._keep_results(batch, status)

    async def _fail(self, id_: str, code: str, message: str) -> None:
        """End a batch that cannot go on; what is committed is kept."""
        batch = self._shelf.batches[id_]
        fault = LineFault(code=code, message=message)
        failed = replace(batch, faults=(*batch.faults, fault))
        try:
            await self._keep_results(failed, Status.FAILED)
        except OSError as error:
            log.error("batch not ended", extra={"batch": id_, "reason": str(error)})  # noqa: TRY400 - the message is complete
            # In memory alone: the next process tries again.
            self._shelf.batches[id_] = replace(failed, status=Status.FAILED)

    async def _keep_results(self, batch: Batch, status: Status) -> None:
        """Give the files of results their records, and end the batch."""
        kept = []
        for name, size in results_of(batch):
            kept.append(name if size else None)
            path = self._shelf.path(name)
            if not size:
                await asyncio.to_thread(path.unlink, missing_ok=True)
            elif name not in self._shelf.files:
                await asyncio.to_thread(os.truncate, path, size)
                what = "output" if name == batch.output else "errors"
                await self._shelf.add_file(
                    make_file(
                        name,
                        owner=batch.owner,
                        name=f"{batch.id}_{what}.jsonl",
                        purpose=Purpose.BATCH_OUTPUT,
                        size=size,
                        now=self._shelf.now,
                        keep=batch.keep,
                    )
                )
        output, errors = kept or (None, None)
        await self._end(replace(batch, output=output, errors=errors), status)

    async def _end(self, batch: Batch, status: Status) -> Batch:
        now = self._shelf.now
        facts = {"batch": batch.id, "status": status, "completed": batch.done.completed}
        log.info("batch ended", extra={**facts, "failed": batch.done.failed})
        ended = replace(batch, status=status, ended=now, removed=now + batch.keep)
        return await self._shelf.put_batch(ended)


def _flush(files: tuple[BinaryIO, BinaryIO]) -> None:
    for file in files:
        file.flush()
        os.fsync(file.fileno())
