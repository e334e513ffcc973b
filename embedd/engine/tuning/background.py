"""Calibration of loaded models while the server is idle."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from embedd.engine.backends import Backend
from embedd.engine.settings import Tuning, choose_start
from embedd.engine.spec import ModelSpec
from embedd.engine.tuning.calibrate import Calibration
from embedd.engine.tuning.store import TuningStore
from embedd.errors import EmbeddError

log = logging.getLogger(__name__)

IDLE = 10.0  # seconds without a computing model before a calibration starts
POLL = 0.5  # seconds between checks whether a model is computing


class BackgroundCalibration:
    """Choose the settings of a load and measure better ones when the server is idle.

    The first load of a model uses safe start values; loads after its calibration use the
    measured ones. A request that arrives during a calibration, or a load, stops it; it starts
    over at the next idle time.

    Args:
        calibrate: Runs the trials; ends its worker processes when cancelled.
        cores: How many the server uses.
        is_busy: Whether any model is computing.
    """

    def __init__(
        self,
        *,
        store: TuningStore,
        calibrate: Callable[[ModelSpec, Sequence[Backend]], Awaitable[Calibration]],
        cores: int,
        is_busy: Callable[[], bool],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._calibrate = calibrate
        self._cores = cores
        self._is_busy = is_busy
        self._sleep = sleep
        self._waiting: dict[str, tuple[ModelSpec, Sequence[Backend]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._trials: asyncio.Future[Calibration] | None = None

    def choose(self, spec: ModelSpec, *, gpu: bool = False) -> Tuning:
        """Return the settings measured for the model, or safe start values."""
        known = self._store.read(spec)
        return known.best if known else choose_start(spec, self._cores, gpu=gpu)

    def consider(self, spec: ModelSpec, backends: Sequence[Backend]) -> None:
        """Calibrate the model at the next idle time, unless it has been calibrated.

        Args:
            backends: The backends to try; the model was loaded on the first.
        """
        if self._store.read(spec) is not None:
            return
        self._waiting[spec.digest] = (spec, backends)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    async def end_trials(self) -> None:
        """End the workers of a calibration that is running; it starts over when it is idle."""
        if self._trials is not None:
            self._trials.cancel()
            await asyncio.wait([self._trials])

    async def close(self) -> None:
        """Stop a calibration that is running."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _work(self) -> None:
        while self._waiting:
            digest, (spec, backends) = next(iter(self._waiting.items()))
            await self._wait_until_idle()
            if await self._try(spec, backends):
                del self._waiting[digest]

    async def _wait_until_idle(self) -> None:
        quiet = 0.0
        while quiet < IDLE:
            await self._sleep(POLL)
            quiet = 0.0 if self._is_busy() else quiet + POLL

    async def _try(self, spec: ModelSpec, backends: Sequence[Backend]) -> bool:
        """Calibrate once; return False if it was interrupted and must be tried again."""
        trials = self._trials = asyncio.ensure_future(self._calibrate(spec, backends))
        watch = asyncio.ensure_future(self._wait_until_busy())
        try:
            await asyncio.wait([trials, watch], return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.cancel()
            self._trials = None
            if not trials.done():
                trials.cancel()
                await asyncio.wait([trials])
        if trials.cancelled():
            return False
        self._keep(spec, trials)
        return True

    async def _wait_until_busy(self) -> None:
        while not self._is_busy():
            await self._sleep(POLL / 10)

    def _keep(self, spec: ModelSpec, trials: asyncio.Future[Calibration]) -> None:
        try:
            found = trials.result()
        except EmbeddError as error:
            log.warning("calibration failed", extra={"model": spec.name, "reason": str(error)})
            return
        self._store.write(spec, found)
        log.info(
            "model calibrated for its next load",
            extra={
                "model": spec.name,
                "replicas": found.best.replicas,
                "batch_tokens": found.best.batch_tokens,
                "backend": found.best.backend,
            },
        )
