"""Calibration: the measured choice of backend, replicas and batch size on this machine.

Every setting is tried on workers of its own, one for each number of replicas: the model that
serves requests is not disturbed, and a trial is stopped by ending its process.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from embedd.engine.backends import Backend
from embedd.engine.host.process import WorkerProcess
from embedd.engine.settings import Tuning, choose_gpu_batch
from embedd.engine.spec import ModelInfo, ModelSpec
from embedd.errors import EmbeddError, InsufficientMemoryError, ModelLoadError

log = logging.getLogger(__name__)

BATCH_TOKENS = (128, 256, 512, 1024)  # in smaller ones the overhead of a batch dominates
GPU_BATCH_TOKENS = (256, 512, 1024, 2048)
GPU_REPLICAS = [2, 1]
PADDED_BATCH_TOKENS = (256, 512, 1024, 2048)  # of engines that pad short sequences
# Length of the sequences in trial batches, that of a paragraph: the number of sequences in a
# batch matters more than its tokens.
SEQUENCE_TOKENS = 80
SECONDS = 0.05  # least duration of one trial
# Other programs only ever make a trial slower: the best of several is closest to the truth.
ROUNDS = 3
BUDGET = 3.0  # seconds for one comparison: it has as many rounds as fit, at least `ROUNDS`
LONGEST = 0.4  # seconds that one trial may be expected to take; larger batches are left out
# A smaller batch answers sooner: it is chosen if it reaches this share of the best rate. The share
# is high, because each batch costs the server time as well, which trials do not see.
GOOD_ENOUGH = 0.98
# Trials have the machine to themselves. Beside a working server, threads that compute one batch
# together stall at their barriers: one core for each replica may reach only this share of the
# best rate here and is still faster there.
UNDISTURBED = 0.9

Open = Callable[[Backend, Tuning], Awaitable[tuple[WorkerProcess, ModelInfo]]]
Clock = Callable[[], float]
Candidate: TypeAlias = tuple[Backend, int, Sequence[int]]  # replicas and batch sizes of a worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The best rate of one setting."""

    backend: str
    replicas: int
    batch_tokens: int
    tokens_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """All trials and the chosen setting."""

    trials: Sequence[Trial]
    best: Tuning


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether OpenVINO may compute a model.

    Args:
        distance: The most that its vectors differed from llama.cpp's, as 1 - cosine.
        refusal: Why it may not; None if it may.
    """

    distance: float | None = None
    refusal: str | None = None


async def calibrate(
    spec: ModelSpec,
    backends: Sequence[Backend],
    *,
    cores: int,
    open_worker: Open,
    has_room: Callable[[int], bool] = lambda _workers: True,
    budget: float = BUDGET,
    report: Callable[[Trial], None] = lambda _trial: None,
    clock: Clock = time.perf_counter,
) -> Calibration:
    """Try batch sizes with some numbers of replicas, then the other backends of each engine.

    An engine other than llama.cpp that cannot load the model is left out, and so is a GPU that
    cannot compute it. The CPU is not tried where a GPU computes the model: it would be slower, and
    its batches of the largest models would take minutes.

    Args:
        backends: Backends that may be used, the present one first.
        open_worker: Loads the model in a worker of its own, with these settings.
        has_room: Whether so many workers with this model fit into memory at a time.
        budget: Seconds for each comparison.
        report: Called with the result of each setting.
        clock: The time in seconds.

    Raises:
        EngineError: A worker died or failed.
        ModelLoadError: llama.cpp cannot load the model.
    """
    bench = _Bench(open_worker, has_room, budget, report, clock)
    for first, *others in _group(backends):
        sizes = choose_sizes(spec, first)
        try:
            replicas = choose_replicas(cores, gpu=first.gpu)
            await bench.compare([(first, count, sizes) for count in replicas])
        except EmbeddError as error:
            if not _is_optional(first, error):
                raise
            bench.forget(first)
            log.warning("backend left out", extra={"backend": first.name, "reason": str(error)})
            continue
        best = choose_best([trial for trial in bench.trials if trial.backend == first.name])
        if others:
            await bench.compare(
                [(one, best.replicas, [best.batch_tokens]) for one in (first, *others)]
            )
        if first.gpu:
            break
    best = choose_best(bench.trials)
    tuning = Tuning(
        replicas=best.replicas, batch_tokens=best.batch_tokens, backend=best.backend, measured=True
    )
    return Calibration(trials=bench.trials, best=tuning)


def _is_optional(backend: Backend, error: EmbeddError) -> bool:
    """Whether the calibration goes on without *backend*, which failed with *error*."""
    refused = isinstance(error, ModelLoadError | InsufficientMemoryError)
    return backend.gpu or (refused and not backend.is_reference)


def _group(backends: Sequence[Backend]) -> list[list[Backend]]:
    """Return the backends of each engine, those on a GPU apart: their best sizes differ."""
    groups: dict[tuple[str, bool], list[Backend]] = {}
    for backend in backends:
        groups.setdefault((backend.engine, backend.gpu), []).append(backend)
    return list(groups.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """A loaded worker and the size of the batches that it is tried with."""

    backend: str
    replicas: int
    batch_tokens: int
    worker: WorkerProcess
    info: ModelInfo

    def expect_seconds(self, rate: float) -> float:
        """Return how long a batch on every replica takes at *rate* tokens per second."""
        return self.replicas * self.batch_tokens / rate

    async def measure(self, seconds: float, rate: float, clock: Clock) -> float:
        """Return the rate, in tokens per second, of at least one batch on every replica.

        Args:
            seconds: How long to keep the replicas busy.
            rate: What is expected.
        """
        length = max(1, min(SEQUENCE_TOKENS, self.batch_tokens, self.info.limit))
        random = np.random.default_rng(0)
        vocabulary = self.info.vocabulary
        ids = random.integers(vocabulary // 2, vocabulary, length).astype(np.int32)
        batch = [ids] * max(1, min(self.batch_tokens // length, self.info.max_sequences))
        start = clock()
        done = 0

        async def keep_busy() -> None:
            nonlocal done
            more = True
            while more:
                await self.worker.encode(batch, None, alone=True)
                done += len(batch) * length
                more = clock() - start < seconds

        # Two short batches for each replica: one is computed, the next is ready.
        at_once = 2 if self.expect_seconds(rate) < seconds else 1
        await asyncio.gather(*(keep_busy() for _ in range(at_once * self.replicas)))
        return done / (clock() - start)


class _Bench:
    """Measure settings and keep the best rate of each."""

    def __init__(
        self,
        open_worker: Open,
        has_room: Callable[[int], bool],
        budget: float,
        report: Callable[[Trial], None],
        clock: Clock,
    ) -> None:
        self._open_worker = open_worker
        self._has_room = has_room
        self._budget = budget
        self._report = report
        self._clock = clock
        self._best: dict[tuple[str, int, int], float] = {}
        self._rate = math.inf  # of the previous trial

    @property
    def trials(self) -> list[Trial]:
        """The best rate of each setting."""
        return [
            Trial(backend=backend, replicas=replicas, batch_tokens=size, tokens_per_second=rate)
            for (backend, replicas, size), rate in self._best.items()
        ]

    def forget(self, backend: Backend) -> None:
        """Drop the trials of a backend that failed in a later one."""
        self._best = {key: rate for key, rate in self._best.items() if key[0] != backend.name}

    async def compare(self, candidates: Sequence[Candidate]) -> None:
        """Measure all settings in turn, so that a slow moment of the machine slows all of them.

        One worker after the other where there is no room for all at a time.
        """
        groups = [candidates] if self._has_room(len(candidates)) else [[one] for one in candidates]
        for group in groups:
            async with AsyncExitStack() as stack:
                settings: list[_Setting] = []
                workers = []
                for backend, replicas, sizes in group:
                    tuning = Tuning(replicas=replicas, batch_tokens=max(sizes))
                    worker, info = await self._open_worker(backend, tuning)
                    stack.push_async_callback(worker.close)
                    workers.append((worker, info))
                for candidate, (worker, info) in zip(group, workers, strict=True):
                    settings += await self._warm_up(candidate, worker, info)
                await self._measure(settings)

    async def _warm_up(
        self, candidate: Candidate, worker: WorkerProcess, info: ModelInfo
    ) -> list[_Setting]:
        """Compute a batch of each size; return the settings without those that take too long."""
        backend, replicas, sizes = candidate
        settings: list[_Setting] = []
        for size in sizes:
            setting = _Setting(
                backend=backend.name,
                replicas=replicas,
                batch_tokens=size,
                worker=worker,
                info=info,
            )
            if settings and setting.expect_seconds(self._rate) > LONGEST:
                break
            if not settings:  # a worker's first computation includes preparations
                await setting.measure(0.0, math.inf, self._clock)
            settings.append(setting)
            self._rate = await setting.measure(0.0, math.inf, self._clock)
        return settings

    async def _measure(self, settings: Sequence[_Setting]) -> None:
        start = self._clock()
        rounds = 0
        while rounds < ROUNDS or self._clock() - start < self._budget:
            rounds += 1
            for setting in settings:
                self._rate = await setting.measure(SECONDS, self._rate, self._clock)
                key = (setting.backend, setting.replicas, setting.batch_tokens)
                self._best[key] = max(self._best.get(key, 0.0), self._rate)
        for trial in self.trials[-len(settings) :]:
            self._report(trial)


def choose_replicas(cores: int, *, gpu: bool = False) -> list[int]:
    """Return the numbers of replicas worth a trial: as many as cores, half as many, one.

    On a GPU batches are computed one after the other: a second replica prepares the next one
    meanwhile, and each takes memory there.
    """
    if gpu:
        return GPU_REPLICAS
    return sorted({cores, max(1, cores // 2), 1}, reverse=True)


def choose_sizes(spec: ModelSpec, backend: Backend) -> list[int]:
    """Return the batch sizes worth a trial: llama.cpp's memory grows with batch and vocabulary."""
    if not backend.is_reference:
        return list(PADDED_BATCH_TOKENS)
    if backend.gpu:
        largest = choose_gpu_batch(spec.vocabulary, spec.width)
        return [size for size in GPU_BATCH_TOKENS if size <= 2 * largest]
    affordable = (256 << 20) // (4 * max(1, spec.vocabulary + spec.width))
    return [size for size in BATCH_TOKENS if size <= max(affordable, BATCH_TOKENS[0])]


def choose_best(trials: Sequence[Trial]) -> Trial:
    """Return, of the trials almost as fast as the fastest, the one with most replicas.

    Of these the one with the smallest batch, then the first; see `UNDISTURBED` and
    `GOOD_ENOUGH`.
    """
    fastest = max(trial.tokens_per_second for trial in trials)
    near = [trial for trial in trials if trial.tokens_per_second >= UNDISTURBED * fastest]
    replicas = max(trial.replicas for trial in near)
    near = [trial for trial in near if trial.replicas == replicas]
    best = max(trial.tokens_per_second for trial in near)
    good = [trial for trial in near if trial.tokens_per_second >= GOOD_ENOUGH * best]
    return min(good, key=lambda trial: trial.batch_tokens)


def start_at_fastest(backends: Sequence[Backend], tuning: Tuning) -> list[Backend]:
    """Return *backends* from the one that was measured as fastest on, its fallbacks included."""
    names = [backend.name for backend in backends]
    return (
        list(backends[names.index(tuning.backend) :]) if tuning.backend in names else list(backends)
    )
