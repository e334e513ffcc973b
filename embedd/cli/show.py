"""``embedd show``: a model's properties in blocks, or one of its fields unchanged."""

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import click
import msgspec

from embedd.cli.arguments import model_argument
from embedd.cli.connection import reach
from embedd.cli.settings import load_settings
from embedd.cli.tables import format_table
from embedd.config import Settings
from embedd.errors import InvalidInputError

if TYPE_CHECKING:
    from embedd.ollama_api import ShowReply

FIELDS: Final = ("license", "modelfile", "parameters", "system", "template")
MOST_LINES: Final = 2  # of a licence or a system text
MOST_CHARACTERS: Final = 35  # of a value of the metadata
MOST_ELEMENTS: Final = 2
MOST_OF_ELEMENT: Final = 10  # characters

Row = tuple[str, ...]


@click.command
@model_argument
@click.option("--license", is_flag=True, help="Print the licence alone.")
@click.option("--modelfile", is_flag=True, help="Print the Modelfile alone.")
@click.option("--parameters", is_flag=True, help="Print the parameters alone.")
@click.option("--system", is_flag=True, help="Print the system text alone.")
@click.option("--template", is_flag=True, help="Print the template alone.")
@click.option("--json", "as_json", is_flag=True, help="Print the API's reply as JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Print metadata and tensors too.")
def show(*, model: str, as_json: bool, verbose: bool, **fields: bool) -> None:
    """Show information about a model."""
    chosen = [name for name in FIELDS if fields[name]]
    if len(chosen) > 1:
        flags = ", ".join(f"'--{name}'" for name in FIELDS)
        raise InvalidInputError(f"only one of {flags} can be specified")
    reply = asyncio.run(_ask(load_settings(), model, verbose=verbose))
    if as_json:
        click.echo(msgspec.json.encode(reply))
    elif chosen:
        click.echo(getattr(reply, chosen[0]) or "")
    else:
        click.echo(format_show(reply, verbose=verbose), nl=False)


async def _ask(settings: Settings, model: str, *, verbose: bool) -> "ShowReply":
    async with reach(settings.host) as client:
        if client is not None:
            return await client.show(model, verbose=verbose)
    from embedd.runtime import open_library

    return open_library(settings).show(model, verbose=verbose)


def format_show(reply: "ShowReply", *, verbose: bool = False) -> str:
    """The blocks of ``embedd show``, a blank line after each."""
    blocks: list[tuple[str, Sequence[Row]]] = [
        ("Model", list(_model_rows(reply))),
        ("Capabilities", [(one,) for one in reply.capabilities]),
        ("Parameters", [_cells(line) for line in (reply.parameters or "").splitlines()]),
    ]
    if verbose:
        blocks += [
            ("Metadata", [(key, _brief(value)) for key, value in _metadata(reply.model_info)]),
            ("Tensors", [(one.name, one.type, str(one.shape)) for one in reply.tensors]),
        ]
    blocks += [("System", _head(reply.system or "")), ("License", _head(reply.license or ""))]
    return "".join(_format_block(title, rows) for title, rows in blocks if rows)


def _model_rows(reply: "ShowReply") -> Iterator[Row]:
    info = reply.model_info
    architecture = str(info.get("general.architecture") or reply.details.family)
    values = {
        "architecture": architecture,
        "parameters": reply.details.parameter_size,
        "context length": _format_context(reply, info.get(f"{architecture}.context_length")),
        "embedding length": info.get(f"{architecture}.embedding_length"),
        "quantization": reply.details.quantization_level,
        "weights": _find_weights(reply.modelfile),
        "backend": reply.backend or "",
        "tokenizer": reply.tokenizer or "",
    }
    for title, value in values.items():
        if value:
            yield title, str(value)


def _format_context(reply: "ShowReply", trained: object) -> str:
    """The limit of an input, and beside it that of the training if it is another."""
    found = re.search(r"^num_ctx +([0-9]+)$", reply.parameters or "", re.MULTILINE)
    if found is None or not isinstance(trained, int) or int(found[1]) >= trained:
        return str(trained or "")
    return f"{found[1]} (trained with {trained})"


def _find_weights(modelfile: str) -> str:
    """The digest that answers name in ``X-Embedd-Model``: of the file, not of the manifest."""
    found = re.search(r"^FROM .*sha256-([0-9a-f]{12})[0-9a-f]{52}\"?$", modelfile, re.MULTILINE)
    return found[1] if found else ""


def _metadata(info: Mapping[str, object]) -> Iterable[tuple[str, object]]:
    return sorted(info.items())


def _brief(value: object) -> str:
    if isinstance(value, list):
        more = f", ...+{len(value) - MOST_ELEMENTS} more" if len(value) > MOST_ELEMENTS else ""
        shown = (_cut(str(one), MOST_OF_ELEMENT) for one in value[:MOST_ELEMENTS])
        return f"[{', '.join(shown)}{more}]"
    return "" if value is None else _cut(" ".join(str(value).split()), MOST_CHARACTERS)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _cells(line: str) -> Row:
    name, _, value = line.partition(" ")
    return name, value.strip()


def _head(text: str) -> list[Row]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    shown = lines[:MOST_LINES] + ["..."] * (len(lines) > MOST_LINES)
    return [(line,) for line in shown]


def _format_block(title: str, rows: Sequence[Row]) -> str:
    first, *others = rows
    table = "".join(f"    {line}\n" for line in format_table(first, others).splitlines())
    return f"  {title}\n{table}\n"
