"""Calibration takes the fastest setting, and a smaller batch where that costs nothing."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.engine.backends import LLAMA_BACKENDS, LLAMA_GPU, Backend
from embedd.engine.host.errors import WorkerDiedError
from embedd.engine.host.process import WorkerProcess
from embedd.engine.settings import Tuning, choose_start
from embedd.engine.spec import ModelInfo
from embedd.engine.tuning.calibrate import (
    BATCH_TOKENS,
    GOOD_ENOUGH,
    GPU_REPLICAS,
    Calibration,
    Trial,
    calibrate,
    choose_best,
    choose_replicas,
    choose_sizes,
    start_at_fastest,
)
from embedd.errors import EngineError, ModelLoadError
from embedd.types import Pooling, TokenIds, Vectors
from tests.fakes import Clock, settle
from tests.unit.engine.fake_worker import INFO, SPEC


class Machine:
    """Workers whose speed follows from their setting; remembers what was opened.

    Args:
        slow_batches: It computes at a tenth of its speed until so many were computed by
            workers with one replica, which are not the first to be tried.
        token_seconds: What a token takes in a batch of up to 256 tokens.
    """

    def __init__(
        self,
        fast_backend: str = "llama",
        slow_batches: int = 0,
        token_seconds: float = 0.00002,
    ) -> None:
        self.clock = Clock()
        self.fast_backend = fast_backend
        self.slow_batches = slow_batches
        self.token_seconds = token_seconds
        self.open = 0
        self.most_open = 0
        self.opened: list[tuple[str, int]] = []
        self.dies = False
        self.fragile: set[tuple[str, int]] = set()  # backends and replicas that die at once
        self.faults: dict[str, Exception] = {}  # of backends that no worker can be opened with

    @property
    def pace(self) -> float:
        return 0.1 if self.slow_batches > 0 else 1.0

    async def open_worker(self, backend: Backend, tuning: Tuning) -> tuple["Worker", ModelInfo]:
        if backend.name in self.faults:
            raise self.faults[backend.name]
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        self.opened.append((backend.name, tuning.replicas))
        speed = 4.0 if backend.name == self.fast_backend else 1.0
        info = replace(INFO, limit=64, vocabulary=100, max_sequences=32)
        dies = (backend.name, tuning.replicas) in self.fragile
        return Worker(self, speed * tuning.replicas, tuning.replicas, dies=dies), info


class Worker(WorkerProcess):
    """Takes 20 µs for a token, and 100 in batches of more than 256 tokens."""

    def __init__(self, machine: Machine, speed: float, replicas: int, *, dies: bool) -> None:
        self._machine = machine
        self._dies = dies
        self._speed = speed
        self._replicas = replicas

    async def encode(
        self,
        sequences: Sequence[TokenIds],
        pooling: Pooling | None,
        *,
        urgent: bool = False,
        alone: bool = False,
    ) -> tuple[Vectors, float]:
        assert alone, "joined batches are not of the size that is measured"
        if self._machine.dies or self._dies:
            raise WorkerDiedError("SIGILL")
        tokens = sum(map(len, sequences))
        speed = self._speed * self._machine.pace
        self._machine.slow_batches -= self._replicas == 1
        seconds = tokens * self._machine.token_seconds * (1 if tokens <= 256 else 5)
        await self._machine.clock.sleep(seconds / speed)
        return np.zeros((len(sequences), 2), np.float32), 0.0

    async def close(self) -> None:
        self._machine.open -= 1


async def run(machine: Machine, **options: Any) -> Calibration:
    """Calibrate; the time is moved whenever nothing else is to be done."""
    options = {"budget": 0.0, "backends": LLAMA_BACKENDS, "cores": 2, **options}
    task = asyncio.create_task(
        calibrate(
            SPEC,
            open_worker=machine.open_worker,
            clock=machine.clock.time,
            **options,
        )
    )
    await settle()
    while not task.done():
        machine.clock.advance_to_next()
        await settle()
    return await task


@pytest.mark.parametrize("fast_backend", ["llama", "llama-safe"])
async def test_the_fastest_setting_is_found_and_every_process_ended(fast_backend: str) -> None:
    machine = Machine(fast_backend)
    reported: list[Trial] = []
    found = await run(machine, report=reported.append)
    assert found.best.replicas == 2
    assert found.best.backend == fast_backend
    assert found.best.measured
    assert (found.best.batch_tokens or 0) <= 256
    assert machine.open == 0
    assert machine.opened[:2] == [("llama", 2), ("llama", 1)]
    settings = [(one.backend, one.replicas, one.batch_tokens) for one in found.trials]
    assert len(settings) == len(set(settings)), "each setting is in the table once"
    reports = {(one.backend, one.replicas, one.batch_tokens) for one in reported}
    assert reports == set(settings)


async def test_a_slow_moment_of_the_machine_slows_all_settings() -> None:
    """The best is the first to be tried, when everything is slow."""
    machine = Machine(slow_batches=20)
    assert (await run(machine)).best.replicas == 2


async def test_workers_are_open_at_a_time_only_where_there_is_room() -> None:
    machine = Machine()
    found = await run(machine, has_room=lambda workers: workers <= 1)
    assert machine.most_open == 1
    assert found.best.replicas == 2
    machine = Machine()
    await run(machine)
    assert machine.most_open == 3, "llama, llama-no-repack and llama-safe"


async def test_nothing_is_chosen_if_a_worker_dies_and_all_are_closed() -> None:
    machine = Machine()
    machine.dies = True
    with pytest.raises(WorkerDiedError):
        await run(machine)
    assert machine.open == 0


async def test_a_comparison_has_as_many_rounds_as_its_budget_pays_for() -> None:
    seconds = []
    for budget in (0.0, 10.0, 20.0):
        machine = Machine()
        start = machine.clock.now
        await run(machine, budget=budget, backends=LLAMA_BACKENDS[:1])
        seconds.append(machine.clock.now - start)
    assert seconds[0] < 3
    assert seconds[1] == pytest.approx(10, abs=2)
    assert seconds[2] == pytest.approx(20, abs=2)


async def test_batches_that_would_take_too_long_are_not_measured() -> None:
    """Those of 256 tokens take 1.3 s on the only backend that there is."""
    machine = Machine(token_seconds=0.02)
    found = await run(machine, backends=LLAMA_BACKENDS[:1])
    assert {trial.batch_tokens for trial in found.trials} == {BATCH_TOKENS[0]}
    fast = await run(Machine(), backends=LLAMA_BACKENDS[:1])
    assert {trial.batch_tokens for trial in fast.trials} == set(BATCH_TOKENS)


@given(
    rates=st.lists(
        st.tuples(st.sampled_from([64, 128, 256]), st.floats(1, 1e6)), min_size=1, max_size=9
    )
)
def test_the_choice_is_nearly_the_fastest_and_no_smaller_batch_is(
    rates: list[tuple[int, float]],
) -> None:
    trials = [
        Trial(backend="llama", replicas=1, batch_tokens=size, tokens_per_second=rate)
        for size, rate in rates
    ]
    best = choose_best(trials)
    fastest = max(rate for _, rate in rates)
    assert best.tokens_per_second >= GOOD_ENOUGH * fastest
    smaller = [one for one in trials if one.batch_tokens < best.batch_tokens]
    assert all(one.tokens_per_second < GOOD_ENOUGH * fastest for one in smaller)


@pytest.mark.parametrize(("cores", "replicas"), [(1, [1]), (2, [2, 1]), (8, [8, 4, 1])])
def test_cores_are_split_in_every_sensible_way(cores: int, replicas: list[int]) -> None:
    assert choose_replicas(cores) == replicas


async def test_where_a_gpu_computes_a_model_few_replicas_there_are_tried_and_no_cpu() -> None:
    found = await run(Machine("llama-gpu"), backends=[LLAMA_GPU, *LLAMA_BACKENDS], cores=16)
    assert {one.backend for one in found.trials} == {"llama-gpu"}
    assert {one.replicas for one in found.trials} == set(GPU_REPLICAS)
    assert max(one.batch_tokens for one in found.trials) > max(BATCH_TOKENS)


@pytest.mark.parametrize("error", [EngineError("finds no GPU"), ModelLoadError("too large")])
async def test_a_gpu_that_cannot_compute_a_model_leaves_the_cpu_to_be_measured(
    error: Exception,
) -> None:
    machine = Machine()
    machine.faults = {"llama-gpu": error}
    found = await run(machine, backends=[LLAMA_GPU, *LLAMA_BACKENDS])
    assert {one.backend for one in found.trials} == {one.name for one in LLAMA_BACKENDS}
    assert found.best.backend == "llama"
    assert machine.open == 0


async def test_a_gpu_that_dies_in_a_trial_is_not_chosen_for_an_earlier_one() -> None:
    machine = Machine("llama-gpu")
    machine.fragile = {("llama-gpu", 1)}
    # With room for one worker that with one replica comes after the trials with two.
    found = await run(
        machine, backends=[LLAMA_GPU, *LLAMA_BACKENDS], has_room=lambda workers: workers <= 1
    )
    assert {one.backend for one in found.trials} == {one.name for one in LLAMA_BACKENDS}
    assert machine.open == 0


def test_a_large_vocabulary_is_not_tried_with_large_batches() -> None:
    assert choose_sizes(replace(SPEC, vocabulary=250_000, width=1024), LLAMA_BACKENDS[0])[-1] <= 256
    assert choose_sizes(replace(SPEC, vocabulary=30_522, width=384), LLAMA_BACKENDS[0])[-1] == 1024


@pytest.mark.parametrize(
    ("vocabulary", "weights", "cores", "replicas"),
    [(30_522, 45 << 20, 2, 2), (250_002, 200 << 20, 8, 1), (30_522, 1 << 30, 8, 1)],
    ids=["small", "large vocabulary", "large weights"],
)
def test_a_model_starts_with_what_its_size_allows(
    vocabulary: int, weights: int, cores: int, replicas: int
) -> None:
    spec = replace(SPEC, vocabulary=vocabulary, width=384, weights=weights, context_length=512)
    assert choose_start(spec, cores) == Tuning(replicas=replicas)


@pytest.mark.parametrize(
    ("backend", "names"),
    [
        ("llama-no-repack", ["llama-no-repack", "llama-safe"]),
        (None, ["llama", "llama-no-repack", "llama-safe"]),
        ("gone", ["llama"]),
    ],
)
def test_a_load_begins_on_the_backend_that_was_fastest(
    backend: str | None, names: list[str]
) -> None:
    backends = start_at_fastest(LLAMA_BACKENDS, Tuning(replicas=1, backend=backend))
    assert [one.name for one in backends][: len(names)] == names


def test_of_settings_that_are_as_good_the_most_replicas_are_taken() -> None:
    lone = Trial(backend="llama", replicas=1, batch_tokens=128, tokens_per_second=1000.0)
    both = Trial(backend="llama", replicas=2, batch_tokens=256, tokens_per_second=920.0)
    assert choose_best([lone, both]) == both
    slower = Trial(backend="llama", replicas=2, batch_tokens=256, tokens_per_second=890.0)
    assert choose_best([lone, slower]) == lone
