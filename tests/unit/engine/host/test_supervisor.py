"""One worker kept alive: backends, restarts shared by all, giving up, the end."""

import asyncio

import numpy as np
import pytest

from embedd.engine.backends import LLAMA_BACKENDS, OPENVINO_F32
from embedd.engine.host.errors import SelfTestError, WorkerDiedError
from embedd.engine.host.fallback import measure_difference
from embedd.engine.host.supervisor import LONGEST_QUIET, MAX_KILLS, QUIET, Supervisor
from embedd.engine.settings import Tuning
from embedd.errors import (
    EmbeddError,
    InsufficientMemoryError,
    LoadTimeoutError,
    ModelLoadError,
    ShuttingDownError,
    WorkerUnavailableError,
)
from embedd.logs import TRACE
from embedd.metrics import DeathReason
from embedd.types import Pooling
from tests.fakes import settle
from tests.unit.engine.fake_worker import FakeWorkers, to_ids


async def compute_and_die(workers: FakeWorkers) -> None:
    """The present worker dies while it computes a batch."""
    worker = workers.current
    batch = asyncio.create_task(worker.encode([to_ids(1)], None))
    await settle()
    worker.die()
    with pytest.raises(WorkerDiedError):
        await batch


async def revive(supervisor: Supervisor, workers: FakeWorkers, *, counts: bool = True) -> None:
    workers.current.die(computing=False)
    await supervisor.revive(workers.current, counts=counts)


async def test_the_first_backend_that_computes_is_taken() -> None:
    workers = FakeWorkers()
    workers.faults = {
        "llama": WorkerDiedError("SIGILL"),
        "llama-no-repack": SelfTestError("NaN"),
    }
    supervisor = await workers.open()
    assert workers.current.backend == "llama-safe"
    assert supervisor.worker is workers.current
    assert [worker.closed for worker in workers.started] == [True, True, False]


async def test_if_no_backend_computes_the_error_has_the_reasons_of_all() -> None:
    workers = FakeWorkers()
    workers.faults = {
        name: WorkerDiedError(f"ended on {name}")
        for name in ("llama", "llama-no-repack", "llama-safe")
    }
    with pytest.raises(ModelLoadError) as caught:
        await workers.open()
    assert str(caught.value) == (
        'cannot load model "tiny": '
        + "; ".join(f"{name}: ended on {name}" for name in workers.faults)
    )


