"""Threads of their own: how many run, how many wait, and for how long."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from embedd.errors import OverloadedError
from embedd.server.http.streams import in_thread
from embedd.server.http.threads import Threads


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opened at the end, so that no thread stays."""
    gate = threading.Event()
    yield gate
    gate.set()


def make_threads(*, size: int = 1, waiting: int = 1, wait: float = 60.0) -> Threads:
    return Threads("calls", size=size, waiting=waiting, wait=wait)


async def until_idle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_call_returns_its_result_and_raises_its_error() -> None:
    threads = make_threads()
    assert await threads.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, 7, 0)
    assert await threads.run(divmod, 7, 2) == (3, 1)


async def test_calls_over_the_size_wait_in_order_and_those_over_the_queue_are_refused(
    gate: threading.Event,
) -> None:
    threads, begun = make_threads(size=2, waiting=2), list[int]()

    def work(number: int) -> None:
        begun.append(number)
        gate.wait(60)

    calls = [asyncio.create_task(threads.run(work, number)) for number in range(4)]
    await until_idle()
    with pytest.raises(OverloadedError, match="2 calls are running"):
        await threads.run(work, 4)
    assert sorted(begun) == [0, 1]
    gate.set()
    await asyncio.gather(*calls)
    assert sorted(begun[:2]) == [0, 1]
    assert sorted(begun[2:]) == [2, 3]


async def test_a_call_that_waits_too_long_is_refused(gate: threading.Event) -> None:
    threads = make_threads(wait=0.01)
    first = asyncio.create_task(threads.run(gate.wait, 10))
    await until_idle()
    with pytest.raises(OverloadedError):
        await threads.run(gate.wait, 10)
    gate.set()
    assert await first


async def test_a_caller_that_leaves_does_not_wait_but_its_thread_stays_counted(
    gate: threading.Event,
) -> None:
    threads = make_threads(waiting=0)
    first = asyncio.create_task(threads.run(gate.wait, 10))
    await until_idle()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    with pytest.raises(OverloadedError):
        await threads.run(gate.wait, 10)
    gate.set()
    async with asyncio.timeout(60):
        while True:
            try:
                assert await threads.run(gate.wait, 10)
                break
            except OverloadedError:
                await asyncio.sleep(0.001)


async def test_a_waiter_that_leaves_frees_its_place(gate: threading.Event) -> None:
    threads = make_threads()
    first = asyncio.create_task(threads.run(gate.wait, 10))
    await until_idle()
    second = asyncio.create_task(threads.run(gate.wait, 10))
    await until_idle()
    second.cancel()
    await asyncio.wait([second])
    third = asyncio.create_task(threads.run(gate.wait, 10))
    await until_idle()
    gate.set()
    assert await first
    assert await third
    assert second.cancelled()


def test_a_thread_may_end_after_its_loop(gate: threading.Event) -> None:
    threads = make_threads()
    begun = threading.Event()

    def work() -> None:
        begun.set()
        gate.wait(60)

    async def leave() -> None:
        await threads.start(work)

    asyncio.run(leave())
    begun.wait(60)
    thread = next(one for one in threading.enumerate() if one.name == "calls")
    gate.set()
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize("call", [Threads.run, in_thread])
async def test_a_call_that_failed_keeps_nothing_in_memory(call: Callable[..., Any]) -> None:
    class Body:
        """What a call holds."""

    def fail(_: Body) -> None:
        raise ValueError("a failure")

    threads, body = make_threads(), Body()
    kept = weakref.ref(body)
    gc.disable()  # which would find cycles, some time later
    try:
        with pytest.raises(ValueError, match="a failure"):
            await call(threads, fail, body)
        del body
        async with asyncio.timeout(60):  # the thread has to end
            while kept() is not None:
                await asyncio.sleep(0.001)
    finally:
        gc.enable()
