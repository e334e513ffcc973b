"""``embedd --version``: the version of the server, and of this command if it differs."""

import asyncio
from importlib.metadata import version
from typing import TYPE_CHECKING

import click

from embedd.cli.connection import make_client
from embedd.cli.settings import load_settings, warn
from embedd.config import Address
from embedd.errors import EmbeddError

if TYPE_CHECKING:
    from embedd.client import Identity


def show_version() -> None:
    """Print the server's version, or this command's if no embedd answers."""
    own = version("embedd-server")
    address = load_settings().host
    server = asyncio.run(_ask(address))
    if server is None:
        warn(f"could not connect to a running embedd instance at {address.url}")
    elif not server.is_embedd:
        warn(f"{address.url} is not embedd but {server}")
    if server is None or not server.is_embedd or server.version == own:
        click.echo(f"embedd version is {own}")
        return
    click.echo(f"embedd version is {server.version}")
    warn(f"client version is {own}")


async def _ask(address: Address) -> "Identity | None":
    try:
        async with make_client(address) as client:
            return await client.identify()
    except EmbeddError:
        return None
