"""``embedd help``, and the examples that end the help of each command."""

from collections.abc import Mapping
from typing import Final

import click

EXAMPLES: Final[Mapping[str, tuple[str, ...]]] = {
    "serve": ("embedd serve", "embedd serve --host 0.0.0.0 --load all-minilm"),
    "pull": (
        "embedd pull all-minilm",
        "embedd pull hf.co/user/repository:Q8_0",
        "embedd pull --all",
    ),
    "create": (
        "embedd create mine --from ./checkpoint --quantize q8_0",
        "embedd create mine -f Modelfile",
    ),
    "list": ("embedd list", "embedd list --json"),
    "show": ("embedd show all-minilm", "embedd show all-minilm --modelfile"),
    "cp": ("embedd cp all-minilm mine",),
    "rm": ("embedd rm mine",),
    "search": ("embedd search", "embedd search multilingual"),
    "verify": ("embedd verify all-minilm", "embedd verify --prune"),
    "health": ("embedd health", "embedd health --ready"),
    "doctor": ("embedd doctor", "embedd doctor --json"),
    "ps": ("embedd ps", "embedd ps --json"),
    "stop": ("embedd stop all-minilm",),
    "run": ('embedd run all-minilm "Why is the sky blue?"', "embedd run all-minilm - < text.txt"),
    "embed": (
        'embedd embed all-minilm "Why is the sky blue?" "Because."',
        "embedd embed all-minilm - < lines.txt",
    ),
    "bulk": (
        "embedd bulk all-minilm 'corpus/*.jsonl' -o vectors.npy",
        "embedd bulk all-minilm books.csv -o books/ --text title",
    ),
    "image": ('embedd image sd-turbo "a lovely cat" -o cat.png',),
    "tune": ("embedd tune all-minilm", "embedd tune all-minilm --show"),
    "bench": ("embedd bench all-minilm",),
    "compare": ("embedd compare http://127.0.0.1:8080 all-minilm",),
    "help": ("embedd help", "embedd help pull"),
}


@click.command("help")
@click.argument("command", required=False)
@click.pass_context
def help_(ctx: click.Context, *, command: str | None) -> None:
    """Show the help of embedd or of a command."""
    parent = ctx.parent
    assert parent is not None  # noqa: S101 - it is a command of the group
    group = parent.command
    assert isinstance(group, click.Group)  # noqa: S101 - see above
    if command is None:
        click.echo(parent.get_help())
        return
    name, found, _ = group.resolve_command(parent, [command])
    if found is not None:
        click.echo(found.get_help(click.Context(found, info_name=name, parent=parent)))


def add_examples(name: str, command: click.Command) -> None:
    """End the help of *command* with its examples, unless it has an end of its own."""
    examples = EXAMPLES.get(name)
    if examples and command.epilog is None:
        command.epilog = "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)
