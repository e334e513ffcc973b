"""The queue of a model: batches over all requests, admission, faults, leaving, the end."""

import asyncio
import math
import random
import sys
import time
from collections.abc import Callable
from types import FrameType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedd.engine.backends import LLAMA_BACKENDS
from embedd.engine.host.errors import WorkerDiedError
from embedd.engine.serving.cores import CoreBudget
from embedd.engine.serving.quarantine import Quarantine
from embedd.engine.serving.queue import (
    MAX_DEATHS_OF_AN_INPUT,
    MAX_INTERRUPTIONS,
    BatchQueue,
    Job,
)
from embedd.errors import (
    DeadlineError,
    EmbeddError,
    EngineError,
    ModelLoadError,
    OverloadedError,
    ShuttingDownError,
    WorkerUnavailableError,
)
from embedd.types import EmbedResult, Pooling, Priority, Schedule, TokenIds
from tests.fakes import Clock, settle
from tests.unit.engine.fake_worker import (
    KILLS,
    MAX_BATCH_TOKENS,
    MAX_SEQUENCES,
    REFUSED,
    REFUSED_UNNAMED,
    STUCK,
    FakeWorkers,
    expected_vectors,
    to_ids,
)


async def open_queue(
    workers: FakeWorkers,
    *,
    max_wait: float = math.inf,
    quarantine: Quarantine | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> BatchQueue:
    return BatchQueue(
        await workers.open(),
        cores=CoreBudget(1),
        metrics=workers.metrics.of_model("a"),
        max_wait=max_wait,
        quarantine=quarantine,
        clock=clock,
    )


async def ask(
    queue: BatchQueue,
    *sequences: TokenIds,
    pooling: Pooling | None = None,
    schedule: Schedule = Schedule(),  # noqa: B008 - a frozen value
) -> asyncio.Task[EmbedResult]:
    """A request comes."""
    task = asyncio.create_task(queue.embed(sequences, pooling, schedule))
    await settle()
    return task


async def finish(workers: FakeWorkers, batches: int = 1) -> None:
    """The worker computes so many batches."""
    for _ in range(batches):
        workers.current.compute()
        await settle()


async def die_with(workers: FakeWorkers, *, started: bool) -> None:
    """The worker dies, of another batch than its first, which had begun or not."""
    batch = workers.current.batches.pop(0)
    workers.current.die()
    death = workers.current.death
    assert death is not None
    batch.answer.set_exception(WorkerDiedError(str(death), started=started))
    await settle()


FULL = to_ids(*range(1, MAX_BATCH_TOKENS + 1))  # a batch of its own
SEQUENCES = st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=12), min_size=1, max_size=8)
REQUESTS = st.lists(
    st.tuples(SEQUENCES, st.sampled_from([None, Pooling.CLS, Pooling.NONE])), max_size=8
)
FAULTS = st.sampled_from([KILLS, REFUSED, REFUSED_UNNAMED])


@given(requests=REQUESTS)
@settings(deadline=None, max_examples=40)
def test_every_request_gets_the_vectors_of_its_own_sequences_in_order(
    requests: list[tuple[list[list[int]], Pooling | None]],
) -> None:
    async def check() -> None:
        workers = FakeWorkers()
        queue = await open_queue(workers)
        asked = [([to_ids(*ids) for ids in sequences], kind) for sequences, kind in requests]
        outcomes = await asyncio.gather(*(queue.embed(ids, kind) for ids, kind in asked))
        for (sequences, pooling), outcome in zip(asked, outcomes, strict=True):
            assert np.array_equal(outcome.vectors, expected_vectors(sequences, pooling))
            assert outcome.timings.queue >= 0
            assert outcome.timings.compute >= 0
        assert queue.waiting_tokens == 0
        assert all(size <= MAX_SEQUENCES for size in workers.computed)

    asyncio.run(check())


