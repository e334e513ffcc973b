"""Clients that leave in the middle: the processor and the queue are free at once."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from embedd.engine import fake
from embedd.engine.host import watchdog
from tests.exposition import Samples, moved
from tests.system.serving import Server, open_fake_server, workers

# The first text computes until it is stopped, thousands wait behind it.
HANGING = [fake.HANG, *(f"text {number}" for number in range(5000))]
BODIES: dict[str, dict[str, object]] = {
    "/api/embed": {"input": HANGING},
    "/v1/embeddings": {"input": HANGING[:2000]},
    "/embed_all": {"inputs": HANGING[:2000]},
    "/v2/embed": {"texts": HANGING[:2000], "input_type": "search_document"},
    "/embed": {"inputs": HANGING[:2000]},
}


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """One model in one worker with one replica: what hangs there holds up all requests."""
    monkeypatch.setattr(watchdog, "MIN_TIMEOUT", 600.0)
    async with open_fake_server(tmp_path, ["tiny"], monkeypatch) as server:
        await server.embed("loads the model", model="tiny")
        yield server


class Connection:
    """A client without a library: what it does is what the server sees."""

    def __init__(self, server: Server) -> None:
        self._address = server.url.removeprefix("http://")
        host, _, port = self._address.partition(":")
        self.socket = socket.create_connection((host, int(port)))

    def post(self, path: str, body: object) -> None:
        data = json.dumps({"model": "tiny", **body}).encode()  # type: ignore[dict-item]  # JSON of any values
        head = f"POST {path} HTTP/1.1\r\nHost: {self._address}\r\nContent-Length: {len(data)}"
        self.socket.sendall(f"{head}\r\n\r\n".encode() + data)


async def close(server: Server, path: str, wait: Callable[[], Awaitable[None]]) -> None:
    """As a program that ends."""
    connection = Connection(server)
    await asyncio.to_thread(connection.post, path, BODIES[path])
    await wait()
    connection.socket.close()


async def reset(server: Server, path: str, wait: Callable[[], Awaitable[None]]) -> None:
    """As a machine that was switched off and on."""
    connection = Connection(server)
    await asyncio.to_thread(connection.post, path, BODIES[path])
    await wait()
    linger = struct.pack("ii", 1, 0)
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.socket.close()


async def cancel(server: Server, path: str, wait: Callable[[], Awaitable[None]]) -> None:
    """As a program whose own time limit is over."""
    asking = asyncio.create_task(server.send(path, {"model": "tiny", **BODIES[path]}))
    await wait()
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()


Leave = Callable[[Server, str, Callable[[], Awaitable[None]]], Awaitable[None]]


def seconds(worker: psutil.Process) -> float:
    """How long it has had a processor."""
    return float(sum(worker.cpu_times()[:2]))


async def until_it_computes(worker: psutil.Process) -> None:
    """Wait until it has had a processor for a moment, however few there are."""
    before = seconds(worker)
    while seconds(worker) < before + 0.05:
        await asyncio.sleep(0.01)


async def until_it_is_idle(worker: psutil.Process) -> None:
    """Wait until it has had no processor for 0.2 seconds."""
    before = -1.0
    while seconds(worker) != before:
        before = seconds(worker)
        await asyncio.sleep(0.2)


async def samples_when(server: Server, holds: Callable[[Samples], bool]) -> Samples:
    async with asyncio.timeout(60):
        while not holds(samples := await server.samples()):
            await asyncio.sleep(0.01)
        return samples


def waiting(samples: Samples) -> tuple[float, float]:
    """Requests and tokens that no batch has taken."""
    return (
        samples["embedd_waiting_requests{awaited=batch,model=tiny:latest}"],
        samples["embedd_waiting_tokens{model=tiny:latest}"],
    )


@pytest.mark.parametrize(
    ("path", "leave"),
    [*((path, close) for path in BODIES), ("/api/embed", reset), ("/api/embed", cancel)],
)
async def test_a_client_that_leaves_frees_the_processor_and_the_queue(
    path: str, leave: Leave, server: Server
) -> None:
    [worker] = workers()

    async def wait_until_it_computes() -> None:
        await samples_when(server, lambda samples: waiting(samples)[0] > 0)
        await until_it_computes(worker)

    before = await server.samples()
    async with asyncio.timeout(60):
        await leave(server, path, wait_until_it_computes)
    left = f"embedd_requests_total{{route={path},status=499}}"
    after = await samples_when(server, lambda samples: left in samples)
    assert waiting(after) == (0, 0)
    changes = dict(moved(before, after))
    assert changes.pop("embedd_aborted_batches_total{model=tiny:latest}") == 2
    changes.pop("embedd_cache_misses_total", None)
    changes = {name: value for name, value in changes.items() if "route=/metrics" not in name}
    assert changes == {
        left: 1,
        f"embedd_request_seconds_count{{route={path}}}": 1,
        "embedd_cancelled_requests_total{model=tiny:latest}": 1,
    }
    async with asyncio.timeout(60):  # the watchdog would need ten minutes
        assert len((await server.embed(["next", "one"], model="tiny"))["embeddings"]) == 2
        await until_it_is_idle(worker)
    assert [one.pid for one in workers()] == [worker.pid]


async def test_other_clients_are_answered_while_one_leaves(server: Server) -> None:
    """They wait behind it, and share what it leaves."""
    [worker] = workers()
    others: list[asyncio.Task[object]] = []

    async def wait_until_others_wait_too() -> None:
        await until_it_computes(worker)
        others.extend(
            asyncio.create_task(server.embed(f"other {number}", model="tiny"))
            for number in range(20)
        )
        await samples_when(server, lambda samples: waiting(samples)[0] >= 10)

    async with asyncio.timeout(60):
        await close(server, "/api/embed", wait_until_others_wait_too)
    async with asyncio.timeout(60):
        await asyncio.gather(*others)


async def test_a_client_that_leaves_during_a_large_answer_ends_it(server: Server) -> None:
    connection = Connection(server)
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    texts = ["the same"] * 100_000  # computed once; some 10 MB of answer
    await asyncio.to_thread(connection.post, "/api/embed", {"input": texts})
    head = await asyncio.to_thread(connection.socket.recv, 100)
    assert head.startswith(b"HTTP/1.1 200 OK")
    connection.socket.close()
    left = "embedd_requests_total{route=/api/embed,status=499}"
    samples = await samples_when(server, lambda samples: left in samples)
    assert samples["embedd_requests_in_flight"] == 1, "the one that reads them"
    assert samples["embedd_cancelled_requests_total{model=tiny:latest}"] == 0, "it was computed"
    assert len((await server.embed("next", model="tiny"))["embeddings"]) == 1
