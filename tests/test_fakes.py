"""The test doubles keep what they promise."""

import asyncio

import pytest

from tests import fakes
from tests.fakes import Clock, settle


async def hop(times: int, done: list[int]) -> None:
    for _ in range(times):
        await asyncio.sleep(0)
    done.append(times)


@pytest.mark.parametrize("turns", [0, 1, 30, 31, 1000])
async def test_settling_takes_as_many_turns_of_the_loop_as_are_needed(turns: int) -> None:
    done: list[int] = []
    task = asyncio.create_task(hop(turns, done))
    await settle()
    assert done == [turns]
    await task


async def test_settling_follows_tasks_that_wake_each_other() -> None:
    """A chain of a hundred tasks, of which each starts the next when it ends."""
    ended: list[int] = []

    async def start_next(left: int) -> None:
        await asyncio.sleep(0)
        if left:
            await asyncio.create_task(start_next(left - 1))
        ended.append(left)

    task = asyncio.create_task(start_next(100))
    await settle()
    assert ended == list(range(101))
    await task


async def test_settling_does_not_wait_for_time_or_events() -> None:
    event = asyncio.Event()
    tasks = [asyncio.create_task(one) for one in (asyncio.sleep(60), event.wait())]
    await settle()
    assert not any(task.done() for task in tasks)
    event.set()
    await settle()
    assert [task.done() for task in tasks] == [False, True]
    tasks[0].cancel()
    await asyncio.wait(tasks)


async def test_settling_fails_if_a_task_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes, "MOST_TURNS", 50)
    task = asyncio.create_task(hop(100, []))
    with pytest.raises(AssertionError, match="never waits"):
        await settle()
    await task


async def test_a_sleep_ends_when_the_clock_was_moved_on() -> None:
    clock = Clock()
    tasks = [asyncio.create_task(clock.sleep(seconds)) for seconds in (5, 3)]
    await settle()
    clock.advance_to_next()
    await settle()
    assert [task.done() for task in tasks] == [False, True]
    clock.advance_to_next()
    assert clock.now == 1005
    await asyncio.gather(*tasks)