@pytest.mark.parametrize(
    "error",
    [ModelLoadError("bad file"), InsufficientMemoryError("full"), LoadTimeoutError("slow")],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_that_no_backend_avoids_is_raised_at_once(error: EmbeddError) -> None:
    workers = FakeWorkers()
    workers.faults = {"llama": error}
    with pytest.raises(type(error)):
        await workers.open()
    assert len(workers.started) == 1
    assert workers.current.closed


async def test_all_callers_share_one_restart() -> None:
    workers = FakeWorkers()
    supervisor = await workers.open()
    dead = workers.current
    dead.die(computing=False)
    await asyncio.gather(*(supervisor.revive(dead) for _ in range(10)))
    await supervisor.revive(dead)  # late: it was replaced already
    assert len(workers.started) == 2
    assert workers.current.backend == "llama"


async def test_death_in_the_first_batch_costs_one_backend_and_no_delay() -> None:
    workers = FakeWorkers(automatic=False)
    supervisor = await workers.open()
    for backend in ("llama-no-repack", "llama-no-repack"):
        await compute_and_die(workers)
        await supervisor.revive(workers.current)
        assert workers.current.backend == backend
    assert workers.delays == [0.1]


async def test_the_call_that_reports_a_death_first_does_not_decide_the_backend() -> None:
    """A tokenizer call beside the first batch notices the death as well."""
    workers = FakeWorkers(automatic=False)
    supervisor = await workers.open()
    dead = workers.current
    await compute_and_die(workers)
    await asyncio.gather(supervisor.revive(dead), supervisor.revive(dead, counts=False))
    assert workers.current.backend == "llama-no-repack"


async def test_death_after_a_computed_batch_keeps_the_backend() -> None:
    workers = FakeWorkers(automatic=False)
    supervisor = await workers.open()
    supervisor.mark_healthy()
    await compute_and_die(workers)
    await supervisor.revive(workers.current)
    assert workers.current.backend == "llama"


async def test_the_last_backend_is_tried_again() -> None:
    workers = FakeWorkers(automatic=False)
    workers.faults = {"llama": SelfTestError("NaN"), "llama-no-repack": SelfTestError("NaN")}
    supervisor = await workers.open()
    await compute_and_die(workers)
    await supervisor.revive(workers.current)
    assert workers.current.backend == "llama-safe"


async def test_delays_double_and_the_fifth_death_in_a_row_is_the_last() -> None:
    workers = FakeWorkers()
    supervisor = await workers.open()
    for _ in range(4):
        await revive(supervisor, workers)
    assert workers.delays == [0.1, 0.2, 0.4, 0.8]
    reason = 'the worker of model "tiny" died 5 times without computing a batch'
    with pytest.raises(ModelLoadError, match=reason):
        await revive(supervisor, workers)
    assert supervisor.unhealthy_reason == reason
    with pytest.raises(ModelLoadError, match=reason):
        await supervisor.revive(workers.current)
    assert len(workers.started) == 5


async def test_delays_end_at_five_seconds_and_deaths_are_forgiven_after_a_minute() -> None:
    workers = FakeWorkers()
    supervisor = await workers.open()
    for _ in range(10):
        workers.now += 15
        await revive(supervisor, workers)
    assert supervisor.unhealthy_reason is None
    assert max(workers.delays) <= 5


async def test_a_computed_batch_forgives_deaths() -> None:
    workers = FakeWorkers()
    supervisor = await workers.open()
    for _ in range(10):
        await revive(supervisor, workers)
        supervisor.mark_healthy()
    assert workers.delays == [0.1] * 10


async def test_deaths_of_a_search_do_not_count_and_are_not_waited_for() -> None:
    workers = FakeWorkers()
    supervisor = await workers.open()
    for _ in range(10):
        await revive(supervisor, workers, counts=False)
    assert workers.delays == []


async def test_a_model_that_does_not_load_again_fails_all_callers() -> None:
    workers = FakeWorkers()
    supervisor = await workers.open()
    dead = workers.current
    dead.die(computing=False)
    workers.faults = {"llama": ModelLoadError("file is gone")}
    results = await asyncio.gather(
        *(supervisor.revive(dead) for _ in range(3)), return_exceptions=True
    )
    assert [str(result) for result in results] == ["file is gone"] * 3
    assert supervisor.unhealthy_reason == "file is gone"


async def test_a_caller_that_leaves_does_not_stop_the_restart_for_others() -> None:
    workers = FakeWorkers()
    supervisor = await workers.open()
    dead = workers.current
    dead.die(computing=False)
    workers.may_load.clear()
    first, second = (asyncio.create_task(supervisor.revive(dead)) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    workers.may_load.set()
    await second
    assert first.cancelled()
    assert supervisor.worker is not dead


async def test_close_during_a_restart_ends_it_and_fails_the_callers() -> None:
    workers = FakeWorkers()
    supervisor = await workers.open()
    dead = workers.current
    dead.die(computing=False)
    workers.may_load.clear()
    waiting = asyncio.create_task(supervisor.revive(dead))
    await settle()
    await supervisor.close()
    with pytest.raises(ShuttingDownError):
        await waiting
    with pytest.raises(ShuttingDownError):
        await supervisor.revive(dead)
    assert all(worker.closed for worker in workers.started)


async def test_close_before_anything_was_loaded_is_fine() -> None:
    await FakeWorkers().make().close()


# Another engine than llama.cpp before its backends

WITH_OPENVINO = (OPENVINO_F32, *LLAMA_BACKENDS)


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (ModelLoadError("unknown architecture"), {"openvino": "unknown architecture"}),
        (InsufficientMemoryError("full"), {}),
        (WorkerDiedError("SIGSEGV"), {}),
        (SelfTestError("NaN"), {}),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_another_engine_cannot_do_llama_does(
    error: EmbeddError, refused: dict[str, str]
) -> None:
    workers = FakeWorkers()
    workers.faults = {"openvino-f32": error}
    supervisor = await workers.open(WITH_OPENVINO)
    assert workers.current.backend == "llama"
    assert supervisor.fallbacks.refusals == refused


async def test_an_engine_that_was_asked_for_alone_is_not_replaced() -> None:
    workers = FakeWorkers()
    workers.faults = {"openvino-f32": ModelLoadError("unknown architecture")}
    with pytest.raises(ModelLoadError, match="unknown architecture"):
        await workers.open([OPENVINO_F32])
    assert len(workers.started) == 1


async def test_a_crash_of_another_engine_falls_back_however_long_it_worked() -> None:
    workers = FakeWorkers(automatic=False)
    supervisor = await workers.open(WITH_OPENVINO)
    supervisor.mark_healthy()
    await compute_and_die(workers)
    await supervisor.revive(workers.current)
    assert workers.current.backend == "llama"
    supervisor.mark_healthy()
    await compute_and_die(workers)
    await supervisor.revive(workers.current)
    assert workers.current.backend == "llama"


async def test_the_progress_of_a_load_is_traced(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(TRACE, "embedd")
    await FakeWorkers().open()
    shares = [vars(record).get("share") for record in caplog.records]
    assert shares == [0.0, 1.0]


async def test_every_load_asks_for_the_comparison_of_vectors() -> None:
    """The worker knows that llama.cpp need not be compared with itself."""
    workers = FakeWorkers()
    workers.faults = {"openvino-f32": WorkerDiedError("SIGSEGV")}
    await workers.open(WITH_OPENVINO)
    assert [worker.crosscheck for worker in workers.started] == [True, True]


async def test_what_was_measured_on_one_engine_is_not_used_on_another() -> None:
    workers = FakeWorkers()
    workers.tuning = Tuning(replicas=2, batch_tokens=1024)
    workers.faults = {"openvino-f32": WorkerDiedError("SIGSEGV")}
    await workers.open(WITH_OPENVINO)
    assert [worker.tuning for worker in workers.started] == [
        Tuning(replicas=2, batch_tokens=1024),
        Tuning(replicas=2, batch_tokens=None),
    ]


# Causes from outside: no fault of a backend

KILL = WorkerDiedError("SIGKILL", DeathReason.KILLED)


async def test_a_kill_from_outside_in_the_first_batch_costs_no_backend() -> None:
    workers = FakeWorkers(automatic=False)
    supervisor = await workers.open(WITH_OPENVINO)
    for _ in range(10):
        batch = asyncio.create_task(workers.current.encode([to_ids(1)], None))
        await settle()
        workers.current.die(from_outside=True)
        with pytest.raises(WorkerDiedError):
            await batch
        await supervisor.revive(workers.current)
    assert workers.current.backend == "openvino-f32"
    assert supervisor.unhealthy_reason is None
    assert workers.delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert max(workers.delays) == 5.0


async def test_a_kill_during_a_load_uses_up_no_backend() -> None:
    workers = FakeWorkers()
    workers.faults = {"openvino-f32": KILL}
    loading = asyncio.create_task(workers.make(WITH_OPENVINO).load())
    while len(workers.started) < MAX_KILLS - 1:
        await asyncio.sleep(0)
    workers.faults = {}
    await loading
    assert {worker.backend for worker in workers.started} == {"openvino-f32"}


async def test_a_load_that_is_killed_again_and_again_is_tried_again_by_the_next_request() -> None:
    workers = FakeWorkers()
    supervisor = await workers.open()
    dead = workers.current
    dead.die(computing=False)
    workers.faults = {"llama": KILL}
    with pytest.raises(WorkerUnavailableError, match="SIGKILL, 5 times while it loaded"):
        await supervisor.revive(dead)
    assert supervisor.unhealthy_reason is None
    workers.faults = {}
    await supervisor.revive(dead)
    assert workers.current.backend == "llama"


async def test_a_worker_that_is_killed_for_memory_while_it_loads_costs_no_llama_backend() -> None:
    workers = FakeWorkers()
    workers.faults = {"llama": WorkerDiedError("out of memory", DeathReason.MEMORY)}
    with pytest.raises(InsufficientMemoryError, match="out of memory"):
        await workers.open()
    assert len(workers.started) == 1


async def test_cores_that_change_during_a_restart_reach_the_new_worker() -> None:
    workers = FakeWorkers()
    supervisor = await workers.open()
    dead = workers.current
    dead.die(computing=False)
    workers.may_load.clear()
    reviving = asyncio.create_task(supervisor.revive(dead))
    await settle()
    await supervisor.set_cores(7)
    workers.may_load.set()
    await reviving
    assert workers.current is not dead
    assert workers.current.cores == 7


async def test_later_callers_get_the_kind_of_error_that_the_restart_failed_with() -> None:
    workers = FakeWorkers()
    supervisor = await workers.open()
    dead = workers.current
    dead.die(computing=False)
    workers.faults = {"llama": LoadTimeoutError("slow")}
    for _ in range(2):
        with pytest.raises(LoadTimeoutError, match="slow"):
            await supervisor.revive(dead)


# The return to the first backend


async def lose_openvino(workers: FakeWorkers) -> Supervisor:
    """A model that fell back to llama.cpp because a batch crashed."""
    supervisor = await workers.open(WITH_OPENVINO)
    await compute_and_die(workers)
    await supervisor.revive(workers.current)
    assert workers.current.backend == "llama"
    return supervisor


async def test_a_degraded_model_returns_to_its_first_backend_after_a_quiet_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "embedd")
    workers = FakeWorkers(automatic=False)
    supervisor = await lose_openvino(workers)
    workers.clock.advance(QUIET / 2)
    supervisor.mark_healthy()
    workers.current.die(from_outside=True)
    await supervisor.revive(workers.current)
    workers.clock.advance(QUIET - 1)
    await settle()
    assert workers.current.backend == "llama", "the minute begins with the last death"
    workers.clock.advance(1)
    await settle()
    assert supervisor.worker is workers.current
    assert workers.current.backend == "openvino-f32"
    assert [worker.death is None for worker in workers.started] == [False, False, False, True]
    assert "model returned to an earlier backend" in caplog.text
    workers.clock.advance(10 * QUIET)
    await settle()
    assert len(workers.started) == 4


async def test_each_return_waits_twice_as_long_as_the_one_before() -> None:
    workers = FakeWorkers(automatic=False)
    supervisor = await lose_openvino(workers)
    for quiet in (QUIET, 2 * QUIET, 4 * QUIET):
        workers.clock.advance(quiet - 1)
        await settle()
        assert workers.current.backend == "llama"
        workers.clock.advance(1)
        await settle()
        assert workers.current.backend == "openvino-f32"
        await compute_and_die(workers)
        await supervisor.revive(workers.current)
    for _ in range(10):
        workers.clock.advance(LONGEST_QUIET)
        await settle()
        assert workers.current.backend == "openvino-f32"
        await compute_and_die(workers)
        await supervisor.revive(workers.current)


@pytest.mark.parametrize(
    ("error", "returns"),
    [
        (InsufficientMemoryError("full"), True),
        (SelfTestError("NaN"), False),
        (ModelLoadError("unknown"), False),
        (WorkerDiedError("SIGILL"), False),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_only_what_may_pass_is_tried_again(error: EmbeddError, returns: bool) -> None:
    workers = FakeWorkers()
    workers.faults = {"openvino-f32": error}
    await workers.open(WITH_OPENVINO)
    workers.faults = {}
    workers.clock.advance(QUIET)
    await settle()
    assert workers.current.backend == ("openvino-f32" if returns else "llama")


async def test_a_return_that_fails_ends_on_the_fallback() -> None:
    workers = FakeWorkers(automatic=False)
    supervisor = await lose_openvino(workers)
    workers.faults = {"openvino-f32": SelfTestError("NaN")}
    workers.clock.advance(QUIET)
    await settle()
    assert supervisor.info.backend == "llama"
    assert supervisor.unhealthy_reason is None


async def test_calls_during_a_return_wait_for_the_next_worker() -> None:
    workers = FakeWorkers(automatic=False)
    supervisor = await lose_openvino(workers)
    old = workers.current
    workers.may_load.clear()
    workers.clock.advance(QUIET)
    await settle()
    with pytest.raises(WorkerDiedError):
        await old.encode([to_ids(1)], None)
    waiting = asyncio.create_task(supervisor.revive(old))
    await settle()
    assert not waiting.done()
    workers.may_load.set()
    await waiting
    assert supervisor.info.backend == "openvino-f32"


async def test_a_model_that_is_closed_does_not_return() -> None:
    workers = FakeWorkers(automatic=False)
    supervisor = await lose_openvino(workers)
    await supervisor.close()
    workers.clock.advance(QUIET)
    await settle()
    assert all(worker.closed for worker in workers.started[1:])
    assert len(workers.started) == 2


async def test_how_far_a_fallback_is_from_the_first_backend_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    workers = FakeWorkers(automatic=False)
    workers.samples = {
        "openvino-f32": np.array([1, 0], np.float32),
        "llama": np.array([1, 1], np.float32),
    }
    await lose_openvino(workers)
    [said] = [one for one in caplog.records if "fallback" in one.message]
    facts = vars(said)
    assert said.levelname == "WARNING"
    assert (facts["backend"], facts["first_backend"]) == ("llama", "openvino-f32")
    assert facts["difference"] == "2.9e-01"


def test_vectors_differ_by_their_angle_and_scores_by_their_share() -> None:
    a, b = np.array([3, 0], np.float32), np.array([0, 5], np.float32)
    assert measure_difference(a, 2 * a, Pooling.MEAN) == pytest.approx(0)
    assert measure_difference(a, b, Pooling.MEAN) == pytest.approx(1)
    assert measure_difference(a, b, Pooling.RANK) == pytest.approx(5 / 3)
    assert measure_difference(a, b[:1], Pooling.MEAN) == np.inf
