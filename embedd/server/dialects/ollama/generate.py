"""Ollama's ``/api/generate`` and ``/api/chat``: load, unload, and paint with an image model."""

from datetime import UTC, datetime

import msgspec
from aiohttp import web

from embedd.errors import InvalidInputError, ModelNotFoundError
from embedd.ollama_api import ChatBody, GenerateBody, GenerateReply, RunBody
from embedd.server.dialects.base import BODIES, EMBEDDER, PAINTER, POLICY
from embedd.server.dialects.common.fields import parse_optional_keep_alive
from embedd.server.dialects.ollama.fields import require_model
from embedd.server.dialects.ollama.images import is_image_model, paint, unload
from embedd.server.http.bodies import decode, raw_fields
from embedd.server.http.json_out import json_response
from embedd.types import EmbedRequest


async def generate(request: web.Request) -> web.StreamResponse:
    """``POST /api/generate``: paint, or without a prompt load or unload."""
    async with request.app[BODIES].read(request) as data:
        body, fields = await request.app[BODIES].decode(
            data, lambda: (decode(data, GenerateBody), list(raw_fields(data)))
        )
    default = request.app[POLICY].default_model
    if body.prompt and await is_image_model(request.app, require_model(body.model, default)):
        body = msgspec.structs.replace(body, model=require_model(body.model, default))
        return await paint(request, body, fields)
    verb = "generate" if body.prompt else ""
    return json_response(await _load_or_unload(request.app, body, verb))


async def chat(request: web.Request) -> web.StreamResponse:
    """``POST /api/chat`` without messages: load or unload."""
    async with request.app[BODIES].read(request) as data:
        body = await request.app[BODIES].decode(data, lambda: decode(data, ChatBody))
    verb = "chat" if body.messages else ""
    reply = await _load_or_unload(request.app, body, verb)
    message = {"role": "assistant", "content": ""}
    return json_response(msgspec.structs.replace(reply, response=msgspec.UNSET, message=message))


async def _load_or_unload(app: web.Application, body: RunBody, verb: str) -> GenerateReply:
    """Load the model, or unload it with ``keep_alive`` 0.

    Args:
        verb: What the body asks for besides, which the model cannot do; empty if nothing.
    """
    keep_alive = parse_optional_keep_alive(body.keep_alive)
    name = require_model(body.model, app[POLICY].default_model)
    try:
        if verb:
            await app[EMBEDDER].find_any_apart(name)
            raise InvalidInputError(f'"{name}" does not support {verb}')
        if keep_alive == 0:
            await unload(app, name)
        elif await is_image_model(app, name):
            await app[PAINTER].load(name, keep_alive)
        else:
            options = body.options or {}
            await app[EMBEDDER].embed(
                EmbedRequest(model=name, inputs=(), keep_alive=keep_alive, options=options)
            )
    except ModelNotFoundError as error:
        raise ModelNotFoundError(name, f"model '{name}' not found", hint=error.hint) from None
    return GenerateReply(
        model=name,
        created_at=datetime.now(UTC),
        done_reason="unload" if keep_alive == 0 else "load",
    )
