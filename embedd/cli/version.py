"""``embedd --version``: the version of the server, and of this command if it differs."""

import asyncio
from importlib.metadata import version

import click

from embedd.cli.connection import make_client
from embedd.cli.settings import load_settings, warn
from embedd.config import Address
from embedd.errors import EmbeddError


def show_version() -> None:
    """Print the server's version, or this command's if no server answers."""
    own = version("embedd-server")
    server = asyncio.run(_ask(load_settings().host))
    if server is None:
        warn("could not connect to a running embedd instance")
    click.echo(f"embedd version is {server or own}")
    if server not in {None, own}:
        warn(f"client version is {own}")


async def _ask(address: Address) -> str | None:
    try:
        async with make_client(address) as client:
            return await client.version()
    except EmbeddError:
        return None
