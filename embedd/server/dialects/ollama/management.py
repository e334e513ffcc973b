"""Ollama's API: managing the models of the store."""

import asyncio
import contextlib
import functools
import logging
from typing import Any

import msgspec
from aiohttp import web

from embedd.errors import (
    CorruptBlobError,
    EmbeddError,
    InsufficientMemoryError,
    InvalidInputError,
    InvalidModelNameError,
    LoadTimeoutError,
    ModelNotFoundError,
    PullError,
    UnsupportedError,
)
from embedd.library import Library, ReportProgress, Source
from embedd.names import ModelName, parse_model_name
from embedd.ollama_api import ProgressLine
from embedd.server.dialects.base import BODIES, EMBEDDER, LIBRARY, Dialect, Route
from embedd.server.dialects.ollama.embed import to_error
from embedd.server.http.bodies import decode
from embedd.server.http.decompress import read_decompressed
from embedd.server.http.json_out import json_response
from embedd.server.http.streams import Stop, answer_streamed, answer_whole, follow, in_thread

log = logging.getLogger(__name__)

# Bytes of an upload that are written at once.
CHUNK = 1 << 20
WITHOUT_EFFECT = ("template", "system", "messages", "renderer", "parser", "requires", "info")
REFUSED = ("adapters", "draft_files")


class ShowBody(msgspec.Struct):
    """Body of ``POST /api/show``."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None


class DeleteBody(msgspec.Struct):
    """Body of ``DELETE /api/delete``."""

    model: str | None = None
    name: str | None = None


class CopyBody(msgspec.Struct):
    """Body of ``POST /api/copy``."""

    source: str | None = None
    destination: str | None = None


class PullBody(msgspec.Struct):
    """Body of ``POST /api/pull``."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None
    insecure: bool | None = None