@given(
    requests=st.lists(SEQUENCES, min_size=1, max_size=8),
    faults=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), FAULTS), max_size=2),
)
@settings(deadline=None, max_examples=40)
def test_only_the_request_with_a_bad_input_fails_and_its_input_is_named(
    requests: list[list[list[int]]], faults: list[tuple[int, int, int]]
) -> None:
    """Whatever is batched with it: two killing inputs at most, more end the model."""
    bad: dict[int, set[int]] = {}
    for at, row, fault in faults:
        request = requests[at % len(requests)]
        request[row % len(request)] = [fault]
        bad.setdefault(at % len(requests), set()).add(row % len(request))

    async def check() -> None:
        queue = await open_queue(FakeWorkers())
        asked = [[to_ids(*ids) for ids in sequences] for sequences in requests]
        outcomes = await asyncio.gather(
            *(queue.embed(sequences, None) for sequences in asked), return_exceptions=True
        )
        for at, (sequences, outcome) in enumerate(zip(asked, outcomes, strict=True)):
            if at in bad:
                assert isinstance(outcome, EngineError), outcome
                assert outcome.index in bad[at]
                assert str(outcome).endswith(f"(input {outcome.index})")
            else:
                assert isinstance(outcome, EmbedResult), outcome
                assert np.array_equal(outcome.vectors, expected_vectors(sequences))
        assert queue.waiting_tokens == 0

    asyncio.run(check())


async def test_sequences_of_all_requests_share_a_batch() -> None:
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers)
    first = [await ask(queue, FULL) for _ in range(2)]  # both places in flight are taken
    tasks = [await ask(queue, to_ids(2, 3)) for _ in range(3)]
    await finish(workers)
    assert [len(batch.sequences) for batch in workers.current.batches] == [1, 3]
    await finish(workers, 2)
    for task in first + tasks:
        await task


async def test_requests_that_arrive_together_share_a_batch() -> None:
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers)
    tasks = [asyncio.create_task(queue.embed([to_ids(one)], None)) for one in range(1, 4)]
    await settle()
    assert [len(batch.sequences) for batch in workers.current.batches] == [3]
    await finish(workers)
    await asyncio.gather(*tasks)


async def test_small_requests_need_no_place_of_their_own() -> None:
    """The worker computes them together, as many as have come by then."""
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers)
    tasks = [await ask(queue, to_ids(1, 2, 3)) for _ in range(6)]
    assert [len(batch.sequences) for batch in workers.current.batches] == [1] * 5
    assert queue.waiting_tokens == 3
    await finish(workers, 6)
    await asyncio.gather(*tasks)


async def test_one_batch_is_computed_and_the_next_is_ready_in_the_worker() -> None:
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers)
    task = await ask(queue, *[to_ids(*range(1, MAX_BATCH_TOKENS + 1))] * 5)
    assert len(workers.current.batches) == 2
    assert queue.waiting_tokens == 3 * MAX_BATCH_TOKENS
    await finish(workers, 5)
    await task
    assert queue.waiting_tokens == 0


async def test_a_request_without_sequences_has_no_vectors() -> None:
    queue = await open_queue(FakeWorkers())
    assert (await queue.embed([], None)).vectors.shape == (0, 2)


# Admission


async def test_a_request_is_refused_whole_if_it_would_wait_too_long() -> None:
    """At the rate that is assumed before anything was measured: 1,000 tokens a second."""
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers, max_wait=0.02)
    tasks = [await ask(queue, FULL) for _ in range(2)]  # computed first: 16 tokens
    tasks.append(await ask(queue, *[to_ids(1)] * 4))
    tasks.append(await ask(queue, to_ids(1, 2)))
    refused = await ask(queue, to_ids(1, 2), to_ids(1, 2, 3))
    with pytest.raises(OverloadedError, match=r"22 tokens .* limit is 0.02 s .EMBEDD_MAX_WAIT."):
        await refused
    assert queue.waiting_tokens == 6
    await finish(workers, 4)
    await asyncio.gather(*tasks)


async def test_an_idle_model_admits_a_request_of_any_size() -> None:
    queue = await open_queue(FakeWorkers(), max_wait=0.001)
    sequences = [to_ids(1, 2, 3)] * 50
    assert len((await queue.embed(sequences, None)).vectors) == 50


async def test_a_short_query_is_admitted_beside_a_large_request_that_refuses_its_like() -> None:
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers, max_wait=0.1)
    large = await ask(queue, *[FULL] * 20)
    like = await ask(queue, *[FULL] * 20)
    assert isinstance(like.exception(), OverloadedError)
    query = await ask(queue, to_ids(5))
    await finish(workers, 3)
    assert (await query).vectors.tolist() == [[5, 1]]
    await finish(workers, 18)
    await large


