"""``embedd create``, ``pull``, ``list`` and ``rm``: the models in the store."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from embedd import api
from embedd.cli.progress import Progress, open_progress
from embedd.cli.session import connect, load_settings, warn
from embedd.cli.tables import format_moment, format_size, format_table
from embedd.config import Address, Settings
from embedd.errors import EmbeddError, ModelNotFoundError, UnsupportedError

if TYPE_CHECKING:
    from embedd.client import Client

LIST_COLUMNS = ("NAME", "ID", "SIZE", "MODIFIED")


@click.command("list")
@click.argument("prefix", default="")
def list_(*, prefix: str) -> None:
    """Show the models in the store."""
    rows = _read_rows(load_settings())
    chosen = (row for row in rows if row.name.lower().startswith(prefix.lower()))
    click.echo(format_list(chosen, datetime.now(UTC)))


class Row(NamedTuple):
    """What ``embedd list`` shows of a model; *size* in bytes."""

    name: str
    digest: str
    size: int
    modified_at: datetime


def _read_rows(settings: Settings) -> Sequence[Row]:
    from embedd.runtime import open_library

    if not settings.host.is_local:
        tags = asyncio.run(_tags(settings.host))
        return [Row(tag.name, tag.digest, tag.size, tag.modified_at) for tag in tags]
    return [
        Row(entry.name, entry.digest, entry.size, datetime.fromtimestamp(entry.modified_at, UTC))
        for entry in open_library(settings).list()
    ]


async def _tags(address: Address) -> list[api.StoredModel]:
    async with connect(address) as client:
        return await client.tags()


def format_list(rows: Iterable[Row], now: datetime) -> str:
    """The table of ``embedd list``."""
    lines = (
        (row.name, row.digest[:12], format_size(row.size), format_moment(row.modified_at, now))
        for row in rows
    )
    return format_table(LIST_COLUMNS, lines)


@click.command
@click.argument("model")
@click.option("--insecure", is_flag=True, help="Allow a source without TLS.")
def pull(*, model: str, insecure: bool) -> None:
    """Fetch a model into the store."""
    pull_model(load_settings(), model, insecure=insecure)


def pull_model(settings: Settings, name: str, *, insecure: bool = False) -> None:
    """Fetch *name* into this machine's store, or have the server of another machine do it."""
    from embedd.runtime import open_library

    with open_progress() as progress:
        if settings.host.is_local:
            open_library(settings).pull(name, progress.report)
        else:
            asyncio.run(_pull(settings.host, name, progress, insecure=insecure))


async def _pull(address: Address, name: str, progress: Progress, *, insecure: bool) -> None:
    async with (
        connect(address) as client,
        aclosing(client.pull(name, insecure=insecure)) as lines,
    ):
        async for line in lines:
            progress.report(line)


@click.command
@click.argument("name")
@click.option(
    "--from",
    "source",
    required=True,
    metavar="DIR|GGUF",
    type=click.Path(exists=True, path_type=Path),
    help="Checkpoint folder or GGUF file.",
)
@click.option("-q", "--quantize", metavar="TYPE", help="Type of the weights, such as q8_0.")
def create(*, name: str, source: Path, quantize: str | None) -> None:
    """Make a model from a checkpoint folder or a GGUF file."""
    from embedd.runtime import open_library

    settings = load_settings()
    if not settings.host.is_local:
        raise UnsupportedError(
            f"create works on this machine's store, but the server is {settings.host.url}: "
            "unset EMBEDD_HOST, or run it there"
        )
    with open_progress() as progress:
        open_library(settings).create(name, source, quantize=quantize, report=progress.report)


@click.command
@click.argument("models", nargs=-1, required=True)
def rm(*, models: tuple[str, ...]) -> None:
    """Delete models from the store."""
    settings = load_settings()
    for name in models:
        _delete(settings, name)
        click.echo(f"deleted '{name}'")


def _delete(settings: Settings, name: str) -> None:
    from embedd.runtime import open_library

    if settings.host.is_local:
        asyncio.run(_unload_if_up(settings.host, name))
        open_library(settings).delete(name)
    else:
        asyncio.run(_delete_there(settings.host, name))


async def _unload_if_up(address: Address, name: str) -> None:
    from embedd.client import Client

    async with Client(address) as client:
        if await client.is_up():
            await _unload(client, name)


async def _delete_there(address: Address, name: str) -> None:
    async with connect(address) as client:
        await _unload(client, name)
        await client.delete(name)


async def _unload(client: "Client", name: str) -> None:
    """Unload *name*; what cannot be unloaded is deleted all the same."""
    try:
        await client.unload(name)
    except ModelNotFoundError:
        pass  # the server need not use this store; deleting will tell
    except EmbeddError:
        warn(f"unable to stop model '{name}'")
