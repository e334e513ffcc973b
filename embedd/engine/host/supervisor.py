"""Keeps a worker alive for one model: restarts it, on another backend where that may help."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from embedd.engine.backends import LLAMA_BACKENDS, Backend
from embedd.engine.host.errors import SelfTestError, WorkerDiedError
from embedd.engine.host.fallback import REFUSALS, Fallbacks, measure_difference
from embedd.engine.host.process import WorkerProcess
from embedd.engine.ipc.messages import Load
from embedd.engine.settings import ONE_REPLICA, Tuning
from embedd.engine.spec import ModelInfo, ModelSpec
from embedd.engine.tokenizer_place import (
    LLAMA_TOKENIZER,
    TokenizerPlace,
    TokenizerVerdict,
    refuse,
)
from embedd.errors import (
    EmbeddError,
    InsufficientMemoryError,
    ModelLoadError,
    ShuttingDownError,
    WorkerUnavailableError,
)
from embedd.logs import TRACE
from embedd.metrics import ModelMetrics
from embedd.types import Vector

log = logging.getLogger(__name__)

CallLater: TypeAlias = Callable[[float, Callable[[], None]], asyncio.TimerHandle]

FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0  # seconds before a restart
MAX_DEATHS, DEATH_WINDOW = 5, 60.0  # without a computed batch between them; seconds
QUIET, LONGEST_QUIET = 60.0, 3600.0  # seconds before a model returns to its first backend
MAX_KILLS = 5  # workers ended from outside during one load, after which its callers fail


class Supervisor:
    """The worker of a model, replaced when it dies. Call `load` first.

    Args:
        start: Starts a worker process that has loaded nothing yet.
        threads: Cores to compute with, if *spec* does not say it.
        crosscheck: Compare vectors of other engines with llama.cpp's.
        load_timeout: Seconds that a load may make no progress; None is unlimited.
        backends: What the model may be computed with, in order of preference.
        sleep, now, call_later: Time in seconds; tests move it by hand.

    Attributes:
        worker: The present process; it may be dead until `revive` returns.
        fallbacks: The backends that may compute the model.
        cores: How many the worker may use now.
        tokenizer: Where the model is tokenized; None until a worker has found out.
        tokenizer_refusal: What became of the worker that tried to; None if it did.
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
        tokenizer: TokenizerPlace | None = TokenizerPlace.LLAMA,
        load_timeout: float | None = None,
        backends: Sequence[Backend] = LLAMA_BACKENDS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
        call_later: CallLater | None = None,
    ) -> None:
        self._spec = spec
        self._metrics = metrics
        self.fallbacks = Fallbacks(spec.name, backends, metrics)
        self._start = start
        self.cores = spec.threads or threads
        self._tuning = tuning
        self._crosscheck = crosscheck
        self.tokenizer = tokenizer
        self.tokenizer_refusal: TokenizerVerdict | None = None
        self._has_progress = False
        self._load_timeout = load_timeout
        self._sleep = sleep
        self._now = now
        self._call_later = call_later or asyncio.get_running_loop().call_later
        self._returning: asyncio.TimerHandle | None = None
        self._returns = 0
        self._sample: Vector | None = None  # that the first backend computed
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        self._kills = 0  # workers ended from outside since a batch was computed
        self._last_death: WorkerProcess | None = None  # taken into account already
        self._failure: EmbeddError | None = None
        self._reviving: asyncio.Task[None] | None = None
        self._restarted = 0.0  # when `_reviving` began
        self._load_seconds = 0.0  # of the last load
        self._closed = False

    @property
    def unhealthy_reason(self) -> str | None:
        """Why the model can no longer be served, or None."""
        return None if self._failure is None else str(self._failure)

    @property
    def silence(self) -> str | None:
        """Why the worker answers nothing at the moment, or None."""
        if not self.worker.is_silent:
            return None
        return f'the worker of model "{self._spec.name}" does not answer'

    @property
    def restart_seconds(self) -> float:
        """Seconds until a worker that died is replaced, as long as the last load took; or 0."""
        if self._reviving is None:
            return 0.0
        return max(0.0, self._restarted + self._load_seconds - self._now())

    async def load(self) -> None:
        """Start a worker on the first backend that can compute the model.

        Raises:
            ModelLoadError: The file cannot be used, or no backend can compute it.
            LoadTimeoutError: No progress for *load_timeout* seconds.
            InsufficientMemoryError: The system has too little memory now.
            WorkerUnavailableError: Workers were ended from outside again and again, or the
                system starts none.
        """
        reasons = []
        kills = 0
        while self.fallbacks:
            backend = self.fallbacks.current
            started = self._now()
            try:
                await self._load_on(backend)
            except WorkerDiedError as error:
                self._metrics.worker_deaths[error.reason].inc()
                if error.is_external:
                    # No fault of the backend: the same one is tried again.
                    kills += 1
                    await self._wait_after_kill(error, give_up=kills == MAX_KILLS)
                elif not self._refuse_tokenizer(error):
                    failure = (
                        InsufficientMemoryError(str(error)) if error.is_out_of_memory else error
                    )
                    self.fallbacks.replace_after_failed_load(failure)
                    reasons.append(f"{backend.name}: {error}")
            except (SelfTestError, *REFUSALS) as error:
                self.fallbacks.replace_after_failed_load(error)
                reasons.append(f"{backend.name}: {error}")
            else:
                self._load_seconds = self._now() - started
                self._report_fallback()
                self._await_quiet()
                return
        raise ModelLoadError(f'cannot load model "{self._spec.name}": ' + "; ".join(reasons))

    @property
    def info(self) -> ModelInfo:
        """Facts of the loaded model, from the backend that computes it."""
        return self.worker.info

    @property
    def is_calibrated(self) -> bool:
        """Whether the model computes with settings that were measured on this machine."""
        tuning = self._tuning_on(self.fallbacks.current)
        return tuning.measured and tuning.batch_tokens is not None

    def use_llama_tokenizer(self) -> None:
        """Let the present worker, and those that replace it, tokenize with llama.cpp."""
        self.tokenizer = TokenizerPlace.LLAMA
        self.worker.info = replace(self.worker.info, tokenizer=LLAMA_TOKENIZER.name)

    async def set_cores(self, count: int) -> None:
        """Let the worker, and those that replace it, use *count* cores."""
        self.cores = count
        await self.worker.set_cores(count)

    def mark_healthy(self) -> None:
        """A batch of a request was computed: deaths before it no longer count."""
        self.fallbacks.mark_healthy()
        self._deaths.clear()
        self._kills = 0

    async def revive(self, dead: WorkerProcess, *, counts: bool = True) -> None:
        """Replace the worker *dead*, unless it was replaced already.

        All callers share one restart. A worker that died while it computed its first batch is
        replaced by one on the next backend, see `Fallbacks`.

        Args:
            counts: Whether the death counts towards giving up; it does not during the search
                for an input that kills workers.

        Raises:
            ModelLoadError: The model cannot be loaded again, or died too often.
            LoadTimeoutError: The load makes no progress.
            InsufficientMemoryError: The system has too little memory now.
            WorkerUnavailableError: See `load`; the next call tries again.
            ShuttingDownError: `close` was called.
        """
        if self._closed:
            raise ShuttingDownError
        if self._failure is not None:
            # Another one each time: an error that is raised again collects tracebacks.
            raise type(self._failure)(str(self._failure))
        if self.worker is not dead:
            return
        if self._reviving is None:
            self._restarted = self._now()
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
        if self._returning is not None:
            self._returning.cancel()
        if self._reviving is not None:
            self._reviving.cancel()
            await asyncio.wait([self._reviving])
        if hasattr(self, "worker"):
            await self.worker.close()

    def _tuning_on(self, backend: Backend) -> Tuning:
        """Settings for *backend*: a measured batch size holds for one engine on one device."""
        preferred = self.fallbacks.preferred
        if (backend.engine, backend.gpu) == (preferred.engine, preferred.gpu):
            return self._tuning
        return replace(self._tuning, batch_tokens=None)

    def _refuse_tokenizer(self, death: WorkerDiedError) -> bool:
        """Use llama.cpp's tokenizer from now on if building the model's own was the cause.

        A worker builds that before anything else, and reports it as its first progress.
        """
        if self._has_progress or self.tokenizer in (TokenizerPlace.LLAMA, TokenizerPlace.SERVER):
            return False
        self.tokenizer = TokenizerPlace.LLAMA
        self.tokenizer_refusal = refuse(death)
        return True

    async def _load_on(self, backend: Backend) -> None:
        self._has_progress = False
        cores = self.cores
        worker = await self._start()
        try:
            await worker.load(
                Load(
                    spec=self._spec,
                    backend=backend,
                    cores=cores,
                    tuning=self._tuning_on(backend),
                    crosscheck=self._crosscheck,
                    tokenizer=self.tokenizer,
                ),
                timeout=self._load_timeout,
                report=self._take_progress,
            )
        except BaseException:
            await worker.close()
            raise
        self.worker = worker
        self.tokenizer = worker.tokenizer.place
        if self.cores != cores:  # `set_cores` was called while it loaded
            await worker.set_cores(self.cores)

    def _take_progress(self, share: float) -> None:
        self._has_progress = True
        log.log(TRACE, "model is loading", extra={"model": self._spec.name, "share": share})

    async def _replace(self, dead: WorkerProcess, *, counts: bool) -> None:
        try:
            # Only once, if the load after it failed and is tried again.
            if dead is not self._last_death:
                self._last_death = dead
                await self._prepare(dead, counts=counts)
            await self.load()
        except WorkerUnavailableError:
            raise
        except EmbeddError as error:
            self._failure = error
            raise
        finally:
            self._reviving = None
        log.warning(
            "worker restarted",
            extra={"model": self._spec.name, "backend": self.info.backend, "pid": self.worker.pid},
        )

    def _report_fallback(self) -> None:
        """Log how far the vectors of a fallback are from those of the first backend."""
        backend, sample = self.fallbacks.current, self.worker.sample
        if backend is self.fallbacks.preferred:
            self._sample = sample
        elif self._sample is not None:
            difference = measure_difference(self._sample, sample, self.info.pooling)
            log.warning(
                "model is computed by a fallback, whose vectors differ",
                extra={
                    "model": self._spec.name,
                    "backend": backend.name,
                    "first_backend": self.fallbacks.preferred.name,
                    "difference": f"{difference:.1e}",
                },
            )

    def _await_quiet(self) -> None:
        """Return to an earlier backend some time after the last death; later after each return."""
        if self._returning is not None:
            self._returning.cancel()
        if self.fallbacks.can_return:
            quiet = min(LONGEST_QUIET, QUIET * 2**self._returns)
            self._returning = self._call_later(quiet, self._begin_return)

    def _begin_return(self) -> None:
        self._returning = None
        if not self._closed and self._reviving is None and self.worker.death is None:
            self._restarted = self._now()
            self._reviving = asyncio.create_task(self._return(self.worker))
            self._reviving.add_done_callback(_retrieve)

    async def _return(self, old: WorkerProcess) -> None:
        """Replace a worker that computes with a fallback; its callers wait for the next one.

        One after the other: a model is in memory once.
        """
        self._returns += 1
        self._last_death = old
        try:
            await old.retire()
            self.fallbacks.restore()
            await self.load()
        except WorkerUnavailableError:
            raise
        except EmbeddError as error:
            self._failure = error
            raise
        finally:
            self._reviving = None
        log.info(
            "model returned to an earlier backend",
            extra={"model": self._spec.name, "backend": self.info.backend, "pid": self.worker.pid},
        )

    async def _prepare(self, dead: WorkerProcess, *, counts: bool) -> None:
        """Decide with what, and after which delay, the worker *dead* is replaced."""
        death = dead.death
        if death is not None:
            self._metrics.worker_deaths[death.reason].inc()
            if death.is_external:
                await self._wait_after_kill(death)
                return
        out_of_memory = death is not None and death.is_out_of_memory
        if out_of_memory:
            self._halve_batches()
        computing = dead.died_computing and not out_of_memory
        # Another backend starts at once, the same one after a delay.
        if not self.fallbacks.replace_after_death(computing=computing) and counts:
            await self._back_off()

    async def _wait_after_kill(self, death: WorkerDiedError, *, give_up: bool = False) -> None:
        """Wait before the next worker starts: longer each time, until a batch is computed."""
        if give_up:
            raise WorkerUnavailableError(
                f'cannot load model "{self._spec.name}" now: {death}, {MAX_KILLS} times while it '
                "loaded: try again later"
            )
        self._kills += 1
        await self._sleep(min(LONGEST_DELAY, FIRST_DELAY * 2 ** (self._kills - 1)))

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
