"""Clients that send nothing more after a request: some wait for the answer, others have left."""

import asyncio
import json
import logging
import socket

import pytest

from embedd.server.http import half_closed
from embedd.server.http.connection import Connection
from tests.server.serving import RawClient, Served, until
from tests.server.test_connections import Connect, connect

__all__ = ["connect"]

BODY = json.dumps({"model": "tiny", "input": "x"}).encode()
REQUEST = b"POST /api/embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_closed, "FIRST_PROBE", 0.01)
    monkeypatch.setattr(half_closed, "ANSWER", 0.01)


def check(answer: bytes) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert json.loads(body)["model"] == "tiny"


async def test_a_client_that_shuts_its_side_is_answered_and_the_connection_ends(
    connect: Connect,
) -> None:
    client = await connect()
    await client.send(REQUEST)
    client.writer.write_eof()
    check(await client.rest())


@pytest.mark.parametrize("seconds", [0.02, 0.1, 1.5])
async def test_it_may_wait_for_long(seconds: float, connect: Connect, served: Served) -> None:
    served.loads.gate.clear()
    client = await connect()
    await client.send(REQUEST)
    client.writer.write_eof()
    await asyncio.sleep(seconds)
    served.loads.gate.set()
    check(await client.rest())


async def test_a_large_answer_is_whole(connect: Connect, served: Served) -> None:
    served.loads.gate.clear()
    client = await connect()
    body = json.dumps({"model": "tiny", "input": ["x"] * 5000}).encode()
    head = b"POST /api/embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    await client.send(head + body)
    client.writer.write_eof()
    await asyncio.sleep(0.05)
    served.loads.gate.set()
    answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"0\r\n\r\n")


async def test_requests_that_came_together_are_all_answered(connect: Connect) -> None:
    client = await connect()
    await client.send(REQUEST * 3)
    client.writer.write_eof()
    assert (await client.rest()).count(b"HTTP/1.1 200 OK\r\n") == 3


async def test_an_end_that_is_reported_twice_is_one(
    connect: Connect, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    eof_received = Connection.eof_received

    def report_twice(self: Connection) -> bool:
        return eof_received(self) and eof_received(self)

    monkeypatch.setattr(Connection, "eof_received", report_twice)
    served.loads.gate.clear()
    client = await connect()
    await client.send(REQUEST)
    client.writer.write_eof()
    await asyncio.sleep(0.05)
    served.loads.gate.set()
    check(await client.rest())


async def test_a_client_that_left_is_noticed_while_it_is_computed(
    connect: Connect, served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "embedd")
    served.loads.gate.clear()
    client = await connect()
    await client.send(REQUEST)
    await until(lambda: served.loads.names != [])
    await client.close()
    await until(lambda: 499 in [one.__dict__.get("status") for one in caplog.records])
    served.loads.gate.set()


async def test_half_a_request_is_not_answered(connect: Connect) -> None:
    for part in (REQUEST[:20], REQUEST[:-3]):
        client = await connect()
        await client.send(part)
        client.writer.write_eof()
        assert b"200" not in await client.rest()


async def test_a_client_that_resets_is_gone_at_once(connect: Connect, served: Served) -> None:
    served.loads.gate.clear()
    client: RawClient = await connect()
    await client.send(REQUEST)
    await until(lambda: served.loads.names != [])
    sock = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.writer.transport.abort()
    served.loads.gate.set()
    other = await connect()
    await other.send(REQUEST)
    assert await other.status() == 200
