"""Reaching a server: one that answers, none, and something else that listens."""

import asyncio
import socket
from pathlib import Path

import pytest

from embedd.cli.connection import reach
from embedd.client import NO_SERVER
from embedd.config import Address, parse_host
from embedd.errors import UnavailableError
from tests.unit.cli.fake_server import FakeServer


async def is_reached(address: Address) -> bool:
    async with reach(address) as client:
        return client is not None


async def test_a_server_on_a_socket_is_reached(tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert not await is_reached(parse_host(f"unix:{path}"))
    async with FakeServer().listening(path):
        assert await is_reached(parse_host(f"unix:{path}"))


async def test_a_listener_that_does_not_speak_http_is_not_a_server() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        assert not await is_reached(parse_host(f"127.0.0.1:{port}"))


@pytest.mark.usefixtures("_remote")
async def test_another_machine_that_does_not_answer_is_an_error() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = parse_host(f"127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(UnavailableError, match=NO_SERVER.format(address.url)):
            await is_reached(address)
