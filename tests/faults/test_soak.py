"""Hours in minutes: models that load, expire and are evicted leave nothing behind."""

import asyncio
import os
import random
import time
from dataclasses import dataclass

import psutil

from tests.faults.client import ask, embed_patiently
from tests.faults.conftest import Scale
from tests.faults.figures import Figures
from tests.faults.process import MIB, Home, Server

MODELS = ("tiny", "other")


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What a server takes."""

    memory: float  # MiB
    descriptors: int
    threads: int
    processes: int


def look(server: Server) -> Use:
    process = psutil.Process(server.pid)
    return Use(
        memory=process.memory_info().rss / MIB,
        descriptors=process.num_fds(),
        threads=process.num_threads(),
        processes=len(process.children(recursive=True)),
    )


async def use(server: Server, seconds: float, chosen: random.Random) -> int:
    """Embed with models that expire all the time; return how many requests were answered."""
    end = time.monotonic() + seconds
    done = 0

    async def work() -> None:
        nonlocal done
        while time.monotonic() < end:
            model = chosen.choice(MODELS)
            texts = [f"{chosen.random()} is the sky blue"] * chosen.choice([1, 3, 30])
            assert (await embed_patiently(server.port, texts, model=model)).status == 200
            done += 1
            if chosen.random() < 0.05:
                unload = {"model": model, "keep_alive": 0}
                await ask(server.port, "/api/generate", unload)
            await asyncio.sleep(chosen.choice([0, 0, 0, 0.3]))

    await asyncio.gather(*(work() for _ in range(4)))
    return done


async def rest(server: Server) -> Use:
    """What it takes when all models have expired."""
    async with asyncio.timeout(60):
        while server.workers or (await ask(server.port, "/api/ps", method="GET")).json["models"]:
            await asyncio.sleep(0.1)
        while (seen := look(server)).processes:  # measures how the model is fastest, when idle
            await asyncio.sleep(0.1)
    return seen


async def test_what_a_server_takes_does_not_grow(
    home: Home, scale: Scale, figures: Figures
) -> None:
    seconds = float(os.environ.get("SOAK_SECONDS", "600")) if scale.full else 4.0
    chosen = random.Random(5)
    settings = {"KEEP_ALIVE": "300ms", "MAX_LOADED_MODELS": "1"}
    with home.open(limits=None, **settings) as server:
        await use(server, max(3.0, seconds / 10), chosen)
        before = await rest(server)
        done = await use(server, seconds, chosen)
        after = await rest(server)
        loads = server.log.count("model loaded")
    figures.note("requests", done)
    figures.at_least("loads", loads, 3)
    growth = after.memory - before.memory
    figures.time_at_most("growth of the server", growth, 20, "MiB")
    figures.at_most("growth in descriptors", after.descriptors - before.descriptors, 4)
    figures.at_most("growth in threads", after.threads - before.threads, 8)
    figures.at_most("processes that are left", after.processes, before.processes)
