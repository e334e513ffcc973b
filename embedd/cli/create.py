"""``embedd create``: through the server that answers, else in this machine's store."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from embedd.cli.connection import reach
from embedd.cli.progress import Report, open_progress, report_all
from embedd.cli.settings import load_settings, warn
from embedd.config import Settings
from embedd.errors import EmbeddError, InvalidInputError, InvalidModelNameError, PullError
from embedd.modelfile import Modelfile, decode_modelfile, parse_modelfile

if TYPE_CHECKING:
    from embedd.client import Client

CHUNK: Final = 1 << 20
NO_SOURCE: Final = "pull model manifest"  # how errors of a pull begin, from a server too
_HEAD: Final = 9  # bytes: of safetensors, the length of the JSON that follows, and its first
# The files that belong to a checkpoint; others beside them are not uploaded.
_SUFFIXES: Final = (".safetensors", ".json", ".txt", ".model")
_FOLDERS: Final = ("", "[0-9]*_*/")  # the second of modules: 1_Pooling, 2_Dense …
PATTERNS: Final = tuple(f"{folder}*{suffix}" for folder in _FOLDERS for suffix in _SUFFIXES)


@click.command
@click.argument("name", metavar="MODEL")
@click.option(
    "-f",
    "--file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="Modelfile; - is stdin  [Modelfile]",
)
@click.option("--from", "source", metavar="PATH|MODEL", help="Source of the model.")
@click.option("-q", "--quantize", metavar="TYPE", help="Type of the weights, such as q8_0.")
def create(*, name: str, file: Path | None, source: str | None, quantize: str | None) -> None:
    """Make a model from files or from another model."""
    modelfile, folder = _read_modelfile(file, source)
    try:
        _create(load_settings(), name, modelfile, folder, quantize=quantize)
    except EmbeddError as error:
        is_unknown = isinstance(error, InvalidModelNameError) or str(error).startswith(NO_SOURCE)
        if not modelfile.source_line or not is_unknown:
            raise
        place = f"{file or 'Modelfile'}, line {modelfile.source_line}"
        raise PullError(f"{place}: FROM {modelfile.source}: {error}") from error


def _create(
    settings: Settings, name: str, modelfile: Modelfile, folder: Path, *, quantize: str | None
) -> None:
    for warning in modelfile.warnings:
        warn(warning)
    found = _find(modelfile.source, folder)
    components = {part: _find_file(file, folder) for part, file in modelfile.components.items()}
    for path in [*([found] if isinstance(found, Path) else []), *components.values()]:
        check_source(path)
    with open_progress() as report:
        created = _create_through_server(
            settings, name, modelfile, found, components, quantize=quantize, report=report
        )
        if asyncio.run(created):
            return
        from embedd.runtime import open_library

        open_library(settings).create(
            name,
            found,
            components=components,
            quantize=quantize,
            parameters=modelfile.parameters,
            licenses=modelfile.licenses,
            report=report,
        )


def _read_modelfile(file: Path | None, source: str | None) -> tuple[Modelfile, Path]:
    """The Modelfile, and the folder that its paths are relative to."""
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
        return replace(parsed, source=source, source_line=0), Path.cwd()
    return parsed, Path.cwd() if is_stdin else path.absolute().parent


def _find(source: str, folder: Path) -> Path | str:
    """The file or folder *source*; *source* itself, as a model name, if there is none."""
    path = folder / Path(source).expanduser()
    if path.exists():
        return path
    if source.startswith((".", "/", "~")) or source.lower().endswith((".gguf", ".safetensors")):
        raise InvalidInputError(f"{source} does not exist: give a checkpoint folder or a GGUF")
    return source


def _find_file(text: str, folder: Path) -> Path:
    """The file of a COMPONENT line."""
    path = folder / Path(text).expanduser()
    if not path.is_file():
        raise InvalidInputError(f"{path}, the file of a COMPONENT, does not exist")
    return path


async def _create_through_server(
    settings: Settings,
    name: str,
    modelfile: Modelfile,
    source: Path | str,
    components: Mapping[str, Path],
    *,
    quantize: str | None,
    report: Report,
) -> bool:
    """Create through the server; False if none answers."""
    async with reach(settings.host, changes=True) as client:
        if client is None:
            return False
        from embedd.ollama_api import CreateBody

        body = CreateBody(
            model=name,
            source=source if isinstance(source, str) else None,
            files=await _upload(client, source, report) if isinstance(source, Path) else None,
            components={
                part: (await _upload(client, file, report))[file.name]
                for part, file in components.items()
            }
            or None,
            quantize=quantize,
            parameters=dict(modelfile.parameters) or None,
            license=list(modelfile.licenses) or None,
        )
        async with aclosing(client.create(body)) as lines:
            await report_all(lines, report)
        return True


async def _upload(client: "Client", source: Path, report: Report) -> dict[str, str]:
    """Upload the files of *source* that the server does not have; return name → digest."""
    from embedd.ollama_api import ProgressLine
    from embedd.store.blobs import hash_file

    report(ProgressLine(status="gathering model components"))
    files = {}
    for relative, path in gather(source).items():
        digest = await asyncio.to_thread(hash_file, path)
        files[relative] = digest
        if not await client.has_blob(digest):
            await client.add_blob(digest, _read(path, digest, report))
    return files


def check_source(source: Path) -> None:
    """Refuse what is plainly not a model, before gigabytes of it are hashed or uploaded.

    Raises:
        InvalidInputError: A file is neither a GGUF nor safetensors, or a folder lacks what
            every checkpoint has.
    """
    if source.is_dir():
        if not (source / "config.json").is_file():
            raise InvalidInputError(f"{source} is not a checkpoint: it has no config.json")
        if not any(source.glob("*.safetensors")):
            raise InvalidInputError(f"{source} holds no checkpoint: it has no .safetensors file")
        return
    with source.open("rb") as file:
        head = file.read(_HEAD)
    is_safetensors = len(head) == _HEAD and head[8:9] == b"{"
    if not head.startswith(b"GGUF") and not is_safetensors:
        raise InvalidInputError(
            f"{source} is not a model: it is neither a GGUF nor a safetensors file"
        )


def gather(source: Path) -> dict[str, Path]:
    """Relative name → path of the files of a model: one GGUF, or those of a checkpoint.

    Raises:
        InvalidInputError: The folder has no such files.
    """
    if not source.is_dir():
        return {source.name: source}
    found = {path for pattern in PATTERNS for path in source.glob(pattern) if path.is_file()}
    if not found:
        raise InvalidInputError(f"{source} holds no checkpoint: it has no .safetensors file")
    return {path.relative_to(source).as_posix(): path for path in sorted(found)}


async def _read(path: Path, digest: str, report: Report) -> AsyncIterator[bytes]:
    from embedd.ollama_api import ProgressLine

    status = f"copying file {digest}"
    done = 0
    try:
        with path.open("rb") as file:
            total = os.fstat(file.fileno()).st_size
            while piece := await asyncio.to_thread(file.read, CHUNK):
                done += len(piece)
                report(ProgressLine(status=status, total=total, completed=done))
                yield piece
    except OSError as error:
        raise EmbeddError(f"{path} cannot be read: {error.strerror or error}") from error
