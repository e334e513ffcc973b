"""The queue of pictures of one model: first come, first served, bounded, with positions."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from embedd.engine.host.image_process import PaintedFile
from embedd.engine.image_protocol import PictureOrder
from embedd.errors import EmbeddError, OverloadedError
from embedd.images import PaintProgress, PaintTimings, Phase, Preview

FIRST_GUESS = 10.0  # seconds of a picture, until one was painted


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintedPicture:
    """A picture as a file, and where its time went."""

    data: bytes
    timings: PaintTimings


@dataclass(slots=True, eq=False, kw_only=True)
class PictureJob:
    """A picture of a request on its way through the queue.

    Args:
        index: 0-based number in its request.
        notify: Called with every event; never after `done`.
        done: Gets the picture or an error; cancelled when the client left.

    Attributes:
        phase, step: The last event.
        started: When it was taken from the queue; 0.0 while it waits.
        loaded: When a worker was ready to paint it.
    """

    order: PictureOrder
    index: int
    notify: Callable[[PaintProgress], None]
    done: asyncio.Future[PaintedPicture]
    admitted: float
    phase: Phase = Phase.QUEUED
    step: int = 0
    started: float = 0.0
    loaded: float = 0.0

    @property
    def is_nearly_done(self) -> bool:
        """Whether at most one step is left: then a new worker would take longer."""
        return self.phase is Phase.DECODING or (
            self.phase is Phase.SAMPLING and self.order.steps - self.step <= 1
        )

    def report(
        self, phase: Phase, step: int = 0, *, position: int = 0, preview: Preview | None = None
    ) -> None:
        """Send an event, unless it is a mere sign of life or the client left."""
        is_new = (phase, step) != (self.phase, self.step)
        self.phase, self.step = phase, step
        if self.done.done() or not (is_new or phase is Phase.QUEUED or preview is not None):
            return
        self.notify(
            PaintProgress(
                index=self.index,
                phase=phase,
                step=step,
                steps=self.order.steps,
                position=position,
                preview=preview,
            )
        )

    def fail(self, error: EmbeddError) -> None:
        """Fail the picture, unless its client left."""
        if not self.done.done():
            self.done.set_exception(error)


class PictureQueue:
    """Pictures that wait, and the one that is painted.

    Args:
        limit: Most pictures that may wait; a model without any takes a request of any size.
        now: Time in seconds.
    """

    def __init__(self, limit: int, now: Callable[[], float] = time.perf_counter) -> None:
        self._limit = limit
        self._now = now
        self._waiting: deque[PictureJob] = deque()
        self._running: PictureJob | None = None
        self._last_seconds = FIRST_GUESS

    def __len__(self) -> int:
        """How many pictures wait."""
        return len(self._waiting)

    @property
    def running(self) -> PictureJob | None:
        """The picture that is painted now."""
        return self._running

    def admit(
        self, orders: Sequence[PictureOrder], notify: Callable[[PaintProgress], None]
    ) -> list[PictureJob]:
        """Add all pictures of a request, or none of them.

        Raises:
            OverloadedError: Too many would wait.
        """
        before = len(self._waiting) + (self._running is not None)
        # One of them is painted, or about to be.
        if before and before - 1 + len(orders) > self._limit:
            raise OverloadedError(
                f"{before - 1} pictures already wait for this model, the limit is {self._limit}: "
                "retry later, or raise EMBEDD_MAX_WAITING_IMAGES",
                retry_after=math.ceil(before * self._last_seconds),
            )
        loop, now = asyncio.get_running_loop(), self._now()
        jobs = [
            PictureJob(
                order=order, index=index, notify=notify, done=loop.create_future(), admitted=now
            )
            for index, order in enumerate(orders)
        ]
        self._waiting += jobs
        if before:
            self._report_positions(jobs)
        return jobs

    def take(self) -> PictureJob | None:
        """Remove and return the first picture, which is painted now; None if none waits."""
        self._running = None
        if self._waiting:
            self._running = job = self._waiting.popleft()
            job.started = job.loaded = self._now()
            self._report_positions(self._waiting)
        return self._running

    def remove(self, jobs: Sequence[PictureJob]) -> None:
        """Remove those of *jobs* that wait."""
        removed = set(map(id, jobs))
        self._waiting = deque(job for job in self._waiting if id(job) not in removed)
        self._report_positions(self._waiting)

    def remove_all(self) -> list[PictureJob]:
        """Remove and return all pictures that wait."""
        jobs = list(self._waiting)
        self._waiting.clear()
        return jobs

    def mark_loaded(self, job: PictureJob) -> None:
        """A worker is ready to paint *job*."""
        job.loaded = self._now()

    def finish(self, job: PictureJob, file: PaintedFile) -> PaintedPicture:
        """Return the picture of the running *job* with its timings."""
        now = self._now()
        self._last_seconds = now - job.started
        return PaintedPicture(
            data=file.data,
            timings=PaintTimings(
                load=job.loaded - job.started,
                queue=job.started - job.admitted,
                sample=file.sample_seconds,
                decode=file.decode_seconds,
                total=now - job.admitted,
            ),
        )

    def _report_positions(self, jobs: Sequence[PictureJob]) -> None:
        before = 1 if self._running is not None else 0
        places = {id(job): place for place, job in enumerate(self._waiting, start=before)}
        for job in jobs:
            job.report(Phase.QUEUED, position=places[id(job)])