async def test_the_measured_rate_decides_and_retry_after_is_what_it_is_too_long() -> None:
    clock = Clock()
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers, max_wait=30, clock=clock.time)
    tasks = [await ask(queue, FULL) for _ in range(8)]
    for _ in range(2):  # eight tokens in two seconds
        clock.advance(2)
        await finish(workers)
    tasks += [await ask(queue, FULL) for _ in range(10)]  # 48 tokens, 12 s, and more
    assert sum(task.done() and isinstance(task.exception(), OverloadedError) for task in tasks) == 0
    tasks += [await ask(queue, FULL) for _ in range(10)]
    refused = [task for task in tasks if task.done() and task.exception() is not None]
    assert len(tasks) - len(refused) == 18
    error = refused[-1].exception()
    assert isinstance(error, OverloadedError)
    assert error.retry_after == 2  # 128 tokens at 4 a second
    await finish(workers, 16)
    await asyncio.gather(*(task for task in tasks if task not in refused))


# Deadlines and priorities


async def test_a_request_that_would_wait_beyond_its_deadline_is_refused_at_once() -> None:
    clock = Clock()
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers, clock=clock.time)
    tasks = [await ask(queue, FULL) for _ in range(4)]
    late = await ask(queue, to_ids(1), schedule=Schedule(deadline=clock.now + 0.03))
    with pytest.raises(DeadlineError, match="ends before the queue"):
        await late
    in_time = await ask(queue, to_ids(1), schedule=Schedule(deadline=clock.now + 0.04))
    await finish(workers, 5)
    await asyncio.gather(*tasks, in_time)


async def test_a_request_waits_for_a_restart_as_long_as_the_last_load_took() -> None:
    clock = Clock()
    workers = FakeWorkers(automatic=False)
    workers.may_load.clear()
    opening = asyncio.create_task(open_queue(workers, clock=clock.time))
    await settle()
    workers.now += 3
    workers.may_load.set()
    queue = await opening
    waiting = await ask(queue, FULL)
    workers.may_load.clear()
    workers.current.die(from_outside=True)
    await settle()
    soon = Schedule(deadline=clock.now + 2)
    with pytest.raises(DeadlineError, match="ends before the queue"):
        await (await ask(queue, to_ids(1), schedule=soon))
    workers.now += 2
    later = await ask(queue, to_ids(1), schedule=soon)
    workers.may_load.set()
    await settle()
    await finish(workers, 2)
    await asyncio.gather(waiting, later)


async def test_what_cannot_meet_its_deadline_is_not_computed() -> None:
    clock = Clock()
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers, clock=clock.time)
    tasks = [await ask(queue, FULL) for _ in range(3)]
    late = await ask(queue, to_ids(9), schedule=Schedule(deadline=clock.now + 1))
    clock.advance(2)
    await finish(workers, 3)
    with pytest.raises(DeadlineError, match="has passed"):
        await late
    await asyncio.gather(*tasks)
    assert workers.computed == [1, 1, 1]
    assert queue.waiting_tokens == 0


async def test_a_bulk_request_yields_to_those_that_come_after_it() -> None:
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers)
    tasks = [await ask(queue, FULL) for _ in range(2)]
    tasks.append(await ask(queue, *[FULL] * 2, schedule=Schedule(priority=Priority.BULK)))
    tasks.append(await ask(queue, to_ids(7)))
    await finish(workers)
    assert workers.current.batches[-1].sequences[0].tolist() == [7]
    await finish(workers, 4)
    await asyncio.gather(*tasks)


async def test_of_a_thousand_equal_requests_half_are_done_after_half_of_the_batches() -> None:
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers)
    tasks = [asyncio.create_task(queue.embed([FULL, FULL], None)) for _ in range(1000)]
    await settle()
    await finish(workers, 1000)
    assert 495 <= sum(task.done() for task in tasks) <= 505
    await finish(workers, 1000)
    await asyncio.gather(*tasks)


# Leaving


async def test_a_request_that_leaves_is_out_of_the_queue_at_once() -> None:
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers)
    running = [await ask(queue, FULL) for _ in range(2)]
    leaving, staying = await ask(queue, to_ids(7), to_ids(8)), await ask(queue, to_ids(9))
    leaving.cancel()
    await settle()
    assert queue.waiting_tokens == 1
    await finish(workers, 3)
    assert sum(workers.computed) == 3
    for task in [*running, staying]:
        await task


