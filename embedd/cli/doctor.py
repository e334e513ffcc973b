"""``embedd doctor``: checks the machine, the installation and the settings."""

import json
import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

import click

from embedd.cli.checks import CHECKS, Check, State, read_checked_settings

INDENT: Final = " " * 17  # of the text beside the state and the name


@click.command
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def doctor(*, as_json: bool) -> int:
    """Check the machine, the installation and the settings.

    Each line is ok, warn or fail, with what to do. The exit status is 1 if one fails.
    """
    done = []
    for check in _run():
        done.append(check)
        if not as_json:
            click.echo(format_check(check, shutil.get_terminal_size().columns))
    if as_json:
        click.echo(json.dumps([asdict(check) for check in done], indent=2))
    return int(any(check.state is State.FAIL for check in done))


def _run() -> Iterator[Check]:
    settings, first = read_checked_settings()
    yield first
    if settings is None:
        return
    for check in CHECKS:
        yield check(settings)


def format_check(check: Check, width: int) -> str:
    """The lines of one check, in *width* columns."""
    head = f"{check.state.value:<6}{check.name:<11}"
    style = textwrap.TextWrapper(
        width=max(width, 40),
        initial_indent=head,
        subsequent_indent=INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines = style.wrap(check.found)
    if check.remedy:
        style.initial_indent = f"{INDENT}→ "
        lines += style.wrap(check.remedy)
    text = "\n".join(lines)
    colour = {State.WARN: "yellow", State.FAIL: "red"}.get(check.state)
    return click.style(text, fg=colour) if colour and sys.stdout.isatty() else text
