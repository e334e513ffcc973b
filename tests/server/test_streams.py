"""Long jobs in threads: their end, slow clients, and clients that leave."""

import asyncio
import math
import threading
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from embedd.ollama_api import ProgressLine
from embedd.server.http import streams
from embedd.server.http.shutdown import SHUTDOWN, Shutdown
from embedd.server.http.streams import MAX_WAITING_LINES, follow, in_thread
from embedd.server.http.threads import POOLS, Pools


class Transport(asyncio.Transport):
    """A connection that its client closes when it was looked at so many times."""

    def __init__(self, looks: float) -> None:
        super().__init__()
        self._looks = looks

    def is_closing(self) -> bool:
        self._looks -= 1
        return self._looks < 0


def make_request(transport: Transport) -> web.Request:
    app = web.Application()
    app[POOLS], app[SHUTDOWN] = Pools(), Shutdown()
    return make_mocked_request("POST", "/", transport=transport, app=app)


async def test_in_thread_waits_for_its_function_when_cancelled() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(60)
        ended.set()

    task = asyncio.create_task(in_thread(Pools().uploads, work))
    await asyncio.to_thread(begun.wait, 60)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_a_client_that_leaves_during_a_silent_step_stops_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "POLL_INTERVAL", 0.01)
    stopped = threading.Event()

    def work(_: object, stop: Any) -> None:
        while not stop():
            threading.Event().wait(0.001)
        stopped.set()

    request = make_request(Transport(2))
    with pytest.raises(ConnectionResetError):
        async for _ in follow(request, work):
            pass
    assert await asyncio.to_thread(stopped.wait, 60)


async def test_a_slow_client_misses_progress_within_steps_but_no_step() -> None:
    done = threading.Event()

    def work(report: Any, _: object) -> None:
        report(ProgressLine(status="first"))
        for completed in range(10_000):
            report(ProgressLine(status="bytes", total=10_000, completed=completed))
            if completed % 100 == 0:
                threading.Event().wait(0.0001)
        report(ProgressLine(status="last"))
        done.set()

    request = make_request(Transport(math.inf))
    lines = follow(request, work)
    first = await anext(lines)
    while not done.is_set():
        await asyncio.sleep(0.001)
    seen = [first, *[line async for line in lines]]
    assert [seen[0].status, seen[-1].status] == ["first", "last"]
    assert len(seen) <= MAX_WAITING_LINES + 3
