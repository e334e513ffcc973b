"""``embedd ps`` and ``embedd stop``: the models in memory."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime

import click
import msgspec

from embedd import ollama_api as api
from embedd.cli.arguments import model_argument
from embedd.cli.connection import connect
from embedd.cli.settings import load_settings
from embedd.cli.tables import (
    fit_table,
    format_processor,
    format_size,
    format_until,
    terminal_width,
)
from embedd.config import Address

PS_COLUMNS = ("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL", "BACKEND", "TOKENIZER")

LESS_IMPORTANT = ("ID", "TOKENIZER", "CONTEXT", "PROCESSOR", "UNTIL")


@click.command
@click.argument("prefix", default="")
@click.option("--json", "as_json", is_flag=True, help="Print the API's reply as JSON.")
def ps(*, prefix: str, as_json: bool) -> None:
    """Show the models in memory."""
    models = asyncio.run(_ask(load_settings().host))
    chosen = [model for model in models if model.name.startswith(prefix)]
    if as_json:
        click.echo(msgspec.json.encode(chosen))
    else:
        click.echo(format_ps(chosen, datetime.now(UTC), terminal_width()))


async def _ask(address: Address) -> list[api.RunningModel]:
    async with connect(address) as client:
        return await client.ps()


def format_ps(models: Iterable[api.RunningModel], now: datetime, width: int | None = None) -> str:
    """The table of ``embedd ps``, in *width* columns."""
    rows = (
        (
            model.name,
            model.digest[:12],
            format_size(model.size),
            format_processor(model.size, model.size_vram),
            str(model.context_length),
            format_until(model.expires_at, now),
            model.backend or "",
            model.tokenizer or "",
        )
        for model in models
    )
    return fit_table(PS_COLUMNS, rows, width, LESS_IMPORTANT)


@click.command
@model_argument
def stop(*, model: str) -> None:
    """Unload a model."""
    asyncio.run(_unload(load_settings().host, model))


async def _unload(address: Address, model: str) -> None:
    async with connect(address) as client:
        await client.unload(model)
