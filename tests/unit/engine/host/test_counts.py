"""What a model's queue and supervisor count: each event, and nothing besides."""

import asyncio
import math
from dataclasses import replace

import pytest

from embedd.engine.backends import LLAMA_BACKENDS, OPENVINO_F32
from embedd.engine.host.errors import SelfTestError, WorkerDiedError
from embedd.engine.host.supervisor import Supervisor
from embedd.engine.serving.cores import CoreBudget
from embedd.engine.serving.queue import BatchQueue
from embedd.engine.settings import Tuning
from embedd.errors import ModelLoadError, OverloadedError
from embedd.metrics import DeathReason
from tests.exposition import Samples, moved, read
from tests.fakes import settle
from tests.unit.engine.fake_worker import SPEC, STUCK, FakeWorkers, to_ids
from tests.unit.engine.serving.test_queue import FULL, ask, finish, open_queue


def counts(workers: FakeWorkers) -> Samples:
    """What has moved, but for what every batch counts."""
    usual = ("embedd_engine_", "embedd_batch_")
    return {
        name: value
        for name, value in moved({}, read(workers.metrics)).items()
        if not name.startswith(usual)
    }


# The queue


async def test_requests_wait_until_a_batch_has_taken_all_of_them() -> None:
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers)
    assert queue.waiting_requests == 0
    tasks = [await ask(queue, FULL), await ask(queue, FULL)]
    assert queue.waiting_requests == 0, "both lie in the worker"
    tasks += [await ask(queue, FULL, FULL), await ask(queue, to_ids(1))]
    assert queue.waiting_requests == 2
    tasks[2].cancel()
    await settle()
    assert queue.waiting_requests == 1
    await finish(workers, 3)
    assert queue.waiting_requests == 0
    await asyncio.wait(tasks)


async def test_batches_whose_clients_left_are_aborted_once_each() -> None:
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers)
    first = await ask(queue, FULL, FULL, FULL)
    assert len(workers.current.batches) == 2
    first.cancel()
    second = await ask(queue, FULL)
    assert counts(workers) == {"embedd_aborted_batches_total{model=a}": 2}
    await finish(workers)
    await second
    assert counts(workers) == {"embedd_aborted_batches_total{model=a}": 2}


async def test_two_clients_that_leave_a_common_batch_abort_it_once() -> None:
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers)
    tasks = [asyncio.create_task(queue.embed([to_ids(1)], None)) for _ in range(2)]
    await settle()
    [shared] = workers.current.batches
    assert len(shared.sequences) == 2
    for task in tasks:
        task.cancel()
    await settle()
    assert counts(workers) == {"embedd_aborted_batches_total{model=a}": 1}


async def test_a_client_that_leaves_before_its_batch_aborts_none() -> None:
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers)
    running = [await ask(queue, FULL) for _ in range(2)]
    leaving = await ask(queue, to_ids(7))
    leaving.cancel()
    await finish(workers, 2)
    await asyncio.gather(*running)
    assert counts(workers) == {}


async def test_a_batch_that_was_stopped_by_the_watchdog_is_stuck() -> None:
    workers = FakeWorkers()
    queue = await open_queue(workers)
    with pytest.raises(Exception, match="took too long"):
        await queue.embed([to_ids(STUCK)], None)
    assert counts(workers) == {"embedd_stuck_batches_total{model=a}": 2}, "it is tried twice"


async def test_a_refused_request_is_an_overload_by_its_wait() -> None:
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers, max_wait=0.02)
    tasks = [await ask(queue, FULL) for _ in range(3)]
    with pytest.raises(OverloadedError):
        await queue.embed([to_ids(1)], None)
    assert counts(workers) == {"embedd_overloads_total{model=a,reason=wait}": 1}
    await finish(workers, 3)
    await asyncio.gather(*tasks)


# The supervisor


@pytest.mark.parametrize("reason", DeathReason)
async def test_a_worker_that_died_is_counted_by_how(reason: DeathReason) -> None:
    workers = FakeWorkers()
    supervisor = await workers.open()
    supervisor.mark_healthy()
    dead = workers.current
    dead.death = WorkerDiedError("any", reason)
    await asyncio.gather(*(supervisor.revive(dead) for _ in range(5)))
    assert counts(workers) == {f"embedd_worker_deaths_total{{model=a,reason={reason}}}": 1}


async def test_backends_that_fail_are_counted_and_deaths_of_their_loads() -> None:
    workers = FakeWorkers()
    workers.faults = {
        "openvino-f32": ModelLoadError("unknown architecture"),
        "llama": WorkerDiedError("SIGILL", DeathReason.CRASHED),
        "llama-no-repack": SelfTestError("NaN"),
    }
    await workers.open((OPENVINO_F32, *LLAMA_BACKENDS))
    assert counts(workers) == {
        "embedd_backend_failures_total{backend=openvino-f32,model=a}": 1,
        "embedd_backend_failures_total{backend=llama,model=a}": 1,
        "embedd_backend_failures_total{backend=llama-no-repack,model=a}": 1,
        "embedd_worker_deaths_total{model=a,reason=crashed}": 1,
    }


async def test_a_death_in_the_first_batch_fails_its_backend() -> None:
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers)
    task = await ask(queue, to_ids(1))
    workers.current.die()
    await settle()
    await finish(workers)
    await task
    assert counts(workers) == {
        "embedd_worker_deaths_total{model=a,reason=crashed}": 1,
        "embedd_backend_failures_total{backend=llama,model=a}": 1,
    }


# What a model computes with


async def test_measured_settings_are_distinguished_from_start_values() -> None:
    workers = FakeWorkers()
    assert not (await workers.open()).is_calibrated
    workers.tuning = Tuning(replicas=2, batch_tokens=512, measured=True)
    assert (await workers.open()).is_calibrated
    workers.faults = {"openvino-f32": ModelLoadError("unknown architecture")}
    supervisor = await workers.open((OPENVINO_F32, *LLAMA_BACKENDS))
    assert not supervisor.is_calibrated, "it was measured on another engine"


async def test_cores_are_those_of_the_model_until_they_are_set() -> None:
    workers = FakeWorkers()
    supervisor = Supervisor(
        replace(SPEC, threads=3),
        start=workers.start,
        metrics=workers.metrics.of_model("a"),
        threads=8,
    )
    assert supervisor.cores == 3
    await supervisor.load()
    await supervisor.set_cores(4)
    assert supervisor.cores == workers.current.cores == 4


async def test_a_queue_says_how_many_cores_its_model_has() -> None:
    """Two models that compute share them."""
    shares, queues, tasks = CoreBudget(8), [], []
    for workers in (FakeWorkers(automatic=False), FakeWorkers(automatic=False)):
        supervisor = await workers.open()
        metrics = workers.metrics.of_model("a")
        queue = BatchQueue(supervisor, cores=shares, metrics=metrics, max_wait=math.inf)
        queues.append((workers, supervisor))
        tasks.append(await ask(queue, to_ids(1)))
    assert [supervisor.cores for _, supervisor in queues] == [4, 4]
    for workers, _ in queues:
        await finish(workers)
    await asyncio.gather(*tasks)
