"""What commands share: the settings, a connection to the server, durations as options."""

import logging
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click

from embedd.config import Address, Settings, parse_keys, read_settings
from embedd.durations import parse_keep_alive
from embedd.errors import RequestError, UnavailableError, UnsupportedError
from embedd.logs import set_up_logs

if TYPE_CHECKING:
    from embedd.client import Client


def warn(text: str) -> None:
    """Tell the user on stderr, and go on."""
    click.echo(f"Warning: {text}", err=True)


def load_settings() -> Settings:
    """Settings of the environment; what cannot be read is warned about.

    From here on the diary tells of troubles only, or of everything if DEBUG asks for it.
    """
    settings = read_settings(warn=warn)
    set_up_logs(settings.debug, sys.stderr)
    if not settings.debug:
        logging.getLogger("embedd").setLevel(logging.WARNING)
    return settings


def make_client(address: Address) -> "Client":
    """A client that has the first key of each kind that the environment names."""
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
    """A client of a server that answers.

    Raises:
        UnavailableError: None does; the message says how to start one.
    """
    from embedd.client import NOBODY_THERE

    async with make_client(address) as client:
        if not await client.is_up():
            raise UnavailableError(NOBODY_THERE)
        yield client


@asynccontextmanager
async def reach(address: Address) -> "AsyncIterator[Client | None]":
    """A client of the server that answers; None if none does on this machine.

    Raises:
        UnavailableError: None does, and the address is another machine's.
    """
    # Where nothing listens, the client's libraries are not even loaded.
    if address.is_local and not _somebody_listens(address):
        yield None
        return
    from embedd.client import NOBODY_THERE

    async with make_client(address) as client:
        is_up = await client.is_up()
        if not (is_up or address.is_local):
            raise UnavailableError(NOBODY_THERE)
        yield client if is_up else None


def _somebody_listens(address: Address) -> bool:
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
    """Raise `UnsupportedError` if the server is another machine's: *what* needs the files."""
    if not settings.host.is_local:
        raise UnsupportedError(
            f"{what} works on this machine's store, but the server is {settings.host.url}: "
            "unset EMBEDD_HOST, or run it there"
        )


def duration(text: str) -> float:
    """Type of an option like ``10m``, ``300`` or ``-1``: seconds, ``math.inf`` for ever.

    Raises:
        click.BadParameter: It is no duration.
    """
    try:
        return parse_keep_alive(text)
    except RequestError as error:
        raise click.BadParameter(str(error)) from error


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of stored models that begin with what was typed, for the shell."""
    del ctx, param
    from embedd.runtime import open_store

    settings = read_settings(warn=lambda _: None)
    names = [name.display for name in open_store(settings).manifests.names()]
    return [name for name in names if name.lower().startswith(incomplete.lower())]


model_argument = click.argument("model", shell_complete=complete_model)
