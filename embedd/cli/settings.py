"""The settings of a command, and warnings on stderr."""

import logging
import sys

import click

from embedd.config import Settings, read_settings
from embedd.logs import set_up_logs


def warn(text: str) -> None:
    """Print a warning on stderr."""
    click.echo(f"Warning: {text}", err=True)


def load_settings() -> Settings:
    """Settings from the environment, with a warning for each value that cannot be parsed.

    Also sets up the log on stderr: warnings and errors, or everything if DEBUG is set.
    """
    settings = read_settings(warn=warn)
    set_up_logs(settings.debug, sys.stderr)
    if not settings.debug:
        logging.getLogger("embedd").setLevel(logging.WARNING)
    return settings
