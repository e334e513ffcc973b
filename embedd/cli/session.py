"""What commands share: the settings, a connection to the server, durations as options."""

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click

from embedd.config import Address, Settings, read_settings
from embedd.durations import parse_keep_alive
from embedd.errors import RequestError, UnavailableError
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


@asynccontextmanager
async def connect(address: Address) -> "AsyncIterator[Client]":
    """A client of a server that answers.

    Raises:
        UnavailableError: None does; the message says how to start one.
    """
    from embedd.client import NOBODY_THERE, Client

    async with Client(address) as client:
        if not await client.is_up():
            raise UnavailableError(NOBODY_THERE)
        yield client


def duration(text: str) -> float:
    """Type of an option like ``10m``, ``300`` or ``-1``: seconds, ``math.inf`` for ever.

    Raises:
        click.BadParameter: It is no duration.
    """
    try:
        return parse_keep_alive(text)
    except RequestError as error:
        raise click.BadParameter(str(error)) from error
