"""``embedd run`` and ``embedd embed``: texts in, vectors out; a picture from an image model."""

import asyncio
import os
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from typing import BinaryIO, Final

import click
import msgspec

from embedd import ollama_api as api
from embedd.cli.arguments import duration, model_argument
from embedd.cli.connection import connect
from embedd.cli.settings import load_settings, warn
from embedd.config import Address
from embedd.errors import InvalidInputError, ModelNotFoundError

STDIN: Final = ("-",)  # as an argument
CHUNK_TEXTS: Final = 256
CHUNK_CHARACTERS: Final = 1 << 20


class _RunCommand(click.Command):
    """Takes ``--truncate`` without a value for ``--truncate=true``, as Ollama does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        options = ["--truncate=true" if arg == "--truncate" else arg for arg in args[:end]]
        return super().parse_args(ctx, options + args[end:])


_dimensions = click.option(
    "--dimensions",
    type=click.IntRange(min=1),
    help="Numbers to keep of each vector, for models made for that.",
)
_keepalive = click.option(
    "--keepalive", "keep_alive", type=duration, help="How long the model stays in memory."
)


@click.command(cls=_RunCommand)
@model_argument
@click.argument("text", nargs=-1)
@click.option("--truncate", type=bool, help="Whether a text that is too long may be cut.")
@_dimensions
@_keepalive
def run(
    *,
    model: str,
    text: tuple[str, ...],
    truncate: bool | None,
    dimensions: int | None,
    keep_alive: float | None,
) -> None:
    """Print the vector of one text, or paint with an image model.

    The text is stdin, if it is not a terminal or the argument is -, and the arguments.
    """
    from embedd.cli.pull import pull_model

    stdin = sys.stdin.buffer if text == STDIN else _open_stdin()
    text = () if text == STDIN else text
    piped = _decode(stdin.read(), "stdin").rstrip("\r\n") if stdin else ""
    whole = " ".join(filter(None, [piped, *text]))
    if not whole.strip():
        raise InvalidInputError(
            'embedding models require input text. Usage: embedd run NAME "your text here"'
        )
    settings = load_settings()
    try:
        shown = asyncio.run(_show(settings.host, model))
    except ModelNotFoundError:
        pull_model(settings, model)
        shown = asyncio.run(_show(settings.host, model))
    if "image" in shown.capabilities:
        from embedd.cli.image import Wish, paint_files

        paint_files(settings.host, Wish(model=model, prompt=whole))
        return
    reply = asyncio.run(
        _embed(
            settings.host,
            model,
            [whole],
            truncate=truncate,
            dimensions=dimensions,
            keep_alive=keep_alive,
        )
    )
    click.echo(msgspec.json.encode(reply.embeddings[0]))
    _warn_of_width(dimensions, reply)


def _warn_of_width(dimensions: int | None, reply: api.EmbedReply) -> None:
    width = len(reply.embeddings[0]) if reply.embeddings else 0
    if dimensions is not None and 0 < width < dimensions:
        warn(f"--dimensions {dimensions} has no effect: the vectors have {width} numbers")


async def _show(address: Address, model: str) -> api.ShowReply:
    async with connect(address) as client:
        return await client.show(model)


async def _embed(
    address: Address,
    model: str,
    texts: list[str],
    *,
    truncate: bool | None = None,
    dimensions: int | None = None,
    keep_alive: float | None = None,
    input_type: str | None = None,
) -> api.EmbedReply:
    async with connect(address) as client:
        return await client.embed(
            model,
            texts,
            truncate=truncate,
            dimensions=dimensions,
            keep_alive=keep_alive,
            input_type=input_type,
        )


@click.command
@model_argument
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print objects: index, text, embedding.")
@click.option("--truncate/--no-truncate", default=None, help="Cut, or refuse, too long texts.")
@click.option("--input-type", type=click.Choice(["query", "document"]), help="Use of the texts.")
@_dimensions
@_keepalive
def embed(
    *,
    model: str,
    texts: tuple[str, ...],
    as_json: bool,
    truncate: bool | None,
    input_type: str | None,
    dimensions: int | None,
    keep_alive: float | None,
) -> None:
    """Print the vectors of texts, or of the lines of stdin (-): one JSON array a line."""
    source = _choose_source(texts)
    for text in texts:
        if os.path.isfile(text):  # noqa: PTH113 - a long text is not the name of a file, no error
            warn(
                f"{text} is embedded as a text; for the lines of the file: "
                f"embedd embed {model} - < {text}"
            )
    ask = partial(
        _embed,
        load_settings().host,
        model,
        truncate=truncate,
        dimensions=dimensions,
        keep_alive=keep_alive,
        input_type=input_type,
    )
    done = cut = 0
    # One event loop per chunk: none runs while stdin is read, so Ctrl-C ends that at once.
    for chunk in take_chunks(source):
        reply = asyncio.run(ask(chunk))
        click.echo(_format(chunk, reply, done, as_json=as_json))
        if not done:
            _warn_of_width(dimensions, reply)
        done += len(chunk)
        cut += len(reply.truncated)
    if cut:
        warn(f"{cut} of {done} texts were cut to the context length (--no-truncate refuses them)")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A line of ``embedd embed --json``."""

    index: int
    text: str
    embedding: list[float]


def _format(chunk: list[str], reply: api.EmbedReply, first: int, *, as_json: bool) -> bytes:
    if not as_json:
        return b"\n".join(map(msgspec.json.encode, reply.embeddings))
    return b"\n".join(
        msgspec.json.encode(Row(index=index, text=text, embedding=vector))
        for index, (text, vector) in enumerate(zip(chunk, reply.embeddings, strict=True), first)
    )


def _open_stdin() -> BinaryIO | None:
    """Stdin, None if it is a terminal or closed."""
    return None if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer


def _choose_source(arguments: tuple[str, ...]) -> Iterable[str]:
    if arguments == STDIN:
        return read_lines(sys.stdin.buffer)
    if arguments:
        return arguments
    stdin = _open_stdin()
    if stdin is None:
        raise click.UsageError("give texts as arguments, or one per line on stdin")
    return read_lines(stdin)


def read_lines(stream: BinaryIO) -> Iterator[str]:
    """Lines without line ends; an empty line counts as a text.

    Raises:
        InvalidInputError: A line is not UTF-8.
    """
    for number, line in enumerate(stream, 1):
        yield _decode(line.rstrip(b"\r\n"), f"line {number} of stdin")


def _decode(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{what} is not UTF-8: {error.reason}") from error


def take_chunks(
    texts: Iterable[str], most: int = CHUNK_TEXTS, characters: int = CHUNK_CHARACTERS
) -> Iterator[list[str]]:
    """The texts in order, in lists of at most *most* texts and *characters* characters.

    A text with more characters is a list of its own, so memory stays bounded.
    """
    chunk: list[str] = []
    size = 0
    for text in texts:
        if chunk and (len(chunk) == most or size + len(text) > characters):
            yield chunk
            chunk, size = [], 0
        chunk.append(text)
        size += len(text)
    if chunk:
        yield chunk
