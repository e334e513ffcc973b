"""``embedd health``: whether the server is healthy, for health checks of containers."""

import asyncio

import click

from embedd.cli.connection import make_client
from embedd.cli.settings import load_settings
from embedd.config import Address


@click.command
@click.option("--ready", is_flag=True, help="Whether it should get requests: models are loaded.")
def health(*, ready: bool) -> None:
    """Say whether the server is healthy: exit status 0 or 1. Needs no key."""
    asyncio.run(_check(load_settings().host, ready=ready))
    click.echo("ok")


async def _check(address: Address, *, ready: bool) -> None:
    async with make_client(address) as client:
        await client.check_health(ready=ready)
