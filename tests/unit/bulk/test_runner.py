"""Units that are run until they are cancelled."""

import asyncio
import threading
from collections.abc import Generator
from typing import Any, cast

import pytest

from embedd.bulk.compute import Pool
from embedd.bulk.progress import Progress
from embedd.bulk.reading import Rows
from embedd.bulk.runner import ErrorBudget, run_units
from embedd.bulk.units import Unit
from tests.fakes import settle
from tests.unit.bulk.jobs import FakeCompute


async def test_a_job_that_is_cancelled_again_and_again_ends_with_its_reading() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def read() -> Generator[tuple[Unit, Rows], None, None]:
        try:
            begun.set()
            go_on.wait(60)
            return
            yield
        finally:
            ended.set()

    nothing = cast("Any", None)  # no unit comes to be run
    running = asyncio.create_task(
        run_units(
            nothing,
            read(),
            pool=Pool([FakeCompute()]),
            sink=nothing,
            progress=Progress(rows=None, size=None, parts=None),
            budget=ErrorBudget(),
            stop=asyncio.Event(),
        )
    )
    await asyncio.to_thread(begun.wait, 60)
    for _ in range(3):
        running.cancel()
        await settle()
    assert not running.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.is_set()


async def test_waits_for_servers_are_shown_while_nothing_is_computed() -> None:
    pool = Pool([FakeCompute()])
    progress = Progress(rows=None, size=None, parts=None)
    nothing = cast("Any", None)

    def read() -> Generator[tuple[Unit, Rows], None, None]:
        pool.waits += 1
        assert progress.snapshot().waits == 1
        return
        yield

    await run_units(
        nothing,
        read(),
        pool=pool,
        sink=nothing,
        progress=progress,
        budget=ErrorBudget(),
        stop=asyncio.Event(),
    )
    assert progress.snapshot().waits == 1
