"""Gives the parts of a job to workers, and those of a lost worker to others again."""

import asyncio
import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from embedd.bulk.compute import MixedBackendsError
from embedd.bulk.job import Model
from embedd.bulk.runner import UNITS_IN_WORK
from embedd.bulk.unit import choose_error
from embedd.errors import ServiceError
from embedd.ray.protocol import LostWorkerError, Worker
from embedd.ray.worker import Opened, Outcome

SPARE: Final = 4  # workers that wait for a node: an autoscaler sees that more would be used
MOST_FAILED_STARTS: Final = 5  # of workers, one after the other
MOST_LOSSES: Final = 5  # of workers with the same part in work: it may be what ends them


class Dispatcher:
    """Runs a job on workers.

    Args:
        start: Returns a new worker.
        room: How many workers the nodes that are there have room for.
        mixed: Whether vectors may be of several backends.
    """

    def __init__(self, start: Callable[[], Worker], *, room: int, mixed: bool = False) -> None:
        self._start = start
        self._room = room
        self._mixed = mixed
        self._opened: Opened | None = None
        self._first: Worker | None = None

    async def open(self) -> tuple[Model, str]:
        """Open a worker; return what decides the vectors, and what computes them.

        Raises:
            ServiceError: It cannot compute what is wanted.
        """
        failed = 0
        while self._first is None:
            worker = self._start()
            try:
                opened = await self._open(worker)
            except LostWorkerError as error:
                worker.end()
                failed = count_failed(failed, error)
            except BaseException:
                worker.end()
                raise
            else:
                self._first, self._opened = worker, opened
        if self._opened is None or self._opened.model is None:
            raise ServiceError("the first worker does not say what its vectors depend on")
        return self._opened.model, self._opened.served_by

    def close(self) -> None:
        """End the worker that was opened."""
        if self._first is not None:
            self._first.end()

    async def run(
        self,
        parts: Sequence[int],
        fingerprint: str,
        report: Callable[[Outcome], None],
        stop: asyncio.Event,
    ) -> None:
        """Do *parts*; once *stop* is set those in work are finished and no others begun.

        Args:
            report: Called with each part that is done.

        Raises:
            ServiceError: A part failed as a whole, or no worker can be started.
        """
        crew = _Crew(parts, fingerprint, report, stop)
        wanted = -(-len(parts) // UNITS_IN_WORK)
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(min(wanted, self._room + SPARE)):
                    first = self._first if number == 0 else None
                    group.create_task(self._attend(crew, group, first))
                await crew.wait()
                for task in crew.opening:
                    task.cancel()
        except BaseExceptionGroup as errors:
            raise choose_error(errors) from errors

    async def _attend(self, crew: "_Crew", group: asyncio.TaskGroup, worker: Worker | None) -> None:
        """Keep a worker at work as long as there are parts; replace it when it is lost."""
        failed = 0
        while not crew.is_done:
            present, worker = worker, None
            try:
                if present is None:
                    present = self._start()
                    try:
                        await self._open_for(crew, group, present)
                    except LostWorkerError as error:
                        failed = count_failed(failed, error)
                        continue
                failed = 0
                await crew.work(present)
            except LostWorkerError:
                continue
            finally:
                if present is not None:
                    present.end()

    async def _open_for(self, crew: "_Crew", group: asyncio.TaskGroup, worker: Worker) -> None:
        """Open *worker*; once that is ready, another one may wait in its place."""
        opening = asyncio.ensure_future(self._open(worker))
        crew.opening.add(opening)
        try:
            await opening
        finally:
            crew.opening.discard(opening)
        if crew.left and len(crew.opening) < SPARE:
            group.create_task(self._attend(crew, group, None))

    async def _open(self, worker: Worker) -> Opened:
        opened = await worker.open()
        self._check(opened)
        return opened

    def _check(self, opened: Opened) -> None:
        """Raise an error if a worker cannot compute, or other vectors than the first one."""
        if opened.fault:
            raise ServiceError(f"{opened.host}: {opened.fault}")
        first = self._opened or opened
        if opened.model != first.model:
            raise ServiceError(
                f"{opened.host} and {first.host} have different models of this name ("
                f"{opened.model}, {first.model}): pull the same one on all nodes"
            )
        if opened.served_by != first.served_by and not self._mixed:
            raise MixedBackendsError(first.served_by, opened.served_by)


def count_failed(failed: int, error: LostWorkerError) -> int:
    """Return how many workers have ended one after the other while they started.

    Raises:
        ServiceError: They are too many.
    """
    if failed + 1 == MOST_FAILED_STARTS:
        raise ServiceError(
            f"{MOST_FAILED_STARTS} workers ended while they started, the last one: {error}"
        ) from error
    return failed + 1


class _Crew:
    """The parts that are left and in work, of one run.

    Attributes:
        left: A heap: the lowest number comes first, also of those that were given back.
        opening: Workers that are not ready.
    """

    def __init__(
        self,
        parts: Sequence[int],
        fingerprint: str,
        report: Callable[[Outcome], None],
        stop: asyncio.Event,
    ) -> None:
        self.left = sorted(parts)
        self.opening: set[asyncio.Task[Opened]] = set()
        self._fingerprint = fingerprint
        self._report = report
        self._stop = stop
        self._in_work = 0
        self._losses: Counter[int] = Counter()
        self._changed = asyncio.Event()

    @property
    def is_done(self) -> bool:
        """Whether no part is in work, and none will be."""
        return not self._in_work and (not self.left or self._stop.is_set())

    async def wait(self) -> None:
        """Return once it is done."""
        stopping = asyncio.ensure_future(self._stop.wait())
        stopping.add_done_callback(lambda _: self._changed.set())
        try:
            while not self.is_done:
                self._changed.clear()
                await self._changed.wait()
        finally:
            stopping.cancel()

    async def work(self, worker: Worker) -> None:
        """Give parts to *worker*, some at a time, until none are left.

        Raises:
            LostWorkerError: It has ended; its parts are left again.
        """
        try:
            async with asyncio.TaskGroup() as lanes:
                for _ in range(UNITS_IN_WORK):
                    lanes.create_task(self._work(worker))
        except BaseExceptionGroup as errors:
            raise choose_error(errors) from errors

    async def _work(self, worker: Worker) -> None:
        while (part := await self._take()) is not None:
            try:
                outcome = await worker.run(part, self._fingerprint)
            except BaseException as error:
                heapq.heappush(self.left, part)
                self._put_down()
                if isinstance(error, LostWorkerError):
                    self._count_loss(part, error)
                raise
            if outcome.fault:
                raise ServiceError(f"part {part}, on {outcome.host}: {outcome.fault}")
            self._report(outcome)
            self._put_down()

    async def _take(self) -> int | None:
        """The next part; it waits while those of others may come back."""
        while not self.is_done and not self._stop.is_set():
            if self.left:
                self._in_work += 1
                return heapq.heappop(self.left)
            self._changed.clear()
            await self._changed.wait()
        return None

    def _put_down(self) -> None:
        self._in_work -= 1
        self._changed.set()

    def _count_loss(self, part: int, error: LostWorkerError) -> None:
        self._losses[part] += 1
        if self._losses[part] >= MOST_LOSSES:
            raise ServiceError(
                f"{MOST_LOSSES} workers ended with part {part} in work, the last one: {error}"
            ) from error
