"""The progress of one connection."""

import asyncio

from aiohttp import web

from embedd.server.http.connection import Connection
from embedd.server.http.timeouts import Timeouts
from tests.fakes import settle


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


async def refuse(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=418)


async def test_half_a_head_that_comes_before_the_handler_waits_is_a_timeout_too() -> None:
    """uvloop reads what a client sent with its connection before any task has run."""
    wire = Wire()
    connection = Connection(web.Server(refuse), opened=lambda _: None, closed=lambda _: None)
    connection.connection_made(wire)
    connection.data_received(b"POST / HTTP/1.1\r\nHo")
    await settle()
    assert connection.is_idle
    connection.check(Timeouts(head=0.0))
    assert wire.written.startswith(b"HTTP/1.1 408 ")
    assert wire.closed
    connection.connection_lost(None)


async def test_a_whole_head_that_comes_before_the_handler_waits_is_a_request() -> None:
    wire = Wire()
    connection = Connection(web.Server(refuse), opened=lambda _: None, closed=lambda _: None)
    connection.connection_made(wire)
    connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert not connection.is_idle
    connection.check(Timeouts(head=0.0))
    async with asyncio.timeout(60):
        while not wire.written:
            await asyncio.sleep(0)
    assert wire.written.startswith(b"HTTP/1.1 418 ")
    connection.connection_lost(None)
