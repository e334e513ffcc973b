"""Ollama's ``/api/generate`` and ``/api/chat``, which load and unload an embedding model."""

from datetime import UTC, datetime

import msgspec
from aiohttp import web

from embedd.embedder.embedder import Embedder
from embedd.errors import InvalidInputError, ModelNotFoundError
from embedd.ollama_api import ChatBody, GenerateBody, GenerateReply, RunBody
from embedd.server.dialects.base import BODIES, EMBEDDER
from embedd.server.dialects.common.fields import parse_optional_keep_alive
from embedd.server.dialects.ollama.fields import require_model
from embedd.server.http.bodies import decode
from embedd.server.http.json_out import json_response
from embedd.types import EmbedRequest


async def generate(request: web.Request) -> web.StreamResponse:
    """``POST /api/generate`` without a prompt: load or unload."""
    async with request.app[BODIES].read(request) as data:
        body = decode(data, GenerateBody)
    verb = "generate" if body.prompt else ""
    return json_response(await _load_or_unload(request.app[EMBEDDER], body, verb))


async def chat(request: web.Request) -> web.StreamResponse:
    """``POST /api/chat`` without messages: load or unload."""
    async with request.app[BODIES].read(request) as data:
        body = decode(data, ChatBody)
    verb = "chat" if body.messages else ""
    reply = await _load_or_unload(request.app[EMBEDDER], body, verb)
    message = {"role": "assistant", "content": ""}
    return json_response(msgspec.structs.replace(reply, response=msgspec.UNSET, message=message))


async def _load_or_unload(embedder: Embedder, body: RunBody, verb: str) -> GenerateReply:
    """Load the model, or unload it with ``keep_alive`` 0.

    Args:
        verb: What the body asks for besides, which embedding models cannot do; empty if nothing.
    """
    keep_alive = parse_optional_keep_alive(body.keep_alive)
    name = require_model(body.model)
    try:
        if verb:
            embedder.find(name)
            raise InvalidInputError(f'"{name}" does not support {verb}')
        if keep_alive == 0:
            await embedder.unload(name)
        else:
            options = body.options or {}
            await embedder.embed(
                EmbedRequest(model=name, inputs=(), keep_alive=keep_alive, options=options)
            )
    except ModelNotFoundError:
        raise ModelNotFoundError(name, f"model '{name}' not found") from None
    return GenerateReply(
        model=name,
        created_at=datetime.now(UTC),
        done_reason="unload" if keep_alive == 0 else "load",
    )
