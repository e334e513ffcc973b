"""The measured choice of how a model computes on this machine.

Everything is tried on workers of its own, one for each number of replicas: the model
that serves is not disturbed, and a trial is stopped by ending its process.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from embedd.engine.base import ModelInfo, ModelSpec, Rung
from embedd.engine.process import Encoded
from embedd.engine.tuning import Tuning, choose_gpu_batch
from embedd.errors import ModelLoadError
from embedd.types import Pooling, TokenIds

log = logging.getLogger(__name__)

BATCH_TOKENS = (128, 256, 512, 1024)  # below, short texts pay for each batch anew
GPU_BATCH_TOKENS = (512, 1024, 2048, 4096, 8192)
PADDED_BATCH_TOKENS = (256, 512, 1024, 2048)  # of engines that fill up short sequences
# Of the sequences that trial batches are made of, a paragraph: how many of them a batch holds
# decides more than its size.
SEQUENCE_TOKENS = 80
SECONDS = 0.15  # of one trial
# Other programs only ever make a trial slower: of two the better one is nearer the truth.
ROUNDS = 2
LONGEST = 1.5  # seconds that one trial may be expected to take; larger batches are left out
# A smaller batch answers sooner: it is taken if it is so nearly as fast.
GOOD_ENOUGH = 0.95
# Trials have the machine for themselves. Beside a server that works, a team of threads stalls
# at its barriers: one core for each replica may be so much slower here and is faster there.
UNDISTURBED = 0.9


class Computer(Protocol):
    """What is measured; a loaded `WorkerProcess` is one."""

    async def encode(
        self, sequences: Sequence[TokenIds], pooling: Pooling | None, *, alone: bool = False
    ) -> Encoded:
        """See `WorkerProcess.encode`."""
        ...

    async def close(self) -> None:
        """See `WorkerProcess.close`."""
        ...


Open = Callable[[Rung, Tuning], Awaitable[tuple[Computer, ModelInfo]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What one setting gave, in tokens per second."""

    rung: str
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


class CalibrationStore(Protocol):
    """Keeps what was learnt about models on this machine."""

    def read(self, spec: ModelSpec) -> Calibration | None:
        """What was measured of the model, or None."""
        ...

    def write(self, spec: ModelSpec, calibration: Calibration) -> None:
        """Keep it."""
        ...


class TuningStore(CalibrationStore, Protocol):
    """Keeps what was learnt about engines too."""

    def read_verdict(self, spec: ModelSpec) -> Verdict | None:
        """What was found of the other engine, or None."""
        ...

    def write_verdict(self, spec: ModelSpec, verdict: Verdict) -> None:
        """Keep it."""
        ...


async def calibrate(
    spec: ModelSpec,
    ladder: Sequence[Rung],
    *,
    cores: int,
    open_computer: Open,
    seconds: float = SECONDS,
    report: Callable[[Trial], None] = lambda _trial: None,
) -> Calibration:
    """Try batch sizes with every sensible number of replicas, then the other rungs.

    Every engine of the ladder is tried; one that cannot load the model is left out.

    Args:
        ladder: Rungs that may be used, the present one first.
        open_computer: Loads the model so, for trials.

    Raises:
        EngineError: A worker died or failed; nothing was learnt.
    """
    bench = _Bench(open_computer, seconds, report)
    for engine in dict.fromkeys(rung.engine for rung in ladder):
        first, *others = [rung for rung in ladder if rung.engine == engine]
        try:
            for replicas in choose_replicas(cores):
                await bench.try_out(first, replicas, choose_sizes(spec, first))
        except ModelLoadError as error:
            if first.is_reference:
                raise
            log.warning("engine left out", extra={"engine": engine, "reason": str(error)})
            continue
        best = choose_best(bench.trials_on(first))
        for rung in others:
            await bench.try_out(rung, best.replicas, [best.batch_tokens])
    best = choose_best(bench.trials)
    tuning = Tuning(
        replicas=best.replicas, batch_tokens=best.batch_tokens, rung=best.rung, measured=True
    )
    return Calibration(trials=bench.trials, best=tuning)


