"""``embedd image``: a prompt in, pictures out, as files that never replace others."""

import asyncio
import base64
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import click

from embedd import ollama_api as api
from embedd.cli.arguments import model_argument
from embedd.cli.connection import connect
from embedd.cli.settings import load_settings
from embedd.config import Address
from embedd.errors import InvalidInputError, RequestError

FORMATS: Final = ("png", "jpeg", "webp")
SUFFIXES: Final = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
MOST_PICTURES: Final = 100
SEEDS: Final = 1 << 32
RANDOM: Final = -1
NANOSECONDS: Final = 1e9
NO_PAINTER: Final = "does not support generate"  # the server about an embedding model

# Called with the steps done and the steps in all.
Report: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What to paint; None is the model's own."""

    model: str
    prompt: str
    negative: str | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    format: str = "png"

    def to_body(self, seed: int) -> api.GenerateBody:
        """The request for one picture."""
        return api.GenerateBody(
            model=self.model,
            prompt=self.prompt,
            negative_prompt=self.negative,
            width=self.width,
            height=self.height,
            steps=self.steps,
            guidance=self.guidance,
            output_format=self.format,
            options={"seed": seed},
        )


def size(text: str) -> tuple[int, int]:
    """Type of an option like ``512x768``.

    Raises:
        click.BadParameter: *text* is not a size.
    """
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text.lower())
    if match is None:
        raise click.BadParameter(f"{text!r} is not width and height, such as 512x512")
    return int(match[1]), int(match[2])


@click.command
@model_argument
@click.argument("prompt", nargs=-1, required=True)
@click.option("-o", "--output", metavar="FILE", help="File to write; - is stdout.")
@click.option("--size", "pixels", type=size, metavar="WxH", help="Width and height in pixels.")
@click.option("--steps", type=int, help="Steps; more take longer.")
@click.option("--guidance", type=float, help="How strictly the picture follows the prompt.")
@click.option("--negative", metavar="TEXT", help="What not to paint.")
@click.option("--seed", type=int, help="Seed; the same one paints the same picture again.")
@click.option("-n", "count", type=click.IntRange(1, MOST_PICTURES), default=1, help="Pictures.")
@click.option("--format", "form", type=click.Choice(FORMATS), help="Format of the file.")
@click.option("--open", "show", is_flag=True, help="Open the pictures.")
def image(
    *,
    model: str,
    prompt: tuple[str, ...],
    output: str | None,
    pixels: tuple[int, int] | None,
    steps: int | None,
    guidance: float | None,
    negative: str | None,
    seed: int | None,
    count: int,
    form: str | None,
    show: bool,
) -> None:
    """Paint a picture from a prompt (- is stdin), and print the path of its file."""
    width, height = pixels or (None, None)
    suffix = Path(output or "").suffix.lower()
    wish = Wish(
        model=model,
        prompt=sys.stdin.read().strip() if prompt == ("-",) else " ".join(prompt),
        negative=negative,
        width=width,
        height=height,
        steps=steps,
        guidance=guidance,
        format=form or SUFFIXES.get(suffix, "png"),
    )
    if output == "-" and (count > 1 or show):
        raise click.UsageError("-o - writes one picture to stdout: -n and --open need files")
    paint_files(load_settings().host, wish, output=output, seed=seed, count=count, show=show)


def paint_files(
    address: Address,
    wish: Wish,
    *,
    output: str | None = None,
    seed: int | None = None,
    count: int = 1,
    show: bool = False,
) -> None:
    """Paint *count* pictures, and write and name a file for each.

    Args:
        output: File to write; ``-`` is stdout, None a name from model and seed.
        seed: Of the first picture; None is random.

    Raises:
        InvalidInputError: A file of that name exists.
        EmbeddError: The server refuses or fails.
    """
    first = secrets.randbelow(SEEDS) if seed in (None, RANDOM) else seed
    names = _choose_names(output, count)
    for number, name in enumerate(names):
        # A seed outside the limits is for the server to refuse.
        own = (first + number) % SEEDS if 0 <= first < SEEDS else first
        with open_progress() as report:
            line = asyncio.run(_paint(address, wish.to_body(own), report))
        data = base64.b64decode(line.image or "")
        if output == "-":
            sys.stdout.buffer.write(data)
            path = None
        else:
            path = _write(name or _make_name(wish, own), data, is_chosen=name is not None)
            click.echo(str(path))
        seconds = (line.total_duration or 0) / NANOSECONDS
        click.echo(f"seed {own}, {seconds:.1f} s", err=True)
        if show and path is not None:
            click.launch(str(path))


async def _paint(address: Address, body: api.GenerateBody, report: Report) -> api.GenerateReply:
    try:
        async with connect(address) as client, aclosing(client.paint(body)) as lines:
            async for line in lines:
                if line.done:
                    return line
                report(line.completed or 0, line.total or 0)
    except RequestError as error:
        if str(error).endswith(NO_PAINTER):
            raise InvalidInputError(
                f'"{body.model}" is an embedding model and does not paint: '
                "`embedd search images` lists image models"
            ) from error
        raise
    raise AssertionError("the last line is done, or an error")


def _choose_names(output: str | None, count: int) -> list[Path | None]:
    """The names that *output* gives: numbered, if there are several pictures.

    Raises:
        InvalidInputError: Such a file exists: nothing was painted yet.
    """
    if output is None or output == "-":
        return [None] * count
    path = Path(output)
    names = [path]
    if count > 1:
        names = [path.with_stem(f"{path.stem}-{number}") for number in range(1, count + 1)]
    for name in names:
        if name.exists():
            raise _exists(name)
    return list(names)


def _make_name(wish: Wish, seed: int) -> Path:
    model = re.sub(r"[^A-Za-z0-9._-]+", "-", wish.model).strip("-.") or "image"
    return Path(f"{model}-{seed}.{wish.format}")


def _write(path: Path, data: bytes, *, is_chosen: bool) -> Path:
    """Write *data* to a new file; to the next free name, unless the name was chosen."""
    number = 1
    place = path
    while True:
        try:
            with place.open("xb") as file:
                file.write(data)
        except FileExistsError:
            if is_chosen:
                raise _exists(path) from None
            number += 1
            place = path.with_stem(f"{path.stem}-{number}")
        else:
            return place


def _exists(path: Path) -> InvalidInputError:
    return InvalidInputError(f"{path} exists and is not replaced: choose another name")


@contextmanager
def open_progress() -> Iterator[Report]:
    """Show the steps on stderr, if it is a terminal, until the end of the block."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn(compact=True))  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("waiting", total=None)

        def report(done: int, total: int) -> None:
            words = "painting" if done < total else "finishing"
            bar.update(task, description=words, completed=done, total=total or None)

        yield report
