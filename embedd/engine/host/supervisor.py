"""Keeps a worker alive for one model: fallbacks to other backends, restarts, giving up."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from embedd.engine.backends import LLAMA_BACKENDS, Backend
from embedd.engine.host.errors import SelfTestError, WorkerDiedError
from embedd.engine.host.process import WorkerProcess
from embedd.engine.ipc.messages import Load
from embedd.engine.settings import ONE_REPLICA, Tuning
from embedd.engine.spec import ModelInfo, ModelSpec
from embedd.errors import EmbeddError, InsufficientMemoryError, ModelLoadError, ShuttingDownError
from embedd.metrics import ModelMetrics

log = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0  # seconds before a restart
# What a worker answers when it cannot load the model: never, or not now.
REFUSALS = (ModelLoadError, InsufficientMemoryError)
MAX_DEATHS, DEATH_WINDOW = 5, 60.0  # without a computed batch between them; seconds


class Supervisor:
    """The worker of a model, replaced when it dies. Call `load` first.

    Args:
        start: Starts a worker process that has loaded nothing yet.
        threads: Cores to compute with, if *spec* does not say it.
        crosscheck: Compare vectors of other engines with llama.cpp's.
        load_timeout: Seconds that a load may make no progress; None is unlimited.
        backends: What the model may be computed with, in order of preference.
        sleep, now: Time in seconds; tests move it by hand.

    Attributes:
        worker: The present process; it may be dead until `revive` returns.
        unhealthy_reason: Why the model can no longer be served, or None.
        refusals: Engine → why it cannot compute this model.
        cores: How many the worker may use now.
    """

    worker: WorkerProcess

    def __init__(
        self,
        spec: ModelSpec,
        *,
        start: Callable[[], Awaitable[WorkerProcess]],
        metrics: ModelMetrics,
        threads: int,
        tuning: Tuning = ONE_REPLICA,
        crosscheck: bool = False,
        load_timeout: float | None = None,
        backends: Sequence[Backend] = LLAMA_BACKENDS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._metrics = metrics
        self._start = start
        self.cores = spec.threads or threads
        self._tuning = tuning
        self._crosscheck = crosscheck
        self._load_timeout = load_timeout
        self._backends = list(backends)
        self._first = self._backends[0]
        self._sleep = sleep
        self._now = now
        # False until a batch of a request was computed, or one fallback was made without
        # it: an input that kills workers must not cost more than one backend.
        self._healthy = False
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        self._reviving: asyncio.Task[None] | None = None
        self._closed = False
        self.unhealthy_reason: str | None = None
        self.refusals: dict[str, str] = {}

    async def load(self) -> None:
        """Start a worker on the first backend that can compute the model.

        Raises:
            ModelLoadError: The file cannot be used, or no backend can compute it.
            LoadTimeoutError: No progress for *load_timeout* seconds.
        """
        reasons = []
        while self._backends:
            backend = self._backends[0]
            try:
                await self._load_on(backend)
            except (WorkerDiedError, SelfTestError, *REFUSALS) as error:
                if isinstance(error, WorkerDiedError):
                    self._metrics.worker_deaths[error.reason].inc()
                if isinstance(error, REFUSALS) and not self._may_fall_back(backend, error):
                    raise
                log.warning(
                    "backend cannot compute model",
                    extra={"model": self._spec.name, "backend": backend.name, "reason": str(error)},
                )
                reasons.append(f"{backend.name}: {error}")
                self._drop_backend()
            else:
                return
        raise ModelLoadError(f'cannot load model "{self._spec.name}": ' + "; ".join(reasons))

    @property
    def info(self) -> ModelInfo:
        """Facts of the loaded model, from the backend that computes it."""
        return self.worker.info

    @property
    def is_calibrated(self) -> bool:
        """Whether the model computes with settings that were measured on this machine."""
        tuning = self._tuning_on(self._backends[0])
        return tuning.measured and tuning.batch_tokens is not None

    async def set_cores(self, count: int) -> None:
        """Let the worker, and those that replace it, use *count* cores."""
        self.cores = count
        await self.worker.set_cores(count)

    def mark_healthy(self) -> None:
        """A batch of a request was computed: deaths before it no longer count."""
        self._healthy = True
        self._deaths.clear()

    async def revive(self, dead: WorkerProcess, *, counts: bool = True) -> None:
        """Replace the worker *dead*, unless it was replaced already.

        All callers share one restart. A worker that died while it computed its first batch is
        replaced by one on the next backend; so is one that died while it computed any batch on
        another engine than llama.cpp.

        Args:
            counts: Whether the death counts towards giving up; it does not during the search
                for an input that kills workers.

        Raises:
            ModelLoadError: The model cannot be loaded again, or died too often.
            LoadTimeoutError: The load makes no progress.
            ShuttingDownError: `close` was called.
        """
        if self._closed:
            raise ShuttingDownError
        if self.unhealthy_reason is not None:
            raise ModelLoadError(self.unhealthy_reason)
        if self.worker is not dead:
            return
        if self._reviving is None:
            self._reviving = asyncio.create_task(self._replace(dead, counts=counts))
            self._reviving.add_done_callback(_retrieve)
        reviving = self._reviving
        # Not awaited itself: a caller that is cancelled must not stop it for the others.
        await asyncio.wait([reviving])
        if reviving.cancelled():
            raise ShuttingDownError
        reviving.result()

    async def close(self) -> None:
        """End the worker, or the attempt to get one."""
        self._closed = True
        if self._reviving is not None:
            self._reviving.cancel()
            await asyncio.wait([self._reviving])
        if hasattr(self, "worker"):
            await self.worker.close()

    def _tuning_on(self, backend: Backend) -> Tuning:
        """Settings for *backend*: a measured batch size holds for one engine on one device."""
        if (backend.engine, backend.gpu) == (self._first.engine, self._first.gpu):
            return self._tuning
        return replace(self._tuning, batch_tokens=None)

    def _may_fall_back(self, backend: Backend, error: EmbeddError) -> bool:
        """Whether another engine may load a model that *backend* refuses."""
        if not backend.has_fallback or len(self._backends) == 1:
            return False
        if not backend.is_reference and not isinstance(error, InsufficientMemoryError):
            self.refusals[backend.engine] = str(error)
        return True

    async def _load_on(self, backend: Backend) -> None:
        worker = await self._start()
        try:
            await worker.load(
                Load(
                    spec=self._spec,
                    backend=backend,
                    cores=self._spec.threads or self.cores,
                    tuning=self._tuning_on(backend),
                    crosscheck=self._crosscheck,
                ),
                timeout=self._load_timeout,
            )
        except BaseException:
            await worker.close()
            raise
        self.worker = worker

    async def _replace(self, dead: WorkerProcess, *, counts: bool) -> None:
        death = dead.death
        if death is not None:
            self._metrics.worker_deaths[death.reason].inc()
        try:
            out_of_memory = death is not None and death.is_out_of_memory
            if out_of_memory:
                self._halve_batches()
            backend_at_fault = (
                dead.died_computing
                and not out_of_memory
                and (not self._healthy or self._backends[0].has_fallback)
            )
            if backend_at_fault and len(self._backends) > 1:
                self._drop_backend()
                self._healthy = True
            elif counts:
                await self._back_off()
            await self.load()
        except EmbeddError as error:
            self.unhealthy_reason = str(error)
            raise
        finally:
            self._reviving = None
        log.warning(
            "worker restarted",
            extra={"model": self._spec.name, "backend": self.info.backend, "pid": self.worker.pid},
        )

    def _drop_backend(self) -> None:
        self._metrics.backend_failed(self._backends.pop(0).name)

    def _halve_batches(self) -> None:
        """Let the next worker compute batches of half as many tokens."""
        tokens = max(1, self.info.max_batch_tokens // 2)
        self._tuning = replace(self._tuning, batch_tokens=tokens)
        log.warning(
            "out of memory: batches become smaller",
            extra={"model": self._spec.name, "batch_tokens": tokens},
        )

    async def _back_off(self) -> None:
        self._deaths.append(self._now())
        if len(self._deaths) == MAX_DEATHS and self._deaths[-1] - self._deaths[0] < DEATH_WINDOW:
            raise ModelLoadError(
                f'the worker of model "{self._spec.name}" died {MAX_DEATHS} times '
                "without computing a batch"
            )
        await self._sleep(min(LONGEST_DELAY, FIRST_DELAY * 2 ** (len(self._deaths) - 1)))


def _retrieve(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # every caller may have left: then asyncio would log it