class _Bench:
    """Makes trials and remembers them."""

    def __init__(
        self, open_computer: Open, seconds: float, report: Callable[[Trial], None]
    ) -> None:
        self._open_computer = open_computer
        self._seconds = seconds
        self._report = report
        self.trials: list[Trial] = []

    def trials_on(self, rung: Rung) -> list[Trial]:
        return [trial for trial in self.trials if trial.rung == rung.name]

    async def try_out(self, rung: Rung, replicas: int, sizes: Sequence[int]) -> None:
        """One process, every size; the largest are left out where they take too long."""
        tuning = Tuning(replicas=replicas, batch_tokens=max(sizes))
        computer, info = await self._open_computer(rung, tuning)
        try:
            for size in sizes:
                if expect_seconds(self.trials_on(rung), size, replicas) > LONGEST:
                    break
                rates = [
                    await measure(computer, info, size, replicas, self._seconds)
                    for _ in range(ROUNDS)
                ]
                trial = Trial(
                    rung=rung.name,
                    replicas=replicas,
                    batch_tokens=size,
                    tokens_per_second=max(rates),
                )
                self.trials.append(trial)
                self._report(trial)
        finally:
            await computer.close()


async def measure(
    computer: Computer, info: ModelInfo, size: int, replicas: int, seconds: float
) -> float:
    """Tokens per second with batches of *size* tokens, every replica kept busy."""
    length = max(1, min(SEQUENCE_TOKENS, size, info.limit))
    random = np.random.default_rng(0)
    ids = random.integers(info.vocabulary // 2, info.vocabulary, length).astype(np.int32)
    batch = [ids] * max(1, min(size // length, info.max_sequences))
    await asyncio.gather(*(computer.encode(batch, None, alone=True) for _ in range(replicas)))
    start = time.perf_counter()
    done = 0

    async def keep_busy() -> None:
        nonlocal done
        while time.perf_counter() - start < seconds:
            await computer.encode(batch, None, alone=True)
            done += len(batch) * length

    # Two for each replica: one computes, the next is ready.
    await asyncio.gather(*(keep_busy() for _ in range(2 * replicas)))
    return done / (time.perf_counter() - start)


def expect_seconds(trials: Sequence[Trial], size: int, replicas: int) -> float:
    """How long the batches of a trial will take, by the trial before; 0 for the first."""
    if not trials:
        return 0.0
    return 2 * replicas * size / trials[-1].tokens_per_second


def choose_replicas(cores: int) -> list[int]:
    """One core for each, two for each, all for one."""
    return sorted({cores, max(1, cores // 2), 1}, reverse=True)


def choose_sizes(spec: ModelSpec, rung: Rung) -> list[int]:
    """Batch sizes worth a trial: llama.cpp's largest costs memory by the vocabulary."""
    if not rung.is_reference:
        return list(PADDED_BATCH_TOKENS)
    if rung.gpu:
        largest = choose_gpu_batch(spec.vocabulary, spec.width)
        return [size for size in GPU_BATCH_TOKENS if size <= 2 * largest]
    affordable = (256 << 20) // (4 * max(1, spec.vocabulary + spec.width))
    return [size for size in BATCH_TOKENS if size <= max(affordable, BATCH_TOKENS[0])]


def choose_best(trials: Sequence[Trial]) -> Trial:
    """Among those nearly as fast as the fastest: most replicas, then the smallest batch.

    See `UNDISTURBED` and `GOOD_ENOUGH`.
    """
    fastest = max(trial.tokens_per_second for trial in trials)
    near = [trial for trial in trials if trial.tokens_per_second >= UNDISTURBED * fastest]
    replicas = max(trial.replicas for trial in near)
    near = [trial for trial in near if trial.replicas == replicas]
    best = max(trial.tokens_per_second for trial in near)
    good = [trial for trial in near if trial.tokens_per_second >= GOOD_ENOUGH * best]
    return min(good, key=lambda trial: (trial.batch_tokens, -trial.tokens_per_second))


def start_ladder(ladder: Sequence[Rung], tuning: Tuning) -> list[Rung]:
    """*ladder* from the rung that was measured as fastest, its safer ones below."""
    names = [rung.name for rung in ladder]
    return list(ladder[names.index(tuning.rung) :]) if tuning.rung in names else list(ladder)
