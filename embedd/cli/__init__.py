"""The command line: ``embedd <command>``. A command is imported when it runs.

Exit status: 0 done, 1 an error, 2 wrong usage, 130 interrupted.
"""

import difflib
import gc
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Final, NamedTuple

import click

from embedd.cli.help import add_examples
from embedd.errors import EmbeddError, ModelNotFoundError, UnauthorizedError

# How Ollama's clients know the error, which then says what is not found.
NOT_PULLED: Final = "pull model manifest: file does not exist: "
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it


class Entry(NamedTuple):
    """Module and function of a command, and its line in the help.

    The line is repeated here so that ``--help`` imports no command.
    """

    module: str
    function: str
    summary: str


COMMANDS: Final[Mapping[str, Entry]] = {
    "serve": Entry("serve", "serve", "Run the server."),
    "pull": Entry("pull", "pull", "Pull a model into the store."),
    "create": Entry("create", "create", "Make a model from files or from another model."),
    "list": Entry("models", "list_", "Show the models in the store."),
    "show": Entry("show", "show", "Show information about a model."),
    "cp": Entry("models", "cp", "Copy a model to another name."),
    "rm": Entry("models", "rm", "Delete models from the store."),
    "search": Entry("models", "search", "Show the models that can be pulled by a short name."),
    "verify": Entry("models", "verify", "Hash the files of a model, or of all models, again."),
    "health": Entry("health", "health", "Say whether the server is healthy."),
    "doctor": Entry("doctor", "doctor", "Check the machine, the installation and the settings."),
    "ps": Entry("ps", "ps", "Show the models in memory."),
    "stop": Entry("ps", "stop", "Unload a model."),
    "run": Entry("embed", "run", "Print the vector of one text, or paint with an image model."),
    "embed": Entry("embed", "embed", "Print the vectors of texts, or of the lines of stdin."),
    "bulk": Entry("bulk.command", "bulk", "Embed files: every row gets a vector, once."),
    "image": Entry("image", "image", "Paint a picture from a prompt."),
    "tune": Entry("tune", "tune", "Measure how a model computes fastest on this machine."),
    "bench": Entry("bench", "bench", "Measure how fast the server embeds."),
    "compare": Entry("bench", "compare", "Compare the server with another one."),
    "help": Entry("help", "help_", "Show the help of embedd or of a command."),
}
ALIASES: Final[Mapping[str, str]] = {"start": "serve", "ls": "list"}


class LazyGroup(click.Group):
    """Finds commands in `COMMANDS`, and imports only the one that runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names without aliases, in the order of the help."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command; None if there is no such command."""
        del ctx
        entry = COMMANDS.get(ALIASES.get(cmd_name, cmd_name))
        if entry is None:
            return None
        gc.disable()  # modules stay: looking for garbage takes a tenth of the time
        module = import_module(f"embedd.cli.{entry.module}")
        gc.enable()
        command: click.Command = getattr(module, entry.function)
        add_examples(ALIASES.get(cmd_name, cmd_name), command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command as `click.Group` does; an unknown one is named with those like it."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            near = difflib.get_close_matches(name.lower(), [*COMMANDS, *ALIASES], 2)
            hint = f": did you mean {' or '.join(near)}?" if near else ""
            raise click.UsageError(f"there is no command '{name}'{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help from `COMMANDS`, without importing commands."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])


def _show_version(ctx: click.Context, _: click.Parameter, value: object) -> None:
    if value and not ctx.resilient_parsing:
        from embedd.cli.version import show_version

        show_version()
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-v",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version of the server and of this command.",
)
def root() -> None:
    """Serve embeddings from local models."""


def run(args: Sequence[str] | None = None) -> int:
    """Run one command, print errors on stderr, and return the exit status."""
    try:
        status = root.main(args, prog_name="embedd", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Exception as error:  # users see a line, not a traceback
        click.echo(f"Error: {_explain(error)}", err=True)
        return 1
    return status if isinstance(status, int) else 0


def _explain(error: Exception) -> str:
    match error:
        case UnauthorizedError():
            what = str(error).partition(":")[0]  # how programs send it comes after
            return (
                f"{what}: set EMBEDD_API_KEY to a key of the server, and EMBEDD_ADMIN_KEY where "
                "managing models needs another one"
            )
        case ModelNotFoundError(name=str(name)) if name:
            hint = error.hint or "`embedd list` shows the stored models, `embedd search` others"
            return f'model "{name}" not found: {hint}'
        case OSError(filename=str(name), strerror=str(reason)):
            return f"{name}: {reason}"
        case EmbeddError() | OSError():
            return str(error).removeprefix(NOT_PULLED)
        case UnicodeError():
            return "the text is not UTF-8"
        case _:
            return f"internal error: {type(error).__name__}: {error}"


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run())
