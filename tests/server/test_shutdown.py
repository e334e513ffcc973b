"""The end of a server: who is still answered, who is not waited for."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from embedd.config import Address
from embedd.errors import PullError
from embedd.library import Library, ReportProgress
from embedd.ollama_api import ProgressLine
from embedd.server.http import listener
from embedd.server.http.listener import open_listener
from embedd.server.serve import bind
from embedd.store.disk import open_lock
from tests.fakes import FakeModel
from tests.server.serving import RawClient, Served, until

BODY = b'{"model":"tiny","input":"x"}'
LARGE = b'{"model": "tiny", "input": [' + b'"x",' * 60_000 + b'"x"]}'


@dataclass
class Listening:
    """A server that can be stopped."""

    served: Served
    port: int
    stop: AsyncExitStack
    clients: list[RawClient]

    def client(self) -> RawClient:
        self.clients.append(RawClient(self.port))
        return self.clients[-1]

    async def begin_to_stop(self) -> asyncio.Task[None]:
        """Stop; return when the server takes no connections any more."""
        stopping = asyncio.create_task(self.stop.aclose())
        async with asyncio.timeout(60):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except ConnectionError:
                    return stopping
                writer.close()
                await asyncio.wait([asyncio.create_task(writer.wait_closed())])


async def listen(served: Served, grace: float) -> Listening:
    stack = AsyncExitStack()
    socks = bind(Address(port=0))
    await stack.enter_async_context(open_listener(served.client.app, socks, grace=grace))
    return Listening(served, socks[0].getsockname()[1], stack, [])


@pytest.fixture
async def listening(served: Served, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Listening]:
    """A server with a long grace, also for clients that make no progress."""
    monkeypatch.setattr(listener, "STALL", 600.0)
    server = await listen(served, grace=600.0)
    yield server
    await server.stop.aclose()
    for client in server.clients:
        await client.close()


@pytest.fixture
async def impatient(served: Served) -> AsyncIterator[Listening]:
    """A server with next to no grace."""
    server = await listen(served, grace=0.2)
    yield server
    await server.stop.aclose()
    for client in server.clients:
        await client.close()


async def hold_back(served: Served) -> FakeModel:
    """Load the model, and let it compute nothing until its gate is opened."""
    await served.embed(input="x")
    [model] = served.loads.models
    model.gate.clear()
    return model


async def until_begun(served: Served, count: int) -> None:
    """Wait until *count* requests are being answered: the server has read their heads."""
    async with asyncio.timeout(60):
        while True:
            metrics = (await served.send("GET", "/metrics")).body.decode()
            [begun] = re.findall(r"^embedd_requests_in_flight (\S+)$", metrics, re.MULTILINE)
            if float(begun) == count + 1:  # the one that reads them
                return


async def test_an_accepted_request_is_answered_and_its_connection_closed(
    listening: Listening,
) -> None:
    model = await hold_back(listening.served)
    client = listening.client()
    await client.post(BODY)
    await until(lambda: model.waiting == 1)
    stopping = await listening.begin_to_stop()
    assert not stopping.done()
    model.gate.set()
    assert await client.status() == 200
    assert b"Connection: close" in await client.rest()
    await stopping


async def test_a_body_that_goes_on_after_the_signal_is_a_request(listening: Listening) -> None:
    client = listening.client()
    await client.post(BODY[:9], len(BODY))
    await until_begun(listening.served, 1)
    stopping = await listening.begin_to_stop()
    await client.send(BODY[9:])
    assert await client.status() == 200
    await stopping


async def test_idle_clients_half_heads_half_bodies_and_slow_readers_are_not_waited_for(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "STALL", 0.1)
    idle, half_head, half_body, slow = (listening.client() for _ in range(4))
    # First: on a busy machine its answer takes longer than a head may take.
    await slow.post(LARGE)
    await slow.reader.readuntil(b"\r\n")
    await idle.open()
    await half_head.open()
    await half_head.send(b"GET / HTTP/1.1\r\nHo")
    await half_body.post(BODY, len(BODY) + 1)
    await until_begun(listening.served, 2)
    stopping = await listening.begin_to_stop()
    async with asyncio.timeout(60):
        await stopping
    assert await idle.rest() == b""
    assert await half_head.rest() == b""
    assert await half_body.status() == 408


async def test_a_request_that_does_not_fit_the_grace_is_answered_with_503(
    impatient: Listening,
) -> None:
    model = await hold_back(impatient.served)
    ollama, openai = impatient.client(), impatient.client()
    await ollama.post(BODY)
    await openai.post(BODY, path="/v1/embeddings")
    await until(lambda: model.waiting == 2)
    await impatient.stop.aclose()
    for client in (ollama, openai):
        assert await client.status() == 503
        assert b"server is shutting down" in await client.rest()
    model.gate.set()


async def test_a_request_that_waits_for_a_foreign_lock_is_answered_with_503(
    impatient: Listening,
) -> None:
    client = impatient.client()
    with open_lock(impatient.served.store.layout.lock):
        await client.post(b'{"source": "tiny", "destination": "x"}', path="/api/copy")
        await until_begun(impatient.served, 1)
        await impatient.stop.aclose()
        assert await client.status() == 503


async def test_an_answer_that_has_begun_is_cut_and_gets_no_second_head(
    impatient: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def create(*_: object, report: ReportProgress, **__: object) -> None:
        report(ProgressLine(status="begun"))
        go_on.wait(60)

    monkeypatch.setattr(Library, "create", create)
    client = impatient.client()
    await client.post(b'{"model": "x", "from": "tiny"}', path="/api/create")
    assert await client.status() == 200
    await impatient.stop.aclose()
    go_on.set()
    answer = await client.rest()
    assert b'{"status":"begun"}' in answer
    assert b"HTTP/1.1" not in answer


@pytest.mark.parametrize("stream", [b"true", b"false"])
async def test_a_pull_stops_at_once_and_says_why(
    stream: bytes, listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = threading.Event()

    def pull(_: Library, __: str, report: ReportProgress, *, stop: object, **___: object) -> None:
        report(ProgressLine(status="pulling"))
        assert callable(stop)
        while not stop():
            threading.Event().wait(0.001)
        stopped.set()
        raise PullError("stopped")

    monkeypatch.setattr(Library, "pull", pull)
    client = listening.client()
    await client.post(b'{"model": "x", "stream": %b}' % stream, path="/api/pull")
    await until(lambda: any(one.name == "pulls and creates" for one in threading.enumerate()))
    await listening.stop.aclose()
    assert await asyncio.to_thread(stopped.wait, 60)
    assert await client.status() == (200 if stream == b"true" else 503)
    assert b'{"error":"server is shutting down"}' in await client.rest()
