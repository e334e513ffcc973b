"""``embedd pull``: through the server that answers, else into this machine's store."""

import asyncio
from contextlib import aclosing

import click

from embedd.cli.arguments import complete_recipe
from embedd.cli.connection import reach, require_local
from embedd.cli.progress import Report, open_progress, report_all
from embedd.cli.settings import load_settings
from embedd.config import Settings
from embedd.errors import PullError
from embedd.names import parse_model_name


@click.command
@click.argument("model", required=False, shell_complete=complete_recipe)
@click.option("--insecure", is_flag=True, help="Allow a source without TLS.")
@click.option("--all", "refresh", is_flag=True, help="Pull again what was pulled before.")
def pull(*, model: str | None, insecure: bool, refresh: bool) -> None:
    """Pull a model into the store."""
    if refresh == (model is not None):
        raise click.UsageError("give a model, or --all")
    settings = load_settings()
    if model is None:
        _refresh(settings)
    else:
        pull_model(settings, model, insecure=insecure)


def pull_model(settings: Settings, name: str, *, insecure: bool = False) -> None:
    """Pull *name* through the server that answers, else into this machine's store."""
    from embedd.runtime import open_library

    parse_model_name(name)  # its error names it; Ollama's, which a server sends, does not
    with open_progress() as report:
        # Not within the event loop, so that Ctrl-C ends the pull at once.
        if not asyncio.run(_pull_through_server(settings, name, report, insecure=insecure)):
            open_library(settings).pull(name, report, insecure=insecure)


async def _pull_through_server(
    settings: Settings, name: str, report: Report, *, insecure: bool
) -> bool:
    """Pull through the server; False if none answers."""
    async with reach(settings.host, changes=True) as client:
        if client is None:
            return False
        async with aclosing(client.pull(name, insecure=insecure)) as lines:
            await report_all(lines, report)
        return True


def _refresh(settings: Settings) -> None:
    from embedd.runtime import open_library

    require_local(settings, "pull --all")
    with open_progress() as report:
        done = open_library(settings).refresh(report)
    for one in done:
        state = one.error or ("updated" if one.changed else "up to date")
        click.echo(f"{one.name}: {state}", err=bool(one.error))
    failed = sum(bool(one.error) for one in done)
    if failed:
        raise PullError(f"{failed} of {len(done)} models could not be pulled")
