"""Parts that are given to workers, which may be lost at any time."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.bulk.compute import MixedBackendsError
from embedd.bulk.runner import ErrorBudget, ErrorBudgetError
from embedd.errors import EmbeddError, ServiceError
from embedd.ray.dispatch import MOST_FAILED_STARTS, MOST_LOSSES, SPARE, Dispatcher
from embedd.ray.worker import Opened, Outcome
from tests.unit.ray.fake_cluster import (
    LOST,
    MODEL,
    OPENED,
    SERVED_BY,
    FakeWorker,
    FakeWorkers,
    run_all,
)

Report = Callable[[Outcome], None]


def dispatch(
    workers: FakeWorkers,
    parts: int = 20,
    *,
    room: int = 2,
    mixed: bool = False,
    report: Report = lambda _: None,
    stop_after: int | None = None,
) -> list[int]:
    """Run a job of so many parts; return those that are done, in the order of their ends."""
    done: list[int] = []

    async def run() -> None:
        stop = asyncio.Event()

        def note(outcome: Outcome) -> None:
            done.append(outcome.part)
            report(outcome)
            if len(done) == stop_after:
                stop.set()

        dispatcher = Dispatcher(workers.start, room=room, mixed=mixed)
        try:
            assert await dispatcher.open() == (MODEL, SERVED_BY)
            await dispatcher.run(list(range(parts)), "the job", note, stop)
        finally:
            dispatcher.close()

    asyncio.run(asyncio.wait_for(run(), 20))
    assert all(worker.has_ended for worker in workers.started)
    return done


def test_every_part_is_done_once_and_two_at_a_time_by_a_worker() -> None:
    workers = FakeWorkers()
    assert sorted(dispatch(workers)) == list(range(20))
    assert len(workers.begun) == 20
    assert workers.most_in_work == 2


def test_parts_are_begun_in_their_order() -> None:
    workers = FakeWorkers()
    dispatch(workers)
    assert [part for _, part in workers.begun] == list(range(20))


def test_a_job_without_parts_starts_no_more_than_the_first_worker() -> None:
    workers = FakeWorkers()
    assert dispatch(workers, 0) == []
    assert len(workers.started) == 1


def test_the_parts_of_a_lost_worker_are_done_by_others() -> None:
    lost: list[int] = []

    def lose(worker: FakeWorker, part: int) -> Outcome | None:
        if worker.number == 1 and part > 3:
            lost.append(part)
            return None
        return run_all(worker, part)

    workers = FakeWorkers(runs=lose)
    assert sorted(dispatch(workers)) == list(range(20))
    assert lost
    again = Counter(part for _, part in workers.begun)
    assert {part for part, count in again.items() if count > 1} >= set(lost)


@given(st.integers(0, 1 << 32), st.integers(1, 40), st.integers(1, 5))
def test_no_part_is_missing_or_doubled_whichever_workers_are_lost(
    seed: int, parts: int, room: int
) -> None:
    chosen = random.Random(seed)
    losses: Counter[int] = Counter()

    def lose(worker: FakeWorker, part: int) -> Outcome | None:
        # Also the other part of a worker is lost with it.
        if chosen.random() < 0.3 and losses.total() < MOST_LOSSES // 2:
            losses[part] += 1
            return None
        return run_all(worker, part)

    assert sorted(dispatch(FakeWorkers(runs=lose), parts, room=room)) == list(range(parts))


def test_workers_are_started_for_the_room_that_is_there_and_some_wait_for_more() -> None:
    workers = FakeWorkers(opens=lambda number: OPENED if number < 3 else None)
    assert sorted(dispatch(workers, 100, room=3)) == list(range(100))
    assert len(workers.started) == 3 + SPARE


def test_a_waiting_worker_that_gets_a_node_makes_place_for_another() -> None:
    workers = FakeWorkers(opens=lambda number: OPENED if number < 6 else None)
    assert sorted(dispatch(workers, 100, room=1)) == list(range(100))
    assert len(workers.started) == 6 + SPARE
    assert {number for number, _ in workers.begun} == set(range(6))


def test_no_more_workers_are_started_than_have_parts() -> None:
    workers = FakeWorkers()
    dispatch(workers, 4, room=100)
    assert len(workers.started) == 2


def test_a_part_that_fails_ends_the_job_and_names_its_node() -> None:
    workers = FakeWorkers(runs=lambda _, part: Outcome(part=part, host="b", fault="disk full"))
    with pytest.raises(ServiceError, match=r"part [01], on b: disk full"):
        dispatch(workers)


def test_a_part_with_which_workers_are_lost_again_and_again_ends_the_job() -> None:
    workers = FakeWorkers(runs=lambda one, part: None if part == 3 else run_all(one, part))
    with pytest.raises(ServiceError, match=f"{MOST_LOSSES} workers ended with part 3 in work"):
        dispatch(workers)


def test_workers_that_never_start_end_the_job() -> None:
    def open_none(number: int) -> Opened:
        raise LOST

    workers = FakeWorkers(opens=open_none)
    with pytest.raises(ServiceError, match="5 workers ended while they started"):
        dispatch(workers)
    assert len(workers.started) == MOST_FAILED_STARTS


def test_later_workers_that_never_start_end_the_job_too() -> None:
    def open_first(number: int) -> Opened:
        if number:
            raise LOST
        return OPENED

    workers = FakeWorkers(opens=open_first, runs=lambda _, __: None)
    with pytest.raises(ServiceError, match="workers ended"):
        dispatch(workers)


def test_a_first_worker_that_is_lost_while_it_starts_is_replaced() -> None:
    def open_third(number: int) -> Opened:
        if number < 2:
            raise LOST
        return OPENED

    workers = FakeWorkers(opens=open_third)
    assert len(dispatch(workers)) == 20


def test_what_a_node_lacks_is_an_error_that_names_it() -> None:
    workers = FakeWorkers(opens=lambda _: Opened(host="b", fault="has no disk"))
    with pytest.raises(ServiceError, match="b: has no disk"):
        dispatch(workers)


@pytest.mark.parametrize(
    ("other", "kind", "message"),
    [
        (replace(OPENED, host="b", model=replace(MODEL, digest="f" * 12)), ServiceError, "b and a"),
        (replace(OPENED, served_by="other"), MixedBackendsError, "other"),
        (Opened(host="b", fault="has no disk"), ServiceError, "b: has no disk"),
    ],
)
def test_a_worker_with_other_vectors_ends_the_job(
    other: Opened, kind: type[EmbeddError], message: str
) -> None:
    workers = FakeWorkers(opens=lambda number: other if number else OPENED)
    with pytest.raises(kind, match=message):
        dispatch(workers)


def test_workers_of_several_backends_work_together_where_that_is_allowed() -> None:
    other = replace(OPENED, served_by="other")
    workers = FakeWorkers(opens=lambda number: other if number else OPENED)
    assert len(dispatch(workers, mixed=True)) == 20


def test_a_first_worker_that_says_nothing_of_its_model_is_an_error() -> None:
    workers = FakeWorkers(opens=lambda _: Opened(host="b"))
    with pytest.raises(ServiceError, match="does not say"):
        dispatch(workers)


def test_parts_in_work_are_finished_when_the_job_is_to_stop() -> None:
    workers = FakeWorkers(opens=lambda number: OPENED if number < 2 else None)
    done = dispatch(workers, 50, stop_after=5)
    assert len(done) >= 5
    assert sorted(done) == sorted(part for _, part in workers.begun)
    assert len(done) <= 5 + 2 * 2


def test_too_many_errors_end_the_job() -> None:
    budget = ErrorBudget(most=2)
    with pytest.raises(ErrorBudgetError):
        dispatch(FakeWorkers(), report=lambda _: budget.add(1, ["bad"]))


async def test_a_cancelled_job_ends_its_workers() -> None:
    workers = FakeWorkers(opens=lambda number: None if number else OPENED)
    dispatcher = Dispatcher(workers.start, room=1)
    await dispatcher.open()
    never = FakeWorkers(opens=lambda _: None)
    vars(dispatcher)["_start"] = never.start
    begun = asyncio.Event()
    task = asyncio.ensure_future(
        dispatcher.run(range(1000), "the job", lambda _: begun.set(), asyncio.Event())
    )
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    dispatcher.close()
    assert all(worker.has_ended for worker in (*workers.started, *never.started))