class CreateBody(msgspec.Struct):
    """Body of ``POST /api/create``."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None
    source: str | None = msgspec.field(default=None, name="from")
    files: dict[str, str] | None = None
    quantize: str | None = None
    quantization: str | None = None
    parameters: dict[str, Any] | None = None
    license: Any = None
    adapters: Any = None
    draft_files: Any = None
    template: Any = None
    system: Any = None
    messages: Any = None
    renderer: Any = None
    parser: Any = None
    requires: Any = None
    info: Any = None


async def show(request: web.Request) -> web.StreamResponse:
    """``POST /api/show``."""
    async with request.app[BODIES].read(request) as data:
        body = decode(data, ShowBody)
    name = _parse_name(_name_in(body))
    try:
        reply = await asyncio.to_thread(
            request.app[LIBRARY].show, str(name), verbose=bool(body.verbose)
        )
    except ModelNotFoundError:
        raise ModelNotFoundError(name.display, f"model '{name.display}' not found") from None
    running = [one for one in request.app[EMBEDDER].running() if one.spec.name == name.display]
    engines = [one.info.engine for one in running if one.info]
    return json_response(msgspec.structs.replace(reply, engine=engines[0]) if engines else reply)


async def copy(request: web.Request) -> web.StreamResponse:
    """``POST /api/copy``."""
    async with request.app[BODIES].read(request) as data:
        body = decode(data, CopyBody)
    source, destination = body.source or "", body.destination or ""
    _check_name(source, f'source "{source}" is invalid')
    _check_name(destination, f'destination "{destination}" is invalid')
    try:
        await asyncio.to_thread(request.app[LIBRARY].copy, source, destination)
    except ModelNotFoundError:
        raise ModelNotFoundError(source, f'model "{source}" not found') from None
    return web.Response()


async def delete(request: web.Request) -> web.StreamResponse:
    """``DELETE /api/delete``."""
    async with request.app[BODIES].read(request) as data:
        name = _name_in(decode(data, DeleteBody))
    if not name:
        raise InvalidInputError("model is required")
    _check_name(name, f'name "{name}" is invalid')
    await _unload_unless_shared(request, name)
    try:
        await asyncio.to_thread(request.app[LIBRARY].delete, name)
    except ModelNotFoundError:
        raise ModelNotFoundError(name, f"model '{name}' not found") from None
    return web.Response()


async def _unload_unless_shared(request: web.Request, name: str) -> None:
    """Let the model go before its name does: without a name it could not be found."""
    with contextlib.suppress(EmbeddError):
        if not await asyncio.to_thread(request.app[LIBRARY].is_shared, name):
            await request.app[EMBEDDER].unload(name)


async def pull(request: web.Request) -> web.StreamResponse:
    """``POST /api/pull``."""
    async with request.app[BODIES].read(request) as data:
        body = decode(data, PullBody)
    name = _name_in(body)
    parse_model_name(name)
    library = request.app[LIBRARY]

    def work(report: ReportProgress, stop: Stop) -> None:
        library.pull(name, report, stop=stop, insecure=bool(body.insecure))

    lines = follow(request, work)
    if body.stream is False:
        return await answer_whole(lines)
    return await answer_streamed(request, lines, to_error)


async def create(request: web.Request) -> web.StreamResponse:
    """``POST /api/create``."""
    async with request.app[BODIES].read(request) as data:
        body = decode(data, CreateBody)
    lines = follow(request, to_creation(body, request.app[LIBRARY]))
    if body.stream is False:
        return await answer_whole(lines)
    return await answer_streamed(request, lines, to_error)


def to_creation(body: CreateBody, library: Library) -> "functools.partial[None]":
    """What is to be done for a body of ``/api/create``.

    Raises:
        InvalidInputError: It asks for what there is not.
        InvalidModelNameError: The model's name is none.
    """
    name = _name_in(body)
    parse_model_name(name)
    for field in REFUSED:
        if getattr(body, field):
            raise InvalidInputError(f'"{field}" is not supported')
    ignored = [field for field in WITHOUT_EFFECT if getattr(body, field)]
    if ignored:
        log.info("fields without effect", extra={"model": name, "fields": ", ".join(ignored)})
    source: Source | None = body.source or body.files
    if not source:
        raise InvalidInputError("neither 'from' or 'files' was specified")
    return functools.partial(
        _create,
        library,
        name,
        source,
        quantize=body.quantize or body.quantization or None,
        parameters=body.parameters,
        licenses=_parse_licenses(body.license),
    )


def _create(
    library: Library,
    name: str,
    source: Source,
    report: ReportProgress,
    stop: Stop,
    **changes: Any,
) -> None:
    def report_or_stop(line: ProgressLine) -> None:
        if stop():
            raise InvalidInputError("the client went away")
        report(line)

    library.create(name, source, report=report_or_stop, **changes)


async def has_blob(request: web.Request) -> web.StreamResponse:
    """``HEAD /api/blobs/{digest}``."""
    digest = _digest_in(request)
    if not await asyncio.to_thread(request.app[LIBRARY].has_blob, digest):
        raise ModelNotFoundError(digest, f'blob "{digest}" not found')
    return web.Response()


async def add_blob(request: web.Request) -> web.StreamResponse:
    """``POST /api/blobs/{digest}``: to the disk as it comes, whatever its size."""
    digest, library = _digest_in(request), request.app[LIBRARY]
    if await asyncio.to_thread(library.has_blob, digest):
        return web.Response(status=200)
    with contextlib.ExitStack() as stack:
        incoming = await in_thread(stack.enter_context, library.open_upload())
        pieces = bytearray()
        async for piece in read_decompressed(request):
            pieces += piece
            if len(pieces) >= CHUNK:
                await in_thread(incoming.write, bytes(pieces))
                pieces.clear()
        await in_thread(incoming.write, bytes(pieces))
        await in_thread(_keep, incoming, digest)
    return web.Response(status=201)


def _keep(incoming: Any, digest: str) -> None:
    try:
        incoming.seal(expected=digest)
    except CorruptBlobError as error:
        raise InvalidInputError(str(error)) from error
    incoming.keep()


async def push(_: web.Request) -> web.StreamResponse:
    """``POST /api/push``."""
    raise UnsupportedError("pushing models is not supported")


def _name_in(body: ShowBody | DeleteBody | PullBody | CreateBody) -> str:
    return body.model or body.name or ""


def _digest_in(request: web.Request) -> str:
    return request.match_info["digest"].removesuffix("/")


def _parse_name(text: str) -> ModelName:
    if not text:
        raise InvalidInputError("model is required")
    return parse_model_name(text)


def _check_name(text: str, message: str) -> None:
    try:
        parse_model_name(text)
    except InvalidModelNameError:
        raise InvalidInputError(message) from None


def _parse_licenses(value: object) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value or []
    if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
        raise InvalidInputError("license must be a string or a list of strings")
    return tuple(texts)


DIALECT = Dialect(
    name="ollama management",
    routes=(
        Route(method="POST", path="/api/show", endpoint=show),
        Route(method="POST", path="/api/copy", endpoint=copy),
        Route(method="DELETE", path="/api/delete", endpoint=delete),
        Route(method="POST", path="/api/pull", endpoint=pull),
        Route(method="POST", path="/api/create", endpoint=create),
        Route(method="HEAD", path="/api/blobs/{digest}", endpoint=has_blob),
        Route(method="POST", path="/api/blobs/{digest}", endpoint=add_blob),
        Route(method="POST", path="/api/push", endpoint=push),
    ),
    to_error=lambda failure: to_error(failure.error),
    statuses={
        LoadTimeoutError: 500,
        InsufficientMemoryError: 500,
        UnsupportedError: 501,
        PullError: 500,
    },
    tells_routes=False,
)
