"""Connections: heads that do not come, answers that are not read, heads that are not valid."""

import asyncio
import contextlib
import logging
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from embedd.server.http import connection
from embedd.server.http.connection import MAX_HEAD, MAX_LINE, SERVER_NAME, Connections, choose_limit
from embedd.server.http.timeouts import Timeouts
from tests.server.serving import RawClient, Served, until

HEAD = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n"
SEND_BUFFER = 64 << 10  # bytes that the kernel takes of an answer
Connect = Callable[..., Awaitable[RawClient]]


@pytest.fixture
async def connect(served: Served, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connect]:
    """Opens connections that are watched with these timeouts."""
    monkeypatch.setattr(connection, "LOOK", 0.01)
    runner = served.client.server.runner
    assert runner is not None
    assert runner.server is not None
    server = runner.server
    clients: list[RawClient] = []
    closers: list[Callable[[], object]] = []

    async def open_one(**timeouts: float) -> RawClient:
        connections = Connections(server, Timeouts(**timeouts))
        # Linux lets its own buffer grow to some MB: with a fixed one, short answers fill it.
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        listener = await asyncio.get_running_loop().create_server(connections, sock=sock)
        watching = asyncio.create_task(connections.watch())
        closers.extend([listener.close, watching.cancel])
        clients.append(RawClient(listener.sockets[0].getsockname()[1]))
        await clients[-1].open()
        return clients[-1]

    yield open_one
    for client in clients:
        await client.close()
    for close in closers:
        close()


@pytest.mark.parametrize("sent", [b"", b"G", HEAD, HEAD + b"X: y\r\n"])
async def test_a_head_that_does_not_come_is_a_timeout(sent: bytes, connect: Connect) -> None:
    client = await connect(head=0.05)
    await client.send(sent)
    assert await client.status() == 408
    assert (await client.rest()).endswith(b"not complete after 0.05 s (EMBEDD_HEAD_TIMEOUT)")


async def test_bytes_that_trickle_in_are_not_a_head(connect: Connect) -> None:
    client = await connect(head=0.1)
    with pytest.raises(ConnectionError):
        for _ in range(100):
            await client.send(b"X")
            await asyncio.sleep(0.01)


async def test_an_idle_connection_stays_open_for_its_next_request(connect: Connect) -> None:
    client = await connect(head=0.05)
    for _ in range(2):
        await client.send(HEAD + b"\r\n")
        assert await client.status() == 200
        await asyncio.sleep(0.15)
        await client.reader.read(4096)
    await client.send(HEAD)
    assert await client.status() == 408


async def test_a_client_that_does_not_read_its_answer_is_dropped(
    served: Served, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "embedd")
    client = await connect(write=0.05)
    body = b'{"model": "tiny", "input": [' + b'"x",' * 8_000 + b'"x"]}'
    await client.send(
        b"POST /api/embed HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    await until(lambda: "EMBEDD_WRITE_TIMEOUT" in str([one.__dict__ for one in caplog.records]))
    await until(lambda: 499 in [one.__dict__.get("status") for one in caplog.records])


async def test_a_client_that_reads_slowly_gets_its_whole_answer(connect: Connect) -> None:
    client = await connect(write=0.3)
    body = b'{"model": "tiny", "input": [' + b'"x",' * 3000 + b'"x"]}'
    await client.send(
        b"POST /api/embed HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    answer = b""
    while piece := await client.reader.read(100_000):
        answer += piece
        await asyncio.sleep(0.001)
    assert answer.endswith(b"0\r\n\r\n")


async def test_a_header_of_64_kib_is_read(connect: Connect) -> None:
    client = await connect()
    await client.send(HEAD + b"Cookie: " + b"a" * (MAX_LINE - 100) + b"\r\n\r\n")
    assert await client.status() == 200


@pytest.mark.parametrize(
    ("head", "status", "text"),
    [
        (HEAD + b"Cookie: " + b"a" * (MAX_LINE + 1), 431, b"each header may have 65536 bytes"),
        (b"GET /" + b"a" * (MAX_LINE + 1), 431, b"each header may have 65536 bytes"),
        (HEAD + b"no colon\r\n\r\n", 400, b"the request is not valid HTTP/1.1"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\r\n\r\n", 400, b"not valid HTTP/1.1"),
        (HEAD + b"Content-Length: x\r\n\r\n", 400, b"the request is not valid HTTP/1.1"),
    ],
)
async def test_a_head_that_is_not_valid_is_refused_without_its_bytes_or_a_traceback(
    head: bytes, status: int, text: bytes, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "embedd")
    client = await connect()
    await client.send(head)
    assert await client.status() == status
    answer = await client.rest()
    assert answer.endswith(text)
    assert SERVER_NAME.encode() in answer
    assert [record.exc_info for record in caplog.records] == [None]


async def test_a_head_of_many_long_lines_is_refused_before_it_takes_memory(
    connect: Connect,
) -> None:
    client = await connect()
    line = b"X: " + b"a" * (MAX_LINE // 2) + b"\r\n"
    await client.send(HEAD + line * (MAX_HEAD // len(line) + 1))
    assert await client.status() == 431
    assert (await client.rest()).endswith(b"the head of a request may have 262144 bytes")


async def test_an_address_has_half_of_the_connections_and_others_are_served(
    served: Served,
) -> None:
    runner = served.client.server.runner
    assert runner is not None
    assert runner.server is not None
    connections = Connections(runner.server, Timeouts(), limit=5)
    listener = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    clients: list[RawClient] = []

    async def open_one(address: str = "127.0.0.1") -> int:
        clients.append(RawClient(port, address))
        await clients[-1].open()
        with contextlib.suppress(ConnectionError):  # it is refused before it sends
            await clients[-1].send(HEAD + b"\r\n")
        return await clients[-1].status()

    assert [await open_one() for _ in range(2)] == [200, 200]
    assert await open_one() == 503
    refusal = await clients[-1].rest()
    assert b"\r\nRetry-After: 1\r\n" in refusal
    assert refusal.endswith(
        b"your address may have 2 of the 5 connections of the server: close some, or wait"
    )
    assert [await open_one("127.0.0.2") for _ in range(3)] == [200, 200, 503]
    assert await open_one("127.0.0.3") == 200
    assert await open_one("127.0.0.4") == 503
    assert b"the server has 5 connections, the limit" in await clients[-1].rest()
    for client in clients:
        await client.close()
    await until(lambda: not len(connections))
    assert [await open_one() for _ in range(3)] == [200, 200, 503], "none is counted for ever"
    for client in clients[-3:]:
        await client.close()
    listener.close()


@pytest.mark.parametrize(
    ("descriptors", "limit"),
    [(20_000, 4096), (1024, 768), (512, 256), (64, 2), (resource.RLIM_INFINITY, 4096)],
)
def test_connections_leave_descriptors_for_files_and_workers(
    descriptors: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, descriptors))
    assert choose_limit() == limit
