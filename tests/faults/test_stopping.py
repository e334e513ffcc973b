"""A server that was asked to stop ends within its grace, whatever its clients do."""

import asyncio
import fcntl
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import aiohttp

from tests.faults.client import Connection, ask, connect, make_request
from tests.faults.conftest import Scale
from tests.faults.figures import Figures
from tests.faults.process import START, Home, Server
from tests.loopback_hub import Fault, LoopbackHub, open_hub
from tests.tiny_models import write_tiny_bert

NAME = "hf.co/acme/tiny-bert-GGUF:Q8_0"
FILE = "tiny-bert-Q8_0.gguf"
ROOM = 1.0  # seconds beyond the grace, for the end of the process itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Stalling:
    """A server with clients that stall."""

    home: Home
    server: Server
    hub: LoopbackHub
    stack: AsyncExitStack

    async def connect(self) -> Connection:
        connection = await connect(self.server.port, receive=4096)
        self.stack.push_async_callback(connection.close)
        return connection

    async def send(self, data: bytes) -> Connection:
        connection = await self.connect()
        connection.writer.write(data)
        await connection.writer.drain()
        return connection


async def send_half_a_head(to: Stalling) -> None:
    await to.send(b"POST /api/embed HTTP/1.1\r\nHo")


async def send_half_a_body(to: Stalling) -> None:
    request = make_request("/api/embed", {"model": "tiny", "input": "x"})
    await to.send(request[:-1])


async def read_nothing(to: Stalling) -> None:
    body = {"model": "tiny", "input": ["the same"] * 60_000}
    connection = await to.send(make_request("/api/embed", body))
    assert (await connection.reader.readexactly(9)).startswith(b"HTTP/1.1")


async def wait_for_a_lock(to: Stalling) -> None:
    lock = to.stack.enter_context((to.home.models / "embedd.lock").open("a"))
    fcntl.flock(lock, fcntl.LOCK_EX)
    await to.send(make_request("/api/copy", {"source": "tiny", "destination": "x"}))


async def pull_for_ever(to: Stalling) -> None:
    to.hub.faults.append(Fault("/storage/", hold=64 << 10, times=9))
    await to.send(make_request("/api/pull", {"model": NAME}))
    assert await asyncio.to_thread(to.hub.holding.wait, START)


KINDS: dict[str, Callable[[Stalling], Awaitable[None]]] = {
    "half a head": send_half_a_head,
    "half a body": send_half_a_body,
    "an answer that is not read": read_nothing,
    "an endless pull": pull_for_ever,
    "a lock that is held elsewhere": wait_for_a_lock,  # the last: a pull needs the lock
}


@asynccontextmanager
async def open_stalling(home: Home, **settings: str) -> AsyncIterator[Stalling]:
    data = write_tiny_bert(home.folder / "pulled.gguf", width=256, layers=2).read_bytes()
    with open_hub() as hub:
        hub.add("acme/tiny-bert-GGUF", {FILE: data})
        home.outside = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home.folder / "huggingface")}
        with home.open(limits=None, **settings) as server:
            async with AsyncExitStack() as stack:
                yield Stalling(home=home, server=server, hub=hub, stack=stack)
                hub.release.set()


async def test_clients_that_stall_do_not_keep_a_server_from_ending(
    home: Home, scale: Scale, figures: Figures
) -> None:
    grace = scale.choose(short=10, full=30)
    runs = [list(KINDS)]
    if scale.full:
        runs += [[kind] for kind in KINDS]
    for kinds in runs:
        async with open_stalling(home, SHUTDOWN_GRACE=f"{grace}s") as to:
            assert (await ask(to.server.port, "/api/embed", {"model": "tiny", "input": "x"})).status
            for kind in kinds:
                await KINDS[kind](to)
            await asyncio.sleep(0.3)
            begun = time.perf_counter()
            to.server.process.send_signal(signal.SIGTERM)
            assert await to.server.wait() == 0, to.server.log
            seconds = time.perf_counter() - begun
            assert to.server.log.rstrip().endswith("stopped")
        name = kinds[0] if len(kinds) == 1 else "all of them"
        figures.time_at_most(f"end beside {name}", seconds, grace + ROOM, "s")


async def count_accepted(port: int) -> int:
    """How many requests to ``/api/embed`` were answered or are being answered."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/metrics") as reply,
    ):
        text = await reply.text()
    answered = re.search(r'embedd_requests_total\{route="/api/embed",status="200"\} (\S+)', text)
    running = re.search(r"^embedd_requests_in_flight (\S+)", text, re.MULTILINE)
    assert answered
    assert running
    return int(float(answered[1]) + float(running[1])) - 1


async def test_what_fits_the_grace_is_answered(home: Home, scale: Scale, figures: Figures) -> None:
    """Requests that were accepted before the signal; later ones find no server, or get 503."""
    count = scale.choose(short=20, full=200)
    texts = ["the sky is blue and so is the world"] * 20
    async with open_stalling(home) as to:
        port = to.server.port
        assert (await ask(port, "/api/embed", {"model": "tiny", "input": "x"})).status == 200
        requests = [
            make_request(
                "/api/embed", {"model": "tiny", "input": [f"{n} {text}" for text in texts]}
            )
            for n in range(count)
        ]
        connections = [await to.connect() for _ in requests]
        running = [
            asyncio.create_task(one.send(request))
            for one, request in zip(connections, requests, strict=True)
        ]
        # A request that no one has read yet is not accepted: its connection is closed.
        while await count_accepted(port) < 1 + count:
            await asyncio.sleep(0.01)
        to.server.process.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(*running)
        assert await to.server.wait() == 0
    statuses = [answer.status for answer in answers]
    figures.at_most("requests that were not answered with 200", count - statuses.count(200), 0)
