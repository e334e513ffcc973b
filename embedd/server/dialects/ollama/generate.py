"""Ollama's ``/api/generate`` and ``/api/chat``: load, unload, and paint with an image model."""

from datetime import UTC, datetime
from typing import TypeVar

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

Run = TypeVar("Run", bound=RunBody)


async def generate(request: web.Request) -> web.StreamResponse:
    """``POST /api/generate``: paint, or without a prompt load or unload."""
    async with request.app[BODIES].read(request) as data:
        default = request.app[POLICY].default_model
        (body, name), fields = await request.app[BODIES].decode(
            data,
            lambda: (_with_name(decode(data, GenerateBody), default), list(raw_fields(data))),
        )
    if body.prompt and await is_image_model(request.app, name):
        return await paint(request, msgspec.structs.replace(body, model=name), fields)
    verb = "generate" if body.prompt else ""
    return json_response(await _load_or_unload(request.app, body, name, verb))


async def chat(request: web.Request) -> web.StreamResponse:
    """``POST /api/chat`` without messages: load or unload."""
    async with request.app[BODIES].read(request) as data:
        default = request.app[POLICY].default_model
        body, name = await request.app[BODIES].decode(
            data, lambda: _with_name(decode(data, ChatBody), default)
        )
    verb = "chat" if body.messages else ""
    reply = await _load_or_unload(request.app, body, name, verb)
    message = {"role": "assistant", "content": ""}
    return json_response(msgspec.structs.replace(reply, response=msgspec.UNSET, message=message))


def _with_name(body: Run, default: str | None) -> tuple[Run, str]:
    """Return *body*, its ``keep_alive`` checked first, and its model's name or *default*."""
    parse_optional_keep_alive(body.keep_alive)
    return body, require_model(body.model, default)


async def _load_or_unload(
    app: web.Application, body: RunBody, name: str, verb: str
) -> GenerateReply:
    """Load the model *name*, or unload it with ``keep_alive`` 0.

    Args:
        verb: What the body asks for besides, which the model cannot do; empty if nothing.
    """
    keep_alive = parse_optional_keep_alive(body.keep_alive)
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
