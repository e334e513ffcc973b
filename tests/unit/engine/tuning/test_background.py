"""Models are calibrated when it is quiet, and a request ends the trials."""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from embedd.choices import EngineChoice, Precision
from embedd.engine.backends import LLAMA_BACKENDS, Backend
from embedd.engine.serving.cores import CoreBudget
from embedd.engine.settings import Tuning
from embedd.engine.spec import ModelSpec
from embedd.engine.tuning.background import IDLE, POLL, BackgroundCalibration
from embedd.engine.tuning.calibrate import Calibration
from embedd.engine.tuning.store import TuningStore
from embedd.errors import EngineError
from embedd.state import StateFolder
from tests.unit.engine.fake_worker import SPEC

FOUND = Tuning(replicas=2, batch_tokens=128, measured=True)


def open_store(state: Path) -> TuningStore:
    return TuningStore(
        StateFolder(state),
        cores=2,
        engine=EngineChoice.AUTO,
        precision=Precision.AUTO,
        cpu_features=frozenset(),
        build="llama 1",
    )


class Bench:
    """A background calibration whose time and trials a test moves by hand."""

    def __init__(self, state: Path) -> None:
        self.store = open_store(state)
        self.cores = CoreBudget(2)
        self.slept = 0.0
        self.started = 0
        self.stopped = 0
        self.may_finish = asyncio.Event()
        self.error: EngineError | None = None
        self.background = BackgroundCalibration(
            store=self.store,
            calibrate=self.calibrate,
            cores=self.cores.total,
            is_busy=lambda: self.cores.busy,
            sleep=self.sleep,
        )

    @property
    def kept(self) -> Calibration | None:
        """What is known of the model."""
        return self.store.read(SPEC)

    async def sleep(self, seconds: float) -> None:
        self.slept += seconds
        await asyncio.sleep(0)

    async def calibrate(self, spec: ModelSpec, backends: Sequence[Backend]) -> Calibration:
        self.started += 1
        try:
            await self.may_finish.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        if self.error is not None:
            raise self.error
        return Calibration(trials=[], best=FOUND)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0)

    def work(self) -> None:
        """A model begins to compute."""
        self.cores.enter(self, lambda _share: None)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_the_first_load_starts_safely_and_the_next_takes_what_was_measured(
    bench: Bench,
) -> None:
    assert not bench.background.choose(SPEC).measured
    bench.may_finish.set()
    bench.background.consider(SPEC, LLAMA_BACKENDS)
    await bench.wait_until(lambda: bool(bench.kept))
    assert bench.background.choose(SPEC) == FOUND
    bench.background.consider(SPEC, LLAMA_BACKENDS)
    await bench.background.close()
    assert bench.started == 1


async def test_nothing_is_tried_while_something_computes(bench: Bench) -> None:
    bench.work()
    bench.background.consider(SPEC, LLAMA_BACKENDS)
    await bench.wait_until(lambda: bench.slept > 3 * IDLE)
    assert bench.started == 0
    bench.cores.leave(bench)
    before = bench.slept
    await bench.wait_until(lambda: bench.started == 1)
    assert bench.slept - before >= IDLE - POLL
    await bench.background.close()


async def test_a_request_ends_the_trials_and_they_begin_again_later(bench: Bench) -> None:
    bench.background.consider(SPEC, LLAMA_BACKENDS)
    await bench.wait_until(lambda: bench.started == 1)
    bench.work()
    await bench.wait_until(lambda: bench.stopped == 1)
    assert not bench.kept
    bench.cores.leave(bench)
    bench.may_finish.set()
    await bench.wait_until(lambda: bool(bench.kept))
    assert bench.started == 2


async def test_a_load_ends_the_trials_and_they_begin_again_later(bench: Bench) -> None:
    await bench.background.end_trials()  # without any it has no effect
    bench.background.consider(SPEC, LLAMA_BACKENDS)
    await bench.wait_until(lambda: bench.started == 1)
    before = bench.slept
    await bench.background.end_trials()
    assert bench.stopped == 1, "they have ended before the load begins"
    bench.may_finish.set()
    await bench.wait_until(lambda: bool(bench.kept))
    assert bench.started == 2
    assert bench.slept - before >= IDLE - POLL


async def test_a_model_that_cannot_be_measured_is_not_tried_for_ever(bench: Bench) -> None:
    bench.error = EngineError("the worker process ended with SIGILL")
    bench.may_finish.set()
    bench.background.consider(SPEC, LLAMA_BACKENDS)
    await bench.wait_until(lambda: bench.started == 1)
    for _ in range(100):
        await asyncio.sleep(0)
    assert bench.started == 1
    assert not bench.kept


async def test_closing_ends_the_trials(bench: Bench) -> None:
    bench.background.consider(SPEC, LLAMA_BACKENDS)
    await bench.wait_until(lambda: bench.started == 1)
    await bench.background.close()
    assert bench.stopped == 1


def write_old_format(state: Path) -> Path:
    """A calibration as it was written before format 2, when backends had other names."""
    open_store(state).write(SPEC, Calibration(trials=[], best=FOUND))
    [file] = state.rglob("*.json")
    content = json.loads(file.read_text())
    trial = {"backend": "cpu1", "replicas": 2, "batch_tokens": 64, "tokens_per_second": 9.0}
    old = {"trials": [trial], "best": content["value"]["best"] | {"backend": "cpu1"}}
    file.write_text(json.dumps(content | {"format": 1, "value": old}))
    return file


async def test_a_calibration_with_old_names_of_backends_is_measured_anew(tmp_path: Path) -> None:
    file = write_old_format(tmp_path)
    bench = Bench(tmp_path)
    assert bench.kept is None
    assert not bench.background.choose(SPEC).measured, "it starts with safe values"
    bench.may_finish.set()
    bench.background.consider(SPEC, LLAMA_BACKENDS)
    await bench.wait_until(lambda: bench.kept is not None)
    await bench.background.close()
    assert bench.background.choose(SPEC) == FOUND
    assert "cpu1" not in file.read_text(), "the old file is replaced"
