"""The watchdog: a batch that takes too long is stopped, a worker that ignores that is killed."""

import asyncio
from typing import cast

import pytest

from embedd.engine.host.watchdog import (
    INTERVAL,
    MIN_TIMEOUT,
    STOP_TIMEOUT,
    TIMEOUT_FACTOR,
    Watchdog,
)
from tests.fakes import Clock


class Watched:
    """A watchdog, the worker that it watches, and a clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.begun: set[int] = set()
        self.aborted: list[int] = []
        self.kills = 0
        self.dog = Watchdog(
            has_begun=self.begun.__contains__,
            abort=self.aborted.append,
            kill=self._kill,
            loop=cast("asyncio.AbstractEventLoop", self.clock),
        )

    def _kill(self) -> None:
        self.kills += 1

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds / INTERVAL)):
            self.clock.advance(INTERVAL)


@pytest.fixture
async def watched() -> Watched:
    return Watched()


async def test_a_batch_that_takes_too_long_is_stopped_and_then_the_worker_ended(
    watched: Watched,
) -> None:
    watched.dog.watch(1, 100)
    watched.begun.add(1)
    watched.wait(MIN_TIMEOUT)
    assert watched.aborted == []
    watched.wait(INTERVAL)
    assert (watched.aborted, watched.kills) == ([1], 0)
    watched.wait(STOP_TIMEOUT)
    assert (watched.aborted, watched.kills) == ([1], 1)
    assert watched.dog.killed
    watched.wait(10)
    assert watched.kills == 1


async def test_a_worker_that_stops_the_batch_is_not_killed(watched: Watched) -> None:
    watched.dog.watch(1, 100)
    watched.begun.add(1)
    watched.wait(MIN_TIMEOUT + INTERVAL)
    assert watched.aborted == [1]
    watched.dog.forget(1)
    watched.wait(10)
    assert not watched.dog.killed


async def test_waiting_for_a_place_is_not_computing(watched: Watched) -> None:
    watched.dog.watch(1, 100)
    watched.wait(100)
    assert watched.aborted == []


async def test_a_slow_model_has_more_time(watched: Watched) -> None:
    """By the self-test at first, then by what its batches really took."""
    watched.dog.learn(1.0, 0.05)
    assert watched.dog.timeout(1000) == pytest.approx(TIMEOUT_FACTOR * 50)
    for _ in range(100):
        watched.dog.learn(1000, 10.0)
    assert watched.dog.timeout(1000) == pytest.approx(TIMEOUT_FACTOR * 10, rel=0.01)
    assert watched.dog.timeout(1) == MIN_TIMEOUT
    watched.dog.watch(1, 1000)
    watched.begun.add(1)
    watched.wait(TIMEOUT_FACTOR * 10 - 10)
    assert watched.aborted == []
    watched.wait(20)
    assert watched.aborted == [1]


async def test_one_tiny_batch_that_stalled_says_little_of_large_ones(watched: Watched) -> None:
    watched.dog.learn(1000, 1.0)
    watched.dog.learn(8, 0.5)
    assert watched.dog.timeout(1000) < TIMEOUT_FACTOR * 2


async def test_without_batches_no_timer_runs(watched: Watched) -> None:
    watched.dog.watch(1, 1)
    watched.dog.forget(1)
    watched.wait(2)
    assert watched.dog._timer is None
    watched.dog.watch(2, 1)
    watched.begun.add(2)
    watched.wait(MIN_TIMEOUT + 2)
    assert watched.aborted == [2]
    watched.dog.close()
    watched.wait(10)
    assert watched.kills == 0
