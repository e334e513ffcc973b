"""Ollama's routes about the models in the store: list, show, copy, delete."""

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec
from aiohttp import web

from embedd.engine.spec import ModelInfo
from embedd.errors import EmbeddError, InvalidInputError, ModelNotFoundError
from embedd.names import parse_model_name
from embedd.ollama_api import CopyBody, DeleteBody, ShowBody, TagsReply
from embedd.scheduler.records import AnySpec
from embedd.server.dialects.base import BODIES, EMBEDDER, LIBRARY, POLICY
from embedd.server.dialects.ollama.fields import check_name, name_in
from embedd.server.dialects.ollama.images import find_specs
from embedd.server.http.bodies import decode
from embedd.server.http.json_out import json_response
from embedd.server.http.threads import POOLS


async def tags(request: web.Request) -> web.StreamResponse:
    """``GET /api/tags``: models in the store."""
    return json_response(TagsReply(models=await asyncio.to_thread(request.app[LIBRARY].list)))


async def show(request: web.Request) -> web.StreamResponse:
    """``POST /api/show``."""
    async with request.app[BODIES].read(request) as data:
        body = await request.app[BODIES].decode(data, lambda: decode(data, ShowBody))
    text = name_in(body).strip() or request.app[POLICY].default_model
    if not text:
        raise InvalidInputError("model is required")
    name = parse_model_name(text)
    try:
        reply = await asyncio.to_thread(
            request.app[LIBRARY].show, str(name), verbose=bool(body.verbose)
        )
    except ModelNotFoundError as error:
        raise ModelNotFoundError(
            name.display, f"model '{name.display}' not found", hint=error.hint
        ) from None
    running = [one for one in request.app[EMBEDDER].running() if one.spec.name == name.display]
    if info := next((one.info for one in running if one.info), None):
        reply = msgspec.structs.replace(reply, engine=info.engine, backend=info.backend)
        if isinstance(info, ModelInfo):
            reply = msgspec.structs.replace(reply, tokenizer=info.tokenizer)
    return json_response(reply)


async def copy(request: web.Request) -> web.StreamResponse:
    """``POST /api/copy``."""
    async with request.app[BODIES].read(request) as data:
        body = await request.app[BODIES].decode(data, lambda: decode(data, CopyBody))
    source, destination = body.source or "", body.destination or ""
    check_name(source, f'source "{source}" is invalid')
    check_name(destination, f'destination "{destination}" is invalid')
    try:
        await request.app[POOLS].changes.run(request.app[LIBRARY].copy, source, destination)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(source, f'model "{source}" not found', hint=error.hint) from None
    return web.Response()


async def delete(request: web.Request) -> web.StreamResponse:
    """``DELETE /api/delete``."""
    async with request.app[BODIES].read(request) as data:
        body = await request.app[BODIES].decode(data, lambda: decode(data, DeleteBody))
    name = name_in(body)
    if not name:
        raise InvalidInputError("model is required")
    check_name(name, f'name "{name}" is invalid')
    specs = await _find_unshared(request, name)
    try:
        await request.app[POOLS].changes.run(request.app[LIBRARY].delete, name)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(name, f"model '{name}' not found", hint=error.hint) from None
    # Afterwards: a model that cannot be deleted stays in memory.
    for spec in specs:
        await request.app[EMBEDDER].unload_spec(spec)
    return web.Response()


async def _find_unshared(request: web.Request, name: str) -> Sequence[AnySpec]:
    """What is in memory of the model alone; without its name it could not be found later."""
    with contextlib.suppress(EmbeddError):
        if not await asyncio.to_thread(request.app[LIBRARY].is_shared, name):
            return await find_specs(request.app, name)
    return ()