async def test_nothing_is_computed_for_a_client_that_left() -> None:
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers)
    task = await ask(queue, *[to_ids(1)] * 10_000)
    await finish(workers)
    task.cancel()
    await settle()
    assert queue.waiting_tokens == 0
    assert workers.current.batches == []
    await finish(workers, 5)
    assert len(workers.computed) == 1


async def test_a_batch_goes_on_while_any_client_waits_for_it() -> None:
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers)
    running = [await ask(queue, FULL) for _ in range(2)]
    leaving, staying = await ask(queue, to_ids(7)), await ask(queue, to_ids(8))
    await finish(workers)
    [shared] = workers.current.batches[1:]
    leaving.cancel()
    await settle()
    assert shared in workers.current.batches
    assert [ids.tolist() for ids in shared.sequences] == [[7], [8]]
    await finish(workers, 2)
    assert (await staying).vectors.tolist() == [[8, 1]]
    await asyncio.gather(*running)


async def test_places_of_clients_that_left_are_taken_at_once() -> None:
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers)
    leaving = [await ask(queue, FULL) for _ in range(2)]
    staying = await ask(queue, to_ids(9))
    assert queue.waiting_tokens == 1
    for task in leaving:
        task.cancel()
    await settle()
    assert [batch.sequences[0].tolist() for batch in workers.current.batches] == [[9]]
    await finish(workers)
    assert (await staying).vectors.tolist() == [[9, 1]]


async def test_batches_of_a_request_that_failed_are_not_computed() -> None:
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers)
    task = await ask(queue, to_ids(REFUSED), FULL, FULL)
    await finish(workers)
    with pytest.raises(EngineError, match="bad vector"):
        await task
    await settle()
    assert workers.current.batches == []


async def count_calls_when_all_leave(clients: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Calls that are made, and jobs that are compared, while so many clients leave."""
    queue = await open_queue(FakeWorkers(automatic=False), max_wait=math.inf)
    tasks = [asyncio.create_task(queue.embed([to_ids(1)], None)) for _ in range(clients)]
    await settle()
    count = 0

    def see_call(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    # A search through a list compares in C: so that it is seen, Python compares.
    monkeypatch.setattr(Job, "__eq__", lambda one, other: one is other)
    before = sys.getprofile()
    sys.setprofile(see_call)
    try:
        for task in reversed(tasks):
            task.cancel()
        await asyncio.wait(tasks)
    finally:
        sys.setprofile(before)
    assert queue.waiting_tokens == 0
    return count


async def test_leaving_costs_the_same_however_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the clients take ten times the work, not a hundred times."""
    few = await count_calls_when_all_leave(100, monkeypatch)
    many = await count_calls_when_all_leave(1000, monkeypatch)
    assert few > 100
    assert many < 12 * few


# Deaths


async def test_a_batch_in_flight_is_computed_again_when_the_worker_dies() -> None:
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers)
    tasks = [await ask(queue, to_ids(number)) for number in (1, 2, 3)]
    workers.current.die()
    await settle()
    assert len(workers.started) == 2
    await finish(workers, 3)
    for number, task in enumerate(tasks, 1):
        assert (await task).vectors.tolist() == [[number, 1]]


async def test_a_batch_that_had_not_begun_is_not_suspected() -> None:
    """However often the worker dies before it: it is never split."""
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers)
    task = await ask(queue, to_ids(1), to_ids(2))
    for _ in range(4):
        workers.current.die(computing=False)
        await settle()
    assert [len(batch.sequences) for batch in workers.current.batches] == [2]
    await finish(workers)
    assert len((await task).vectors) == 2


async def test_an_input_that_kills_is_found_by_halving_and_without_delays() -> None:
    workers = FakeWorkers()
    queue = await open_queue(workers)
    queue._supervisor.mark_healthy()
    good = [queue.embed([to_ids(1)], None) for _ in range(3)]
    results = await asyncio.gather(
        *good, queue.embed([to_ids(KILLS)], None), return_exceptions=True
    )
    assert [type(result) for result in results] == [
        EmbedResult,
        EmbedResult,
        EmbedResult,
        EngineError,
    ]
    assert workers.delays == [0.1, 0.2]
    assert len(workers.started) <= 1 + 2 + 2  # two deaths of the batch, one for each half


