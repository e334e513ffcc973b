"""A loaded image model: its worker and its queue of pictures behind one interface.

One picture is painted at a time. The library cannot stop in the middle of one: a picture that is
not wanted any more ends with its worker, and the next picture starts a new one.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from embedd.engine.host.errors import WorkerDiedError
from embedd.engine.host.image_process import ImageWorker, PaintedFile
from embedd.engine.image_protocol import PictureOrder
from embedd.engine.image_spec import ImageInfo, ImageSpec
from embedd.engine.ipc.image_messages import LoadPainter
from embedd.engine.serving.picture_queue import PaintedPicture, PictureJob, PictureQueue
from embedd.errors import (
    EmbeddError,
    EngineError,
    ModelLoadError,
    OverloadedError,
    ShuttingDownError,
    WorkerUnavailableError,
)
from embedd.images import PaintProgress, Phase, Preview
from embedd.metrics import DeathReason, ImageMetrics, ModelMetrics, Overload

log = logging.getLogger(__name__)

MAX_DEATHS = 3  # in a row, without a picture between them
# How long a worker may give no sign of life, in seconds: the largest of the three.
MIN_PATIENCE = 60.0
PATIENCE_FACTOR = 20.0  # times the longest pause of the picture before, or of this one
# For each byte of weights and pixel: about twenty times what two cores took, measured with SD1.
# Reading the prompt and the first step have no earlier pause to compare with.
SLOWEST = 1e-12


class ServedImageModel:
    """Paints for any number of requests, one picture at a time. Made by `load`.

    Args:
        start: Starts a worker process that has loaded nothing yet.
        engine: Which implementation paints, see `LoadPainter`.
        threads: Cores to compute with, if *spec* does not say it.
        max_waiting: Most pictures that may wait.
        load_timeout: Seconds that a load may make no progress; None is unlimited.
        min_patience: Seconds that a worker may always take without a sign of life.

    Attributes:
        unhealthy_reason: Why the model can no longer be served, or None.
    """

    waiting_tokens = 0
    is_calibrated = False

    def __init__(
        self,
        spec: ImageSpec,
        *,
        start: Callable[[], Awaitable[ImageWorker]],
        engine: str,
        threads: int,
        model_metrics: ModelMetrics,
        metrics: ImageMetrics,
        max_waiting: int,
        load_timeout: float | None = None,
        min_patience: float = MIN_PATIENCE,
    ) -> None:
        self.unhealthy_reason: str | None = None
        self._spec = spec
        self._start = start
        self._load = LoadPainter(spec=spec, engine=engine, threads=spec.threads or threads)
        self._model_metrics = model_metrics
        self._metrics = metrics
        self._load_timeout = load_timeout
        self._min_patience = min_patience
        self._longest_pause = 0.0
        self._queue = PictureQueue(max_waiting)
        self._worker: ImageWorker | None = None
        self._info: ImageInfo
        self._deaths = 0
        self._running: asyncio.Task[None] | None = None
        self._closed = False

    async def load(self) -> None:
        """Start a worker and load the model.

        Raises:
            ModelLoadError: It cannot be loaded (`InsufficientMemoryError`: not now).
            LoadTimeoutError: No progress for *load_timeout* seconds.
        """
        await self._open_worker()

    @property
    def info(self) -> ImageInfo:
        """Facts of the loaded model."""
        return self._info

    @property
    def pid(self) -> int | None:
        """Process id of the present worker; None while there is none."""
        worker = self._worker
        if worker is None or worker.was_killed or worker.death is not None:
            return None
        return worker.pid

    @property
    def silence(self) -> str | None:
        """Why it answers nothing at the moment, or None."""
        if self._worker is None or not self._worker.is_silent:
            return None
        return f'the worker of model "{self._spec.name}" does not answer'

    @property
    def waiting_requests(self) -> int:
        """Pictures that wait."""
        return len(self._queue)

    @property
    def cores(self) -> int:
        """Cores that it computes with."""
        return self._load.threads

    async def paint(
        self, orders: Sequence[PictureOrder], notify: Callable[[PaintProgress], None]
    ) -> list[PaintedPicture]:
        """Paint the pictures of one request, in order.

        A task that is cancelled here counts as a client that left: pictures that wait are
        dropped, and the worker ends unless its picture is nearly done.

        Args:
            notify: Called with the events of all pictures.

        Raises:
            OverloadedError: Too many pictures wait.
            EngineError: A picture failed, with the worker or without.
            ModelLoadError: The model cannot be loaded again.
            ShuttingDownError: `close` was called.
        """
        if self._closed:
            raise ShuttingDownError
        try:
            jobs = self._queue.admit(orders, notify)
        except OverloadedError:
            self._model_metrics.overloads[Overload.PICTURES].inc()
            raise
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        try:
            return [await job.done for job in jobs]
        except asyncio.CancelledError:
            self._metrics.cancelled.inc(sum(not _is_painted(job) for job in jobs))
            raise
        finally:
            self._drop(jobs)

    async def close(self) -> None:
        """End the worker; pictures that wait fail with `ShuttingDownError`."""
        self._closed = True
        self._fail_waiting(ShuttingDownError())
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        if self._worker is not None:
            self._worker.kill()
            await self._worker.close()

    def _drop(self, jobs: Sequence[PictureJob]) -> None:
        """Forget what is left of a request, whose client left or one of whose pictures failed."""
        self._queue.remove(jobs)
        for job in jobs:
            if not job.done.cancel() and not job.done.cancelled():
                job.done.exception()  # marked as seen: the request fails with the first one
        running = self._queue.running
        if running is not None and running.done.cancelled() and not running.is_nearly_done:
            self._stop_painting(running)

    def _stop_painting(self, job: PictureJob) -> None:
        # While a worker is loading, the load goes on: the next picture needs it.
        if self._worker is not None and job.phase is Phase.SAMPLING:
            log.info("picture cancelled", extra={"model": self._spec.name, "step": job.step})
            self._worker.kill()

    async def _run(self) -> None:
        """Paint all pictures that wait."""
        try:
            while (job := self._queue.take()) is not None:
                await self._answer(job)
        finally:
            self._running = None

    async def _answer(self, job: PictureJob) -> None:
        try:
            worker = await self._find_worker(job)
            if job.done.done():
                return
            file = await self._paint(worker, job)
        except asyncio.CancelledError:
            job.fail(ShuttingDownError())
            raise
        except WorkerDiedError as error:
            self._count_death(job, error)
        except EmbeddError as error:
            job.fail(error)
        except Exception:
            log.exception("picture failed", extra={"model": self._spec.name})
            job.fail(EngineError("internal error"))
        else:
            self._deaths = 0
            self._metrics.painted(
                steps=job.order.steps, seconds=file.sample_seconds + file.decode_seconds
            )
            picture = self._queue.finish(job, file)
            if not job.done.done():
                job.done.set_result(picture)
        if self.unhealthy_reason is not None:
            self._fail_waiting(ModelLoadError(self.unhealthy_reason))

    async def _open_worker(self) -> ImageWorker:
        worker = await self._start()
        try:
            self._info = await worker.load(self._load, timeout=self._load_timeout)
        except WorkerDiedError as error:
            self._model_metrics.worker_deaths[error.reason].inc()
            kind = WorkerUnavailableError if error.is_external else ModelLoadError
            raise kind(f'cannot load model "{self._spec.name}": {error}') from error
        except BaseException:
            worker.kill()
            await worker.close()
            raise
        self._worker = worker
        return worker

    async def _find_worker(self, job: PictureJob) -> ImageWorker:
        """Return the worker; if it has ended, a new one with the model loaded.

        Raises:
            EmbeddError: The model cannot be loaded again.
        """
        dead = self._worker
        if dead is not None and dead.death is None:
            return dead
        if dead is not None and dead.death is not None and not dead.was_killed:
            self._model_metrics.worker_deaths[dead.death.reason].inc()
        job.report(Phase.LOADING)
        try:
            worker = await self._open_worker()
        except WorkerUnavailableError:
            raise
        except EmbeddError as error:
            self.unhealthy_reason = str(error)
            raise
        self._queue.mark_loaded(job)
        log.info("worker restarted", extra={"model": self._spec.name, "pid": worker.pid})
        return worker

    async def _paint(self, worker: ImageWorker, job: PictureJob) -> PaintedFile:
        """Paint, and end the worker if it gives no sign of life for too long."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        pause = 0.0
        try:
            async with asyncio.timeout(self._patience(job)) as deadline:

                def take_step(phase: Phase, step: int, preview: Preview | None) -> None:
                    nonlocal last, pause
                    pause, last = max(pause, loop.time() - last), loop.time()
                    self._longest_pause = max(self._longest_pause, pause)
                    if not deadline.expired():
                        deadline.reschedule(last + self._patience(job))
                    job.report(phase, step, preview=preview)

                job.report(Phase.SAMPLING)
                return await worker.paint(job.order, take_step)
        except TimeoutError:
            worker.kill()
            await worker.close()
            self._model_metrics.worker_deaths[DeathReason.STUCK].inc()
            raise WorkerDiedError(
                f"it made no progress for {loop.time() - last:.0f} seconds and was ended",
                DeathReason.STUCK,
            ) from None
        finally:
            self._longest_pause = pause

    def _patience(self, job: PictureJob) -> float:
        """Return the seconds without a sign of life after which the worker is ended."""
        order = job.order
        work = self._spec.weights * order.painted_width * order.painted_height
        return max(self._min_patience, PATIENCE_FACTOR * self._longest_pause, SLOWEST * work)

    def _count_death(self, job: PictureJob, error: WorkerDiedError) -> None:
        """Fail the picture that a worker died with, unless that was the way to stop it."""
        if job.done.done():
            return
        job.fail(EngineError(f"the image engine died while it painted: {error}"))
        self._deaths += not error.is_external
        if self._deaths >= MAX_DEATHS:
            self.unhealthy_reason = (
                f'the worker of model "{self._spec.name}" died {MAX_DEATHS} times without '
                f"painting a picture: {error}"
            )

    def _fail_waiting(self, error: EmbeddError) -> None:
        for job in self._queue.remove_all():
            job.fail(error)


def _is_painted(job: PictureJob) -> bool:
    return job.done.done() and not job.done.cancelled() and job.done.exception() is None
