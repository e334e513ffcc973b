"""The measured choice of how a model computes on this machine.

Everything is tried on workers of its own, one for each number of replicas: the model
that serves is not disturbed, and a trial is stopped by ending its process.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from embedd.engine.backends import Backend
from embedd.engine.spec import ModelInfo, ModelSpec
from embedd.engine.tuning.settings import Tuning, choose_gpu_batch
from embedd.errors import InsufficientMemoryError, ModelLoadError
from embedd.types import Pooling, TokenIds, Vectors

log = logging.getLogger(__name__)

BATCH_TOKENS = (128, 256, 512, 1024)  # below, short texts pay for each batch anew
GPU_BATCH_TOKENS = (512, 1024, 2048, 4096, 8192)
PADDED_BATCH_TOKENS = (256, 512, 1024, 2048)  # of engines that fill up short sequences
# Of the sequences that trial batches are made of, a paragraph: how many of them a batch holds
# decides more than its size.
SEQUENCE_TOKENS = 80
SECONDS = 0.05  # of one trial, at least
# Other programs only ever make a trial slower: the best of several is nearest the truth.
ROUNDS = 3
BUDGET = 3.0  # seconds for one comparison: as many rounds as it pays for
LONGEST = 0.4  # seconds that one trial may be expected to take; larger batches are left out
# A smaller batch answers sooner: it is taken if it is so nearly as fast.
GOOD_ENOUGH = 0.95
# Trials have the machine for themselves. Beside a server that works, a team of threads stalls
# at its barriers: one core for each replica may be so much slower here and is faster there.
UNDISTURBED = 0.9


class Computer(Protocol):
    """What is measured; a loaded `WorkerProcess` is one."""

    async def encode(
        self, sequences: Sequence[TokenIds], pooling: Pooling | None, *, alone: bool = False
    ) -> tuple[Vectors, float]:
        """See `WorkerProcess.encode`."""
        ...

    async def close(self) -> None:
        """See `WorkerProcess.close`."""
        ...


Open = Callable[[Backend, Tuning], Awaitable[tuple[Computer, ModelInfo]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What one setting gave, in tokens per second."""

    backend: str
    replicas: int
    batch_tokens: int
    tokens_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """All trials, and the setting that was chosen."""

    trials: Sequence[Trial]
    best: Tuning


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether an engine may compute a model: how far it is from llama.cpp, or why not."""

    distance: float | None = None
    refusal: str | None = None


async def calibrate(
    spec: ModelSpec,
    backends: Sequence[Backend],
    *,
    cores: int,
    open_computer: Open,
    has_room: Callable[[int], bool] = lambda _workers: True,
    budget: float = BUDGET,
    report: Callable[[Trial], None] = lambda _trial: None,
) -> Calibration:
    """Try batch sizes with every sensible number of replicas, then the other backends.

    Every engine of the backends is tried; one that cannot load the model is left out.

    Args:
        backends: Backends that may be used, the present one first.
        open_computer: Loads the model so, for trials.
        has_room: Whether so many workers with this model fit into memory at a time.
        budget: Seconds for each comparison.

    Raises:
        EngineError: A worker died or failed; nothing was learnt.
    """
    bench = _Bench(open_computer, has_room, budget, report)
    for engine in dict.fromkeys(backend.engine for backend in backends):
        first, *others = [backend for backend in backends if backend.engine == engine]
        sizes = choose_sizes(spec, first)
        try:
            await bench.compare(
                [_Candidate(first, count, sizes) for count in choose_replicas(cores)]
            )
        except (ModelLoadError, InsufficientMemoryError) as error:
            if first.is_reference:
                raise
            log.warning("engine left out", extra={"engine": engine, "reason": str(error)})
            continue
        best = choose_best([trial for trial in bench.trials if trial.backend == first.name])
        if others:
            backends = [first, *others]
            await bench.compare(
                [_Candidate(backend, best.replicas, [best.batch_tokens]) for backend in backends]
            )
    best = choose_best(bench.trials)
    tuning = Tuning(
        replicas=best.replicas, batch_tokens=best.batch_tokens, backend=best.backend, measured=True
    )
    return Calibration(trials=bench.trials, best=tuning)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """What one worker is opened for: these batch sizes, on this backend."""

    backend: Backend
    replicas: int
    sizes: Sequence[int]


@dataclass(frozen=True, slots=True)
class _Setting:
    """A worker that is ready, and a size of the batches for its *replicas*."""

    backend: str
    replicas: int
    batch_tokens: int
    computer: Computer
    info: ModelInfo

    def expect_seconds(self, rate: float) -> float:
        """How long a batch on every replica takes at *rate* tokens per second."""
        return self.replicas * self.batch_tokens / rate

    async def try_out(self, seconds: float, rate: float) -> float:
        """Tokens per second, every replica kept busy for *seconds*, with a batch at least."""
        length = max(1, min(SEQUENCE_TOKENS, self.batch_tokens, self.info.limit))
        random = np.random.default_rng(0)
        vocabulary = self.info.vocabulary
        ids = random.integers(vocabulary // 2, vocabulary, length).astype(np.int32)
        batch = [ids] * max(1, min(self.batch_tokens // length, self.info.max_sequences))
        start = time.perf_counter()
        done = 0

        async def keep_busy() -> None:
            nonlocal done
            more = True
            while more:
                await self.computer.encode(batch, None, alone=True)
                done += len(batch) * length
                more = time.perf_counter() - start < seconds

        # Of short batches two for each replica: one computes, the next is ready.
        at_once = 2 if self.expect_seconds(rate) < seconds else 1
        await asyncio.gather(*(keep_busy() for _ in range(at_once * self.replicas)))
        return done / (time.perf_counter() - start)


class _Bench:
    """Makes trials and remembers them."""

    def __init__(
        self,
        open_computer: Open,
        has_room: Callable[[int], bool],
        budget: float,
        report: Callable[[Trial], None],
    ) -> None:
        self._open_computer = open_computer
        self._has_room = has_room
        self._budget = budget
        self._report = report
        self._best: dict[tuple[str, int, int], float] = {}
        self._rate = math.inf  # of the trial before

    @property
    def trials(self) -> list[Trial]:
        """Of each setting the best."""
        return [
            Trial(backend=backend, replicas=replicas, batch_tokens=size, tokens_per_second=rate)
            for (backend, replicas, size), rate in self._best.items()
        ]

    async def compare(self, candidates: Sequence[_Candidate]) -> None:
        """All in turn, so that a moment in which the machine is slow is one for all.

        One after the other where there is no room for their workers at a time.
        """
        groups = [candidates] if self._has_room(len(candidates)) else [[one] for one in candidates]
        for group in groups:
            async with AsyncExitStack() as stack:
                workers = []
                for one in group:
                    tuning = Tuning(replicas=one.replicas, batch_tokens=max(one.sizes))
                    computer, info = await self._open_computer(one.backend, tuning)
                    stack.push_async_callback(computer.close)
                    workers.append((one, computer, info))
                settings = [one for worker in workers for one in await self._warm_up(*worker)]
                await self._measure(settings)

    async def _warm_up(
        self, candidate: _Candidate, computer: Computer, info: ModelInfo
    ) -> list[_Setting]:
        """Compute every size once; the largest are left out where they take too long."""
        settings: list[_Setting] = []
        for size in candidate.sizes:
            setting = _Setting(candidate.backend.name, candidate.replicas, size, computer, info)
            if settings and setting.expect_seconds(self._rate) > LONGEST:
                break
            if not settings:  # the first computation of all prepares much
                await setting.try_out(0.0, math.inf)
            settings.append(setting)
            self._rate = await setting.try_out(0.0, math.inf)
        return settings

    async def _measure(self, settings: Sequence[_Setting]) -> None:
        start = time.perf_counter()
        rounds = 0
        while rounds < ROUNDS or time.perf_counter() - start < self._budget:
            rounds += 1
            for setting in settings:
                self._rate = await setting.try_out(SECONDS, self._rate)
                key = (setting.backend, setting.replicas, setting.batch_tokens)
                self._best[key] = max(self._best.get(key, 0.0), self._rate)
        for trial in self.trials[-len(settings) :]:
            self._report(trial)


def choose_replicas(cores: int) -> list[int]:
    """One core for each, two for each, all for one."""
    return sorted({cores, max(1, cores // 2), 1}, reverse=True)


def choose_sizes(spec: ModelSpec, backend: Backend) -> list[int]:
    """Batch sizes worth a trial: llama.cpp's largest costs memory by the vocabulary."""
    if not backend.is_reference:
        return list(PADDED_BATCH_TOKENS)
    if backend.gpu:
        largest = choose_gpu_batch(spec.vocabulary, spec.width)
        return [size for size in GPU_BATCH_TOKENS if size <= 2 * largest]
    affordable = (256 << 20) // (4 * max(1, spec.vocabulary + spec.width))
    return [size for size in BATCH_TOKENS if size <= max(affordable, BATCH_TOKENS[0])]


def choose_best(trials: Sequence[Trial]) -> Trial:
    """Among those nearly as fast as the fastest: most replicas, smallest batch, first tried.

    See `UNDISTURBED` and `GOOD_ENOUGH`.
    """
    fastest = max(trial.tokens_per_second for trial in trials)
    near = [trial for trial in trials if trial.tokens_per_second >= UNDISTURBED * fastest]
    replicas = max(trial.replicas for trial in near)
    near = [trial for trial in near if trial.replicas == replicas]
    best = max(trial.tokens_per_second for trial in near)
    good = [trial for trial in near if trial.tokens_per_second >= GOOD_ENOUGH * best]
    return min(good, key=lambda trial: trial.batch_tokens)


def start_at_fastest(backends: Sequence[Backend], tuning: Tuning) -> list[Backend]:
    """*backends* from the backend that was measured as fastest, its safer ones below."""
    names = [backend.name for backend in backends]
    return (
        list(backends[names.index(tuning.backend) :]) if tuning.backend in names else list(backends)
    )
