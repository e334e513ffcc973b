"""Requests shared among servers that are busy, away, or different."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from embedd.bulk.compute import MixedBackendsError, Pool
from embedd.errors import InvalidInputError, OverloadedError, UnavailableError
from embedd.types import Arrays
from tests.unit.bulk.jobs import FakeCompute


class Timer:
    """Sleeps at once, and moves its clock by the time that it was asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def fail_with(*errors: Exception) -> FakeCompute:
    """Raises *errors*, one at each request, before it computes."""
    waiting = list(errors)

    def before(_: Sequence[str]) -> None:
        if waiting:
            raise waiting.pop(0)

    return FakeCompute(before=before)


def make_pool(timer: Timer, *computes: FakeCompute, mixed: bool = False) -> Pool:
    return Pool(computes, mixed=mixed, sleep=timer.sleep, clock=lambda: timer.now)


async def test_a_busy_server_is_asked_again_when_it_says() -> None:
    timer = Timer()
    pool = make_pool(timer, fail_with(*[OverloadedError("busy", retry_after=7)] * 3))
    assert (await pool.compute(["a"])).vectors.shape == (1, 4)
    assert timer.slept == [7.0, 7.0, 7.0]
    assert pool.waits == 3


async def test_a_server_that_is_away_is_asked_at_growing_distances_and_not_for_ever() -> None:
    timer = Timer()
    pool = make_pool(timer, fail_with(*[UnavailableError("lost")] * 100))
    with pytest.raises(UnavailableError, match="lost"):
        await pool.compute(["a"])
    assert timer.slept[:6] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0]
    assert 120 < timer.now < 140


async def test_a_pause_of_the_job_is_not_the_servers() -> None:
    timer = Timer()
    pool = make_pool(timer, fail_with(UnavailableError("lost"), OverloadedError("busy")))
    timer.now = 5000.0  # its rows come from a stream that had none
    assert (await pool.compute(["a"])).vectors.shape == (1, 4)
    assert pool.waits == 2


async def test_a_server_that_was_busy_for_long_may_be_away_for_as_long_as_another() -> None:
    timer = Timer()
    busy = [OverloadedError("busy", retry_after=10)] * 30
    pool = make_pool(timer, fail_with(*busy, UnavailableError("lost")))
    assert (await pool.compute(["a"])).vectors.shape == (1, 4)


async def test_another_server_takes_over_at_once() -> None:
    timer = Timer()
    lost, there = fail_with(*[UnavailableError("lost")] * 3), FakeCompute()
    pool = make_pool(timer, lost, there)
    answers = await asyncio.gather(*(pool.compute([str(n)]) for n in range(20)))
    assert len(answers) == 20
    assert sum(len(one.requests) for one in (lost, there)) == 23


async def test_a_server_that_is_away_is_named_once_until_it_answers() -> None:
    timer = Timer()
    said: list[str] = []
    lost = [UnavailableError("lost"), UnavailableError("lost")]
    compute = fail_with(*lost, OverloadedError("busy", retry_after=1))
    pool = Pool([compute], notify=said.append, sleep=timer.sleep, clock=lambda: timer.now)
    await asyncio.gather(pool.compute(["a"]), pool.compute(["b"]))
    assert said == ["lost; trying again, for 120 s if no server answers"]
    assert pool.waits == 3


async def test_each_server_has_two_requests_at_a_time() -> None:
    running = [0, 0]
    most = [0, 0]
    gate = asyncio.Event()

    def make(index: int) -> FakeCompute:
        class Gated(FakeCompute):
            async def __call__(self, texts: Sequence[str]) -> Arrays:
                running[index] += 1
                most[index] = max(most[index], running[index])
                await gate.wait()
                running[index] -= 1
                return await super().__call__(texts)

            __hash__ = FakeCompute.__hash__

        return Gated()

    pool = Pool([make(0), make(1)])
    tasks = [asyncio.create_task(pool.compute([str(n)])) for n in range(9)]
    while sum(running) < 4:
        await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*tasks)
    assert most == [2, 2]


async def test_an_error_of_the_request_is_raised_and_the_server_stays() -> None:
    pool = make_pool(Timer(), fail_with(InvalidInputError("bad")))
    with pytest.raises(InvalidInputError):
        await pool.compute(["a"])
    assert len((await pool.compute(["a"])).vectors) == 1


async def test_a_cancelled_request_gives_its_place_back() -> None:
    gate = asyncio.Event()

    class Gated(FakeCompute):
        async def __call__(self, texts: Sequence[str]) -> Arrays:
            await gate.wait()
            return await super().__call__(texts)

        __hash__ = FakeCompute.__hash__

    pool = Pool([Gated()])
    tasks = [asyncio.create_task(pool.compute(["a"])) for _ in range(2)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    gate.set()
    assert len((await pool.compute(["a"])).vectors) == 1


async def test_vectors_of_two_backends_are_refused_unless_that_is_allowed() -> None:
    one, other = FakeCompute(), FakeCompute(served_by="0123456789ab;engine=other")
    pool = make_pool(Timer(), one, other)
    with pytest.raises(MixedBackendsError, match="--mixed-backends"):
        await asyncio.gather(*(pool.compute(["a"]) for _ in range(4)))
    mixed = make_pool(Timer(), one, other, mixed=True)
    assert len(await asyncio.gather(*(mixed.compute(["a"]) for _ in range(4)))) == 4


async def test_the_backend_of_earlier_parts_counts() -> None:
    pool = Pool([FakeCompute()], served_by="0123456789ab;engine=other")
    with pytest.raises(MixedBackendsError, match="engine=other"):
        await pool.compute(["a"])


async def test_tokens_are_estimated_by_the_answers_so_far() -> None:
    class Wordy(FakeCompute):
        async def __call__(self, texts: Sequence[str]) -> Arrays:
            return Arrays(vectors=np.zeros((len(texts), 4), np.float32), tokens=2000)

        __hash__ = FakeCompute.__hash__

    pool = Pool([Wordy()])
    assert pool.estimate_tokens(1000) == pytest.approx(251)
    await pool.compute(["x" * 1000])
    assert pool.estimate_tokens(1000) == pytest.approx(2000, rel=0.01)
