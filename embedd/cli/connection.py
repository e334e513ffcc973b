"""Connections to the server that EMBEDD_HOST names."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING

from embedd.cli.settings import warn
from embedd.config import Address, Settings, read_settings
from embedd.errors import UnavailableError, UnsupportedError

if TYPE_CHECKING:
    from embedd.client import Client, Identity


def make_client(address: Address) -> "Client":
    """A client with the first API key and the first admin key of the environment."""
    from embedd.client import Client

    settings = read_settings(warn=lambda _: None)
    return Client(address, key=settings.client_key, admin_key=next(iter(settings.admin_key), None))


@asynccontextmanager
async def connect(address: Address) -> "AsyncIterator[Client]":
    """A client of the server, which must answer; a warning if it is not embedd.

    Raises:
        UnavailableError: Nothing answers (the message says how to start a server), or what
            does has another API.
    """
    async with make_client(address) as client:
        identity = await client.identify()
        if not identity.name:
            raise UnavailableError(_describe_foreign(address, identity))
        if not identity.is_embedd:
            _warn_once(_describe_foreign(address, identity))
        yield client


@asynccontextmanager
async def reach(address: Address, *, changes: bool = False) -> "AsyncIterator[Client | None]":
    """A client of the server; None, for the store of this machine, if no embedd answers here.

    If another server does, a warning says so.

    Args:
        changes: Whether models are to be changed, which only an embedd is asked to do.

    Raises:
        UnavailableError: The address is another machine's, and no server with this API answers.
        UnsupportedError: *changes*, and another machine's server is not embedd.
    """
    # If nothing listens, the client's libraries are not even imported.
    if address.is_local and not is_listening(address):
        yield None
        return
    async with make_client(address) as client:
        try:
            identity = await client.identify()
        except UnavailableError:
            if not address.is_local:
                raise
            yield None
            return
        yield client if _accept(address, identity, changes=changes) else None


def _accept(address: Address, identity: "Identity", *, changes: bool) -> bool:
    """Return whether to send requests to the server; else this machine's store is used."""
    if identity.is_embedd:
        return True
    what = _describe_foreign(address, identity)
    if address.is_local:
        _warn_once(f"{what}; this command works on the store of this machine")
        return False
    if not identity.name:
        raise UnavailableError(what)
    if changes:
        raise UnsupportedError(f"{what}: its models are not changed; set EMBEDD_HOST to an embedd")
    _warn_once(what)
    return True


def _describe_foreign(address: Address, identity: "Identity") -> str:
    return f"{address.url} is not embedd but {identity}"


@cache
def _warn_once(text: str) -> None:
    warn(text)


def is_listening(address: Address) -> bool:
    """Whether something listens at *address*."""
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
