"""Ollama's ``/api/create``."""

import functools
import logging
from typing import Any

from aiohttp import web

from embedd.errors import InvalidInputError
from embedd.library import Library, ReportProgress, Source
from embedd.names import parse_model_name
from embedd.ollama_api import CreateBody, ProgressLine
from embedd.server.dialects.base import BODIES, LIBRARY
from embedd.server.dialects.ollama.errors import to_error_line
from embedd.server.dialects.ollama.fields import name_in
from embedd.server.http.bodies import decode
from embedd.server.http.streams import Stop, answer_streamed, answer_whole, follow

log = logging.getLogger(__name__)

WITHOUT_EFFECT = ("template", "system", "messages", "renderer", "parser", "requires", "info")
REFUSED = ("adapters", "draft_files")


async def create(request: web.Request) -> web.StreamResponse:
    """``POST /api/create``."""
    async with request.app[BODIES].read(request) as data:
        body = await request.app[BODIES].decode(data, lambda: decode(data, CreateBody))
    lines = follow(request, to_creation(body, request.app[LIBRARY]))
    if body.stream is False:
        return await answer_whole(lines)
    return await answer_streamed(request, lines, to_error_line)


def to_creation(body: CreateBody, library: Library) -> "functools.partial[None]":
    """The call that creates the model of *body*; it takes a report and a stop.

    Raises:
        InvalidInputError: A field is not supported, or the source is missing.
        InvalidModelNameError: The model's name is invalid.
    """
    name = name_in(body)
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
        components=body.components,
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


def _parse_licenses(value: object) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value or []
    if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
        raise InvalidInputError("license must be a string or a list of strings")
    return tuple(texts)
