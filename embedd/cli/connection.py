"""Connections to the server that EMBEDD_HOST names."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from embedd.config import Address, Settings, parse_keys, read_settings
from embedd.errors import UnavailableError, UnsupportedError

if TYPE_CHECKING:
    from embedd.client import Client


def make_client(address: Address) -> "Client":
    """A client with the first API key and the first admin key of the environment."""
    from embedd.client import Client

    settings = read_settings(warn=lambda _: None)
    keys = settings.api_key
    if not keys and settings.api_key_file is not None:
        keys = parse_keys(settings.api_key_file.read_text())
    return Client(
        address, key=next(iter(keys), None), admin_key=next(iter(settings.admin_key), None)
    )


@asynccontextmanager
async def connect(address: Address) -> "AsyncIterator[Client]":
    """A client of the server, which must answer.

    Raises:
        UnavailableError: It does not; the message says how to start one.
    """
    from embedd.client import NO_SERVER

    async with make_client(address) as client:
        if not await client.is_up():
            raise UnavailableError(NO_SERVER)
        yield client


@asynccontextmanager
async def reach(address: Address) -> "AsyncIterator[Client | None]":
    """A client of the server; None if no server answers on this machine.

    Raises:
        UnavailableError: No server answers, and the address is another machine's.
    """
    # If nothing listens, the client's libraries are not even imported.
    if address.is_local and not _is_listening(address):
        yield None
        return
    from embedd.client import NO_SERVER

    async with make_client(address) as client:
        is_up = await client.is_up()
        if not (is_up or address.is_local):
            raise UnavailableError(NO_SERVER)
        yield client if is_up else None


def _is_listening(address: Address) -> bool:
    target = address.to_client()
    try:
        if target.socket is None:
            socket.create_connection((target.host, target.port), 1.0).close()
        else:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(target.socket))
    except OSError:
        return False
    return True


def require_local(settings: Settings, what: str) -> None:
    """Raise `UnsupportedError` if the server is another machine's: *what* needs its files."""
    if not settings.host.is_local:
        raise UnsupportedError(
            f"{what} works on this machine's store, but the server is {settings.host.url}: "
            "unset EMBEDD_HOST, or run it there"
        )
