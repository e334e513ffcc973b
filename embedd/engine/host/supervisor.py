"""Keeps one worker alive for one model: the backends of backends, restarts, giving up."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Protocol

from embedd.engine.backends import LLAMA_BACKENDS, Backend
from embedd.engine.host.exit_status import Death
from embedd.engine.host.load_wait import SelfTestError
from embedd.engine.host.process import Encoded, WorkerDiedError
from embedd.engine.spec import ModelInfo, ModelSpec
from embedd.engine.tuning.settings import ONE_REPLICA, Tuning
from embedd.errors import EmbeddError, InsufficientMemoryError, ModelLoadError, ShuttingDownError
from embedd.metrics import ModelMetrics
from embedd.types import Pooling, TokenIds, TokenPiece

log = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0  # seconds before a restart
# What a worker answers when it cannot load the model: never, or not now.
REFUSALS = (ModelLoadError, InsufficientMemoryError)
MAX_DEATHS, DEATH_WINDOW = 5, 60.0  # without a computed batch between them; seconds


class Worker(Protocol):
    """What is supervised; `WorkerProcess` is one."""

    @property
    def pid(self) -> int:
        """Process id."""
        ...

    @property
    def death(self) -> Death | None:
        """How it ended, or None."""
        ...

    @property
    def died_computing(self) -> bool:
        """It is dead, and a batch had begun: that batch is suspect."""
        ...

    async def load(
        self,
        spec: ModelSpec,
        *,
        backend: Backend,
        threads: int,
        tuning: Tuning = ...,
        tolerance: float | None = ...,
        patience: float | None = None,
        report: Callable[[float], None] = ...,
    ) -> ModelInfo:
        """See `WorkerProcess.load`."""
        ...

    async def tokenize(
        self, texts: Sequence[str], *, add_special: bool = ..., parse_special: bool = ...
    ) -> list[TokenIds]:
        """See `WorkerProcess.tokenize`."""
        ...

    async def detokenize(self, sequences: Sequence[TokenIds], *, special: bool) -> list[bytes]:
        """See `WorkerProcess.detokenize`."""
        ...

    async def token_pieces(self, ids: TokenIds) -> list[TokenPiece]:
        """See `WorkerProcess.token_pieces`."""
        ...

    async def encode(
        self,
        sequences: Sequence[TokenIds],
        pooling: Pooling | None,
        *,
        urgent: bool = ...,
        alone: bool = ...,
    ) -> Encoded:
        """See `WorkerProcess.encode`."""
        ...

    async def set_cores(self, count: int) -> None:
        """See `WorkerProcess.set_cores`."""
        ...

    async def close(self) -> None:
        """See `WorkerProcess.close`."""
        ...


class Supervisor:
    """A model's worker, replaced when it dies. `load` first.

    Args:
        start: Makes a process, nothing loaded yet.
        sleep, now: Time in seconds; tests move it by hand.

    Attributes:
        worker: The present process; it may be dead until `revive` returns.
        info: Facts of the loaded model, from the backend that it runs on.
        unhealthy_reason: Why no worker can be started any more, or None.
        refusals: Engine → why it cannot compute this model.
        cores: How many it may use now.
    """

    worker: Worker
    info: ModelInfo

    def __init__(
        self,
        spec: ModelSpec,
        *,
        start: Callable[[], Awaitable[Worker]],
        metrics: ModelMetrics,
        threads: int,
        tuning: Tuning = ONE_REPLICA,
        tolerance: float | None = None,
        load_timeout: float | None = None,
        report: Callable[[float], None] = lambda _share: None,
        backends: Sequence[Backend] = LLAMA_BACKENDS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._metrics = metrics
        self._start = start
        self._threads = threads
        self.cores = spec.threads or threads
        self._tuning = tuning
        self._tolerance = tolerance
        self._load_timeout = load_timeout
        self._report = report
        self._backends = list(backends)
        self._first = self._backends[0]
        self._sleep = sleep
        self._now = now
        # False until a batch of a request was computed, or one step down was made for
        # want of it: a killing input must not cost more than one backend.
        self._proven = False
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        self._reviving: asyncio.Task[None] | None = None
        self._closed = False
        self.unhealthy_reason: str | None = None
        self.refusals: dict[str, str] = {}

    async def load(self) -> None:
        """Start a worker on the first backend that computes.

        Raises:
            ModelLoadError: The file is at fault, or no backend computes: the reasons of all.
            LoadTimeoutError: No progress for the time allowed.
        """
        reasons = []
        while self._backends:
            backend = self._backends[0]
            try:
                await self._load_on(backend)
            except (WorkerDiedError, SelfTestError, *REFUSALS) as error:
                if isinstance(error, WorkerDiedError):
                    self._metrics.worker_deaths[error.death.reason].inc()
                if isinstance(error, REFUSALS) and not self._may_step_down(backend, error):
                    raise
                log.warning(
                    "model fails on this backend",
                    extra={"model": self._spec.name, "backend": backend.name, "reason": str(error)},
                )
                reasons.append(f"{backend.name}: {error}")
                self._step_down()
            else:
                return
        raise ModelLoadError(f'cannot load model "{self._spec.name}": ' + "; ".join(reasons))

    @property
    def is_calibrated(self) -> bool:
        """Whether the model computes with what was measured on this machine."""
        tuning = self._tuning_on(self._backends[0])
        return tuning.measured and tuning.batch_tokens is not None

    async def set_cores(self, count: int) -> None:
        """Let the worker, and those that replace it, use so many cores."""
        self.cores = self._threads = count
        await self.worker.set_cores(count)

    def prove(self) -> None:
        """A batch of a request was computed: deaths before it are forgiven."""
        self._proven = True
        self._deaths.clear()

    async def revive(self, dead: Worker, *, counts: bool = True) -> None:
        """Replace *dead*, unless somebody did; all who wait share one restart.

        A worker that died of its first batch is replaced by one on the next backend; so is one
        that died of any batch on another engine than llama.cpp.

        Args:
            counts: Whether the death counts towards giving up; it does not while a
                killing input is searched for.

        Raises:
            ModelLoadError: The model cannot be loaded again, or died too often.
            LoadTimeoutError: It makes no progress.
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
        """What was measured on one engine, or a GPU, says nothing of another's batches."""
        if (backend.engine, backend.gpu) == (self._first.engine, self._first.gpu):
            return self._tuning
        return replace(self._tuning, batch_tokens=None)

    def _may_step_down(self, backend: Backend, error: EmbeddError) -> bool:
        """Whether a model that *backend* refuses may be loaded by another engine."""
        if not backend.has_fallback or len(self._backends) == 1:
            return False
        if not backend.is_reference and not isinstance(error, InsufficientMemoryError):
            self.refusals[backend.engine] = str(error)
        return True

    async def _load_on(self, backend: Backend) -> None:
        worker = await self._start()
        try:
            self.info = await worker.load(
                self._spec,
                backend=backend,
                threads=self._threads,
                tuning=self._tuning_on(backend),
                tolerance=None if backend.is_reference else self._tolerance,
                patience=self._load_timeout,
                report=self._report,
            )
        except BaseException:
            await worker.close()
            raise
        self.worker = worker

    async def _replace(self, dead: Worker, *, counts: bool) -> None:
        death = dead.death
        if death is not None:
            self._metrics.worker_deaths[death.reason].inc()
        try:
            full = death is not None and death.of_memory
            if full:
                self._compute_less()
            suspect = not full and (not self._proven or self._backends[0].has_fallback)
            if dead.died_computing and suspect and len(self._backends) > 1:
                self._step_down()
                self._proven = True
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

    def _step_down(self) -> None:
        self._metrics.backend_failed(self._backends.pop(0).name)

    def _compute_less(self) -> None:
        """Memory ran out: what is computed at once becomes half as much."""
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
        task.exception()  # whoever waited has it; perhaps nobody does any more
