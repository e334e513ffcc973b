"""``embedd list``, ``cp``, ``rm``, ``verify`` and ``search``: the models in the store."""

import asyncio
import textwrap
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from embedd.cli.arguments import complete_model
from embedd.cli.connection import reach, require_local
from embedd.cli.progress import open_progress
from embedd.cli.settings import load_settings
from embedd.cli.tables import fit_table, format_moment, format_size, format_table, terminal_width
from embedd.config import Settings
from embedd.errors import StoreError

if TYPE_CHECKING:
    from embedd.catalog.catalog import AnyRecipe
    from embedd.library import Verified
    from embedd.ollama_api import StoredModel

LIST_COLUMNS = ("NAME", "ID", "SIZE", "MODIFIED")
SEARCH_COLUMNS = ("NAME", "DESCRIPTION", "TAGS")


@click.command("list")
@click.argument("prefix", default="")
@click.option("--json", "as_json", is_flag=True, help="Print the API's reply as JSON.")
@click.option("--disk", is_flag=True, help="Print the disk space of all models, too.")
def list_(*, prefix: str, as_json: bool, disk: bool) -> None:
    """Show the models in the store."""
    settings = load_settings()
    models = asyncio.run(_list(settings))
    chosen = [model for model in models if model.name.lower().startswith(prefix.lower())]
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(chosen))
    else:
        click.echo(format_list(chosen, datetime.now(UTC), terminal_width()))
    if disk:
        click.echo(_format_disk(settings), err=as_json)


async def _list(settings: Settings) -> "Sequence[StoredModel]":
    async with reach(settings.host) as client:
        if client is not None:
            return await client.tags()
    from embedd.runtime import open_library

    return open_library(settings).list()


def _format_disk(settings: Settings) -> str:
    from embedd.runtime import open_library

    require_local(settings, "--disk")
    return f"{format_size(open_library(settings).disk_use())} on disk, shared files once"


def format_list(models: "Iterable[StoredModel]", now: datetime, width: int | None = None) -> str:
    """The table of ``embedd list``, in *width* columns."""
    lines = (
        (model.name, model.digest[:12], format_size(model.size),
         format_moment(model.modified_at, now))
        for model in models
    )  # fmt: skip
    return fit_table(LIST_COLUMNS, lines, width, ("ID", "MODIFIED"))


@click.command
@click.argument("source", shell_complete=complete_model)
@click.argument("destination")
def cp(*, source: str, destination: str) -> None:
    """Copy a model to another name."""
    asyncio.run(_copy(load_settings(), source, destination))
    click.echo(f"copied '{source}' to '{destination}'")


async def _copy(settings: Settings, source: str, destination: str) -> None:
    async with reach(settings.host, changes=True) as client:
        if client is not None:
            await client.copy(source, destination)
            return
    from embedd.runtime import open_library

    open_library(settings).copy(source, destination)


@click.command
@click.argument("models", nargs=-1, required=True, shell_complete=complete_model)
def rm(*, models: tuple[str, ...]) -> None:
    """Delete models from the store."""
    settings = load_settings()
    for name in models:
        asyncio.run(_delete(settings, name))
        click.echo(f"deleted '{name}'")


async def _delete(settings: Settings, name: str) -> None:
    async with reach(settings.host, changes=True) as client:
        if client is not None:
            await client.delete(name)
            return
    from embedd.runtime import open_library

    open_library(settings).delete(name)


@click.command
@click.argument("model", required=False, shell_complete=complete_model)
@click.option("--prune", is_flag=True, help="Remove the files that no model uses.")
def verify(*, model: str | None, prune: bool) -> None:
    """Hash the files of a model, or of all models, again."""
    from embedd.runtime import open_library

    settings = load_settings()
    require_local(settings, "verify")
    library = open_library(settings)
    if prune:
        click.echo(f"removed {_count(len(library.prune()), 'file')} that no model used")
    with open_progress() as report:
        found = library.verify(model, report)
    click.echo(format_verified(found))
    for problem in found.problems:
        click.echo(problem, err=True)
    if found.problems:
        raise StoreError(f"{_count(len(found.problems), 'problem')} found")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def format_verified(found: "Verified") -> str:
    """How many files were hashed, and how many of them no model uses."""
    files, models = _count(found.blobs, "file"), _count(found.models, "model")
    text = f"verified {files} of {models}, {format_size(found.size)}"
    if not found.unused:
        return text
    return (
        f"{text}; {len(found.unused)} of them belong to no model "
        "(--prune removes those older than an hour)"
    )


@click.command
@click.argument("word", default="")
def search(*, word: str) -> None:
    """Show the models that can be pulled by a short name."""
    from embedd.runtime import open_library

    found = open_library(load_settings()).search(word)
    if not found:
        click.echo(
            f'no model matches "{word}": `embedd search` lists all short names; '
            "`embedd pull hf.co/USER/REPOSITORY` takes a GGUF from the hub",
            err=True,
        )
        return
    click.echo(format_search(found, terminal_width()))


def format_search(recipes: "Iterable[AnyRecipe]", width: int | None = None) -> str:
    """The table of ``embedd search``; where it is wider than *width*, a paragraph a model."""
    rows = [(recipe.name, recipe.description, ",".join(recipe.tags)) for recipe in recipes]
    table = format_table(SEARCH_COLUMNS, rows)
    if width is None or all(len(line) <= width for line in table.splitlines()):
        return table
    return "\n".join(
        textwrap.fill(text, width, initial_indent=indent, subsequent_indent="  ")
        for name, description, tags in rows
        for indent, text in (("", name), ("  ", description), ("  ", tags.replace(",", ", ")))
    )
