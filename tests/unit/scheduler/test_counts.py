"""What the scheduler counts: each event under its reason, and nothing besides."""

import asyncio
import math

import pytest

from embedd.errors import (
    EngineError,
    InsufficientMemoryError,
    LoadTimeoutError,
    ModelLoadError,
)
from tests.exposition import moved, read
from tests.fakes import settle
from tests.unit.scheduler.clients import Desk, make_spec

A, B, C = make_spec("a"), make_spec("b"), make_spec("c")


def unloads(**reasons: int) -> dict[str, int]:
    return {
        f"embedd_unloads_total{{model=a,reason={reason}}}": count
        for reason, count in reasons.items()
    }


async def test_a_model_that_stays_or_is_used_counts_nothing() -> None:
    desk = Desk()
    await desk.keep(A)
    await desk.keep(A, 600)
    assert moved({}, read(desk.metrics)) == {}


async def test_a_model_that_was_idle_for_its_time_has_expired() -> None:
    desk = Desk(keep_alive=300)
    await desk.keep(A)
    before = read(desk.metrics)
    await desk.advance(299)
    assert moved(before, read(desk.metrics)) == {}
    await desk.advance(2)
    assert moved(before, read(desk.metrics)) == unloads(expired=1)


async def test_a_keep_alive_of_0_and_a_stop_are_asked_for() -> None:
    desk = Desk()
    await desk.keep(A, 0)
    assert moved({}, read(desk.metrics)) == unloads(asked=1)
    await desk.keep(A)
    await desk.scheduler.unload(A)
    assert moved({}, read(desk.metrics)) == unloads(asked=2)
    busy = await desk.serve(A)
    await desk.scheduler.unload(A)
    assert moved({}, read(desk.metrics)) == unloads(asked=2)
    await busy.leave()
    assert moved({}, read(desk.metrics)) == unloads(asked=3)


@pytest.mark.parametrize("is_busy", [False, True])
async def test_a_model_that_makes_room_is_evicted_once(is_busy: bool) -> None:
    desk = Desk(max_models=1)
    client = await desk.serve(A)
    if not is_busy:
        await client.leave()
    for _ in range(3):
        await desk.ask(B)
    if is_busy:
        assert moved({}, read(desk.metrics)) == {}, "it is still in memory"
        await client.leave()
    assert moved({}, read(desk.metrics)) == unloads(evicted=1)


async def test_a_model_that_is_unloaded_because_memory_ran_out_is_evicted() -> None:
    desk = Desk()
    await desk.keep(A)
    await desk.ask(B)
    await desk.loader.fail("b", InsufficientMemoryError("full"))
    assert moved({}, read(desk.metrics)) == unloads(evicted=1)
    await desk.loader.finish("b")
    assert moved({}, read(desk.metrics)) == unloads(evicted=1), "it was loaded after all"


async def test_an_unhealthy_model_is_unloaded_as_broken_whatever_ends_it() -> None:
    desk = Desk()
    await desk.keep(A)
    desk.loader.models[0].unhealthy_reason = "died too often"
    await desk.serve(A)
    assert moved({}, read(desk.metrics)) == unloads(broken=1)
    desk = Desk(keep_alive=300)
    await desk.keep(A)
    desk.loader.models[0].unhealthy_reason = "died too often"
    await desk.advance(301)
    assert moved({}, read(desk.metrics)) == unloads(broken=1)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InsufficientMemoryError("full"), "memory"),
        (LoadTimeoutError("slow"), "timeout"),
        (ModelLoadError("bad file"), "model"),
        (EngineError("?"), "internal"),
        (ZeroDivisionError(), "internal"),
    ],
)
async def test_a_load_fails_for_a_reason(error: Exception, reason: str) -> None:
    desk = Desk()
    for _ in range(5):
        await desk.ask(A)
    await desk.loader.fail("a", error)
    name = f"embedd_load_failures_total{{model=a,reason={reason}}}"
    assert moved({}, read(desk.metrics)) == {name: 1}


async def test_a_model_that_can_never_fit_has_failed_to_load() -> None:
    desk = Desk(memory=9)
    await desk.ask(A)
    name = "embedd_load_failures_total{model=a,reason=memory}"
    assert moved({}, read(desk.metrics)) == {name: 1}


async def test_a_request_too_many_for_a_load_is_an_overload() -> None:
    desk = Desk(max_queue=1)
    for _ in range(4):
        await desk.ask(A)
    name = "embedd_overloads_total{model=a,reason=loads}"
    assert moved({}, read(desk.metrics)) == {name: 2}


async def test_requests_that_wait_for_a_load_are_counted_by_model() -> None:
    desk = Desk(max_models=1)
    assert desk.scheduler.load_waiters == {}
    await desk.serve(A, math.inf)
    waiting = [await desk.ask(B), await desk.ask(B), await desk.ask(C)]
    assert desk.scheduler.load_waiters == {"b": 2, "c": 1}
    await waiting[0].vanish()
    assert desk.scheduler.load_waiters == {"b": 1, "c": 1}


async def test_a_client_that_leaves_is_counted_wherever_it_waits() -> None:
    desk = Desk()
    name = "embedd_cancelled_requests_total{model=a}"
    await (await desk.ask(A)).vanish()
    assert moved({}, read(desk.metrics)) == {name: 1}
    await desk.loader.finish("a")
    await (await desk.ask(A)).vanish()
    assert moved({}, read(desk.metrics)) == {name: 2}
    await desk.keep(A)
    assert moved({}, read(desk.metrics)) == {name: 2}


async def test_a_request_that_is_ended_at_its_deadline_is_late_and_no_client_that_left() -> None:
    desk = Desk()

    async def wait(deadline: float) -> None:
        async with desk.scheduler.lease(A, deadline=deadline):
            raise AssertionError

    for deadline, name in [
        (-math.inf, "embedd_late_requests_total{model=a}"),
        (math.inf, "embedd_cancelled_requests_total{model=a}"),
    ]:
        before = read(desk.metrics)
        waiting = asyncio.create_task(wait(deadline))
        await settle()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert moved(before, read(desk.metrics)) == {name: 1}


async def test_closing_the_server_counts_as_no_failure() -> None:
    desk = Desk(max_models=1)
    await desk.ask(A)
    await desk.ask(B)
    await desk.scheduler.close()
    assert moved({}, read(desk.metrics)) == {}


async def test_what_the_end_of_the_server_unloads_was_not_asked_for() -> None:
    desk = Desk()
    await desk.serve(A, math.inf)
    before = read(desk.metrics)
    await desk.scheduler.close()
    assert moved(before, read(desk.metrics)) == {"embedd_unloads_total{model=a,reason=shutdown}": 1}
