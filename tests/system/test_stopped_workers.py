"""A worker that another process stops: `/health` reports it, and its clients are answered."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedd.engine.host import heartbeat
from tests.system.serving import Server, open_fake_server, workers


async def ask_health(server: Server) -> tuple[int, Any]:
    async with server.session.get(server.url + "/health") as reply:
        return reply.status, await reply.json()


async def until_health(server: Server, status: int) -> None:
    async with asyncio.timeout(60):
        while (await ask_health(server))[0] != status:
            await asyncio.sleep(0.02)


async def test_the_health_check_reports_a_stopped_worker_until_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.1)
    async with open_fake_server(tmp_path, ["tiny"], monkeypatch, CACHE_BYTES="0") as server:
        expected = await server.vectors(["a"], model="tiny")
        before = await server.samples()
        await until_health(server, 200)
        [worker] = workers()
        os.kill(worker.pid, signal.SIGSTOP)
        await until_health(server, 503)
        status, reply = await ask_health(server)
        if status == 503:  # on a slow machine the worker has ended already
            said = 'the worker of model "tiny:latest" does not answer'
            assert reply["error"]["message"] == said
        assert np.array_equal(await server.vectors(["a"], model="tiny"), expected)
        # Not at once: on a busy machine the next one may miss a tenth of a second too.
        await until_health(server, 200)
        name = "embedd_worker_deaths_total{model=tiny:latest,reason=stopped}"
        after = await server.samples()
        assert after.get(name, 0) - before.get(name, 0) == 1, after