async def test_an_input_that_killed_a_worker_alone_is_refused_at_once() -> None:
    """Also after the model was loaded again, and beside any other inputs."""
    workers, quarantine = FakeWorkers(), Quarantine()
    queue = await open_queue(workers, quarantine=quarantine)
    queue._supervisor.mark_healthy()
    with pytest.raises(EngineError, match=r"SIGSEGV \(input 1\)"):
        await queue.embed([to_ids(1), to_ids(KILLS)], None)
    died = len(workers.started)
    again = await open_queue(workers, quarantine=quarantine)
    for one in (queue, again):
        with pytest.raises(EngineError, match=r"SIGSEGV \(input 2\)") as caught:
            await one.embed([to_ids(1), to_ids(1), to_ids(KILLS)], None)
        assert caught.value.index == 2
        assert len((await one.embed([to_ids(1)], None)).vectors) == 1
    assert len(workers.started) == died + 1


async def test_an_input_is_not_quarantined_if_another_batch_was_computing_too() -> None:
    workers, quarantine = FakeWorkers(automatic=False), Quarantine()
    queue = await open_queue(workers, quarantine=quarantine)
    queue._supervisor.mark_healthy()
    task = await ask(queue, to_ids(1))
    for _ in range(MAX_DEATHS_OF_AN_INPUT):
        await die_with(workers, started=True)
    with pytest.raises(EngineError, match="SIGSEGV"):
        await task
    assert not quarantine


@pytest.mark.parametrize("started", [False, True])
async def test_an_innocent_suspect_survives_a_death_beside_it(started: bool) -> None:
    """It waited, or another replica computed the input at fault, when the worker died."""
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers)
    queue._supervisor.mark_healthy()
    task = asyncio.create_task(queue.embed([to_ids(1), to_ids(2)], None))
    await settle()
    for _ in range(2):
        await die_with(workers, started=True)  # the batch is split: each half is a suspect
    await die_with(workers, started=started)
    for _ in range(2):
        await finish(workers)
    assert np.array_equal((await task).vectors, expected_vectors([to_ids(1), to_ids(2)]))


async def test_a_batch_that_hangs_is_halved_and_its_input_quarantined() -> None:
    workers, quarantine = FakeWorkers(), Quarantine()
    queue = await open_queue(workers, quarantine=quarantine)
    sequences = [to_ids(1), to_ids(2), to_ids(STUCK), to_ids(3)]
    with pytest.raises(EngineError, match=r"took too long \(input 2\)"):
        await queue.embed(sequences, None)
    assert quarantine.find(to_ids(STUCK), None) == "took too long"
    assert [quarantine.find(ids, None) for ids in sequences[:2]] == [None, None]
    assert len(workers.started) == 1
    assert (await queue.embed(sequences[:2], None)).vectors.tolist() == [[1, 1], [2, 1]]


async def test_out_of_memory_makes_batches_smaller_and_fails_no_input() -> None:
    workers, quarantine = FakeWorkers(), Quarantine()
    workers.memory = MAX_BATCH_TOKENS // 2
    queue = await open_queue(workers, quarantine=quarantine)
    sequences = [to_ids(1, 2)] * 12
    outcome = await queue.embed(sequences, None)
    assert np.array_equal(outcome.vectors, expected_vectors(sequences))
    assert workers.current.backend == LLAMA_BACKENDS[0].name
    assert workers.current.tuning.batch_tokens == MAX_BATCH_TOKENS // 2
    assert not quarantine
    deaths = len(workers.started)
    await queue.embed(sequences, None)
    assert len(workers.started) == deaths


async def test_an_input_that_is_too_large_for_the_memory_fails_alone() -> None:
    workers, quarantine = FakeWorkers(), Quarantine()
    workers.memory = 6
    queue = await open_queue(workers, quarantine=quarantine)
    queue._supervisor.mark_healthy()
    good, bad = await asyncio.gather(
        queue.embed([to_ids(1, 2)], None),
        queue.embed([to_ids(*range(1, 8))], None),
        return_exceptions=True,
    )
    assert isinstance(good, EmbedResult)
    assert isinstance(bad, EngineError)
    assert "out of memory" in str(bad)
    assert not quarantine  # there may be more memory next time


