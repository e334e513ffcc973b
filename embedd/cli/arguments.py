"""Arguments and option types that several commands have."""

import click

from embedd.config import read_settings
from embedd.durations import parse_keep_alive
from embedd.errors import RequestError


def duration(text: str) -> float:
    """Type of an option like ``10m``, ``300`` or ``-1``: seconds, ``math.inf`` for ever.

    Raises:
        click.BadParameter: *text* is not a duration.
    """
    try:
        return parse_keep_alive(text)
    except RequestError as error:
        raise click.BadParameter(str(error)) from error


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of stored models that begin with *incomplete*, for the shell."""
    del ctx, param
    from embedd.runtime import open_store

    settings = read_settings(warn=lambda _: None)
    names = [name.display for name in open_store(settings).manifests.names()]
    return [name for name in names if name.lower().startswith(incomplete.lower())]


model_argument = click.argument("model", shell_complete=complete_model)
