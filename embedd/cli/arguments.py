"""Arguments and option types that several commands have."""

from collections.abc import Iterable

import click

from embedd.config import read_settings
from embedd.durations import parse_keep_alive
from embedd.errors import EmbeddError, RequestError


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

    try:
        settings = read_settings(warn=lambda _: None)
        names = [name.display for name in open_store(settings).manifests.names()]
    except EmbeddError:  # a shell shows nothing instead
        return []
    return _choose(names, incomplete)


def complete_recipe(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names that can be pulled and begin with *incomplete*, for the shell; tags after a colon."""
    del ctx, param
    from embedd.runtime import open_library

    try:
        recipes = open_library(read_settings(warn=lambda _: None)).search()
    except EmbeddError:
        return []
    if ":" in incomplete:
        return _choose((f"{one.name}:{tag}" for one in recipes for tag in one.tags), incomplete)
    return _choose((one.name for one in recipes), incomplete)


def _choose(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.lower().startswith(incomplete.lower())]


model_argument = click.argument("model", shell_complete=complete_model)
