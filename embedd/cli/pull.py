"""``embedd pull`` and ``embedd create``: through the server that answers, else on the store."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from embedd.cli.progress import Progress, open_progress
from embedd.cli.session import load_settings, reach, require_local, warn
from embedd.config import Settings
from embedd.errors import EmbeddError, InvalidInputError, PullError
from embedd.modelfile import Modelfile, decode_modelfile, parse_modelfile

if TYPE_CHECKING:
    from embedd.client import Client

CHUNK: Final = 1 << 20
# What a checkpoint consists of: other files beside it are no part of it.
PATTERNS: Final = ("*.safetensors", "*.json", "*.txt", "*.model", "[0-9]*_*/*.json")


@click.command
@click.argument("model", required=False)
@click.option("--insecure", is_flag=True, help="Allow a source without TLS.")
@click.option("--all", "refresh", is_flag=True, help="Pull again what was pulled before.")
def pull(*, model: str | None, insecure: bool, refresh: bool) -> None:
    """Fetch a model into the store."""
    if refresh == (model is not None):
        raise click.UsageError("give a model, or --all")
    settings = load_settings()
    if model is None:
        _refresh(settings)
    else:
        pull_model(settings, model, insecure=insecure)


def pull_model(settings: Settings, name: str, *, insecure: bool = False) -> None:
    """Fetch *name*: by the server that answers, or into this machine's store."""
    from embedd.runtime import open_library

    with open_progress() as progress:
        # Not within the event loop: Ctrl-C ends what runs in this thread at once.
        if not asyncio.run(_pull_there(settings, name, progress, insecure=insecure)):
            open_library(settings).pull(name, progress.report, insecure=insecure)


async def _pull_there(settings: Settings, name: str, progress: Progress, *, insecure: bool) -> bool:
    """Whether there was a server to do it."""
    async with reach(settings.host) as client:
        if client is None:
            return False
        async with aclosing(client.pull(name, insecure=insecure)) as lines:
            async for line in lines:
                progress.report(line)
        return True


def _refresh(settings: Settings) -> None:
    from embedd.runtime import open_library

    require_local(settings, "pull --all")
    with open_progress() as progress:
        done = open_library(settings).refresh(progress.report)
    for one in done:
        state = one.error or ("updated" if one.changed else "up to date")
        click.echo(f"{one.name}: {state}", err=bool(one.error))
    failed = sum(bool(one.error) for one in done)
    if failed:
        raise PullError(f"{failed} of {len(done)} models could not be pulled")


@click.command
@click.argument("name", metavar="MODEL")
@click.option(
    "-f",
    "--file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="Modelfile; - is stdin  [Modelfile]",
)
@click.option("--from", "source", metavar="PATH|MODEL", help="What it is made of.")
@click.option("-q", "--quantize", metavar="TYPE", help="Type of the weights, such as q8_0.")
def create(*, name: str, file: Path | None, source: str | None, quantize: str | None) -> None:
    """Make a model from files or from another model."""
    modelfile, folder = _read_modelfile(file, source)
    for warning in modelfile.warnings:
        warn(warning)
    settings, found = load_settings(), _find(modelfile.source, folder)
    with open_progress() as progress:
        done = _create_there(settings, name, modelfile, found, quantize=quantize, progress=progress)
        if asyncio.run(done):
            return
        from embedd.runtime import open_library

        open_library(settings).create(
            name,
            found,
            quantize=quantize,
            parameters=modelfile.parameters,
            licenses=modelfile.licenses,
            report=progress.report,
        )


def _read_modelfile(file: Path | None, source: str | None) -> tuple[Modelfile, Path]:
    """What the model is to be, and the folder that its paths start from."""
    path = file or Path("Modelfile")
    if file is None and source is not None:
        return Modelfile(source=source), Path.cwd()
    if file is None and not path.is_file():
        raise InvalidInputError("no Modelfile here: give one with -f, or a source with --from")
    is_stdin = str(path) == "-"
    parsed = parse_modelfile(
        decode_modelfile(sys.stdin.buffer.read() if is_stdin else path.read_bytes())
    )
    if source is not None:
        return replace(parsed, source=source), Path.cwd()
    return parsed, Path.cwd() if is_stdin else path.absolute().parent


def _find(source: str, folder: Path) -> Path | str:
    """The file or folder that *source* is; if there is none, *source* names a model."""
    path = folder / Path(source).expanduser()
    if path.exists():
        return path
    if source.startswith((".", "/", "~")) or source.lower().endswith((".gguf", ".safetensors")):
        raise InvalidInputError(f"{source} does not exist: give a checkpoint folder or a GGUF")
    return source


async def _create_there(
    settings: Settings,
    name: str,
    modelfile: Modelfile,
    source: Path | str,
    *,
    quantize: str | None,
    progress: Progress,
) -> bool:
    """Whether there was a server to do it."""
    async with reach(settings.host) as client:
        if client is None:
            return False
        from embedd.ollama_api import CreateBody

        body = CreateBody(
            model=name,
            source=source if isinstance(source, str) else None,
            files=await _upload(client, source, progress) if isinstance(source, Path) else None,
            quantize=quantize,
            parameters=dict(modelfile.parameters) or None,
            license=list(modelfile.licenses) or None,
        )
        async with aclosing(client.create(body)) as lines:
            async for line in lines:
                progress.report(line)
        return True


async def _upload(client: "Client", source: Path, progress: Progress) -> dict[str, str]:
    """Names of the files that *source* consists of → digests; the server has them then."""
    from embedd.ollama_api import ProgressLine
    from embedd.store.blobs import hash_file

    progress.report(ProgressLine(status="gathering model components"))
    files = {}
    for relative, path in gather(source).items():
        digest = await asyncio.to_thread(hash_file, path)
        files[relative] = digest
        if not await client.has_blob(digest):
            await client.add_blob(digest, _read(path, digest, progress))
    return files


def gather(source: Path) -> dict[str, Path]:
    """The files that a model is made of: a GGUF alone, or those of a checkpoint.

    Raises:
        InvalidInputError: The folder has none.
    """
    if not source.is_dir():
        return {source.name: source}
    found = {path for pattern in PATTERNS for path in source.glob(pattern) if path.is_file()}
    if not found:
        raise InvalidInputError(f"{source} holds no checkpoint: it has no .safetensors file")
    return {path.relative_to(source).as_posix(): path for path in sorted(found)}


async def _read(path: Path, digest: str, progress: Progress) -> AsyncIterator[bytes]:
    from embedd.ollama_api import ProgressLine

    status = f"copying file {digest}"
    done = 0
    try:
        with path.open("rb") as file:
            total = os.fstat(file.fileno()).st_size
            while piece := await asyncio.to_thread(file.read, CHUNK):
                done += len(piece)
                progress.report(ProgressLine(status=status, total=total, completed=done))
                yield piece
    except OSError as error:
        raise EmbeddError(f"{path} cannot be read: {error.strerror or error}") from error