async def test_a_model_that_dies_too_often_fails_all_requests() -> None:
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers)
    tasks = [await ask(queue, to_ids(1)) for _ in range(2)]
    for _ in range(5):
        workers.current.die(computing=False)
        await settle()
    for task in tasks:
        with pytest.raises(ModelLoadError, match="died 5 times"):
            await task


async def test_a_bug_of_ours_leaves_no_request_waiting(caplog: pytest.LogCaptureFixture) -> None:
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers)
    first, second = await ask(queue, to_ids(1)), await ask(queue, to_ids(2))
    workers.current.batches.pop(0).answer.set_exception(ZeroDivisionError())
    await settle()
    with pytest.raises(EngineError, match="internal error"):
        await first
    assert "ZeroDivisionError" in caplog.text
    await finish(workers)
    assert len((await second).vectors) == 1


# The end


async def test_closing_fails_what_waits_and_what_computes() -> None:
    workers = FakeWorkers(automatic=False)
    queue = await open_queue(workers)
    tasks = [await ask(queue, *[to_ids(1, 2, 3, 4, 5, 6, 7, 8)] * 2) for _ in range(4)]
    await queue.close()
    await settle()
    assert queue.waiting_tokens == 0
    for task in tasks:
        assert isinstance(task.exception(), ShuttingDownError)


async def test_closing_an_idle_queue_is_fine_and_later_requests_fail() -> None:
    workers = FakeWorkers()
    queue = await open_queue(workers)
    await queue.close()
    await queue._supervisor.close()
    with pytest.raises(EmbeddError):
        await queue.embed([to_ids(1)], None)


async def test_requests_after_the_end_are_refused() -> None:
    queue = await open_queue(FakeWorkers())
    await queue.close()
    with pytest.raises(ShuttingDownError):
        await queue.embed([to_ids(1)], None)


async def test_kills_from_outside_are_the_fault_of_no_input_and_fail_no_request() -> None:
    workers, quarantine = FakeWorkers(automatic=False), Quarantine()
    queue = await open_queue(workers, quarantine=quarantine)
    task = await ask(queue, to_ids(1))
    for _ in range(MAX_INTERRUPTIONS - 1):
        workers.current.die(from_outside=True)
        await settle()
    await finish(workers)
    assert (await task).vectors.tolist() == [[1, 1]]
    assert not quarantine
    assert workers.current.backend == LLAMA_BACKENDS[0].name


async def test_a_batch_that_is_killed_from_outside_again_and_again_may_be_sent_again() -> None:
    workers, quarantine = FakeWorkers(automatic=False), Quarantine()
    queue = await open_queue(workers, quarantine=quarantine)
    task = await ask(queue, to_ids(1))
    for _ in range(MAX_INTERRUPTIONS):
        workers.current.die(from_outside=True)
        await settle()
    with pytest.raises(WorkerUnavailableError, match=r"SIGKILL, 5 times .*: try again later"):
        await task
    assert not quarantine
    again = await ask(queue, to_ids(1))
    await finish(workers)
    assert (await again).vectors.tolist() == [[1, 1]]


@given(seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=20)
def test_kills_at_random_moments_mark_no_input_and_cost_no_answer(seed: int) -> None:
    """Fifteen kills, in a load, in a batch or between two, each before the fifth of one batch."""
    chosen = random.Random(seed)

    async def check() -> None:
        workers = FakeWorkers(automatic=False)
        quarantine = Quarantine()
        queue = await open_queue(workers, quarantine=quarantine)
        sequences = [to_ids(*range(100 + row, 108 + row)) for row in range(30)]
        requests = [asyncio.create_task(queue.embed([ids], None)) for ids in sequences]
        kills = in_a_row = 0
        while not all(request.done() for request in requests):
            await settle()
            if kills < 15 and in_a_row < MAX_INTERRUPTIONS - 1 and chosen.random() < 0.5:
                workers.current.die(computing=chosen.random() < 0.8, from_outside=True)
                kills, in_a_row = kills + 1, in_a_row + 1
            else:
                workers.current.compute()
                in_a_row = 0
        for ids, request in zip(sequences, requests, strict=True):
            assert np.array_equal((await request).vectors, expected_vectors([ids]))
        assert not quarantine
        assert workers.current.backend == "llama"

    asyncio.run(check())
