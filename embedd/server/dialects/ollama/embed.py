"""Ollama's API: embedding, models in memory, models in the store."""

import asyncio
import math
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from aiohttp import web

from embedd import __version__
from embedd.durations import parse_keep_alive
from embedd.embedder.embedder import Embedder
from embedd.errors import (
    EmbeddError,
    InputTooLongError,
    InsufficientMemoryError,
    InvalidInputError,
    InvalidModelNameError,
    LoadTimeoutError,
    ModelNotFoundError,
    OverloadedError,
    UnauthorizedError,
    UnsupportedError,
)
from embedd.names import parse_model_name
from embedd.ollama_api import (
    Details,
    GenerateReply,
    PsReply,
    RunningModel,
    TagsReply,
    TruncatedInput,
    VersionReply,
)
from embedd.scheduler.records import ModelStatus
from embedd.server.dialects.base import (
    BODIES,
    EMBEDDER,
    LIBRARY,
    Dialect,
    Route,
    computed_headers,
    may_store,
)
from embedd.server.dialects.ollama.input import parse_inputs
from embedd.server.http.bodies import decode
from embedd.server.http.json_out import dump, dump_rows, json_response, rows_response
from embedd.types import EmbedRequest, EmbedResult, Normalize, Prompt, Truncate

NULL = msgspec.Raw(b"null")
NANOSECONDS = 1e9
FOR_EVER = timedelta(seconds=(2**63 - 1) // 10**9)  # what Ollama shows: about 292 years
INPUT_TYPES = ("query", "document")


class EmbedBody(msgspec.Struct):
    """Body of ``POST /api/embed``."""

    model: str | None = None
    input: msgspec.Raw = NULL
    truncate: bool | None = None
    dimensions: int | None = None
    keep_alive: Any = None
    options: dict[str, Any] | None = None
    input_type: str | None = None


class EmbeddingBody(msgspec.Struct):
    """Body of ``POST /api/embeddings`` with ``prompt``."""

    model: str | None = None
    prompt: str | None = None
    keep_alive: Any = None
    options: dict[str, Any] | None = None


class GenerateBody(msgspec.Struct):
    """Body of ``POST /api/generate``."""

    model: str | None = None
    prompt: str | None = None
    keep_alive: Any = None
    options: dict[str, Any] | None = None


class ChatBody(msgspec.Struct):
    """Body of ``POST /api/chat``."""

    model: str | None = None
    messages: list[Any] | None = None
    keep_alive: Any = None
    options: dict[str, Any] | None = None


def to_request(body: EmbedBody, *, store: bool = True) -> EmbedRequest:
    """``/api/embed`` in the words of the core; checks in the order of the protocol."""
    keep_alive = _keep_alive(body.keep_alive)
    _check_name(body.model)
    return EmbedRequest(
        model=body.model or "",
        inputs=parse_inputs(bytes(body.input)) if body.input != NULL else (),
        truncate=Truncate.ERROR if body.truncate is False else Truncate.END,
        dimensions=body.dimensions or None,
        prompt=_prompt(body.input_type),
        keep_alive=keep_alive,
        options=body.options or {},
        store=store,
    )


def to_legacy_request(body: EmbeddingBody, *, store: bool = True) -> EmbedRequest:
    """``/api/embeddings``: one prompt, never cut, normalised as the kind of model was."""
    keep_alive = _keep_alive(body.keep_alive)
    if not (body.model or "").strip():
        raise InvalidInputError("model is required")
    parse_model_name(body.model or "")
    return EmbedRequest(
        model=body.model or "",
        inputs=[body.prompt] if body.prompt else (),
        truncate=Truncate.ERROR,
        normalize=Normalize.LEGACY,
        keep_alive=keep_alive,
        options=body.options or {},
        store=store,
    )


def to_reply_ends(model: str, result: EmbedResult, *, parsing: float) -> tuple[bytes, bytes]:
    """What stands before and after the rows of an ``/api/embed`` answer.

    Args:
        parsing: Seconds from the request's arrival until it was understood: all that
            ``load_duration`` has to tell where the model was there.
    """
    head = b'{"model":' + dump(model) + b',"embeddings":['
    if not result.tokens:
        return head, b"]}"
    tail: dict[str, object] = {
        "total_duration": _nanoseconds(result.timings.total),
        "load_duration": _nanoseconds(result.timings.load or parsing),
        "prompt_eval_count": sum(result.tokens),
    }
    if result.truncated:
        tail["truncated"] = [
            TruncatedInput(index=one.index, tokens=one.tokens, kept=one.kept)
            for one in result.truncated
        ]
    return head, b"]," + dump(tail)[1:]


def to_error(error: EmbeddError) -> bytes:
    """``{"error": text}`` with the texts that clients compare, the facts beside it."""
    facts = {"index": error.index, "tokens": error.tokens, "limit": error.limit}
    known = {name: fact for name, fact in facts.items() if fact is not None}
    return dump({"error": _phrase(error), **known})


def _phrase(error: EmbeddError) -> str:
    match error:
        case InputTooLongError(limit=int(limit), special=special) if limit <= special:
            return "input after truncation exceeds maximum context length"
        case InputTooLongError():
            return "the input length exceeds the context length"
        case InvalidModelNameError() if not str(error).startswith("use either "):
            return "invalid model name"
        case UnauthorizedError():
            return "unauthorized"
        case OverloadedError():
            return "server busy, please try again.  maximum pending requests exceeded"
        case _:
            return str(error)


async def embed(request: web.Request) -> web.StreamResponse:
    """``POST /api/embed``."""
    arrived = time.perf_counter()
    async with request.app[BODIES].read(request) as data:
        body = decode(data, EmbedBody)
        asked = to_request(body, store=may_store(request))
        parsing = time.perf_counter() - arrived
        result = await request.app[EMBEDDER].embed(asked, arrived=arrived)
    head, tail = to_reply_ends(asked.model, result, parsing=parsing)
    return await rows_response(request, head, result.vectors, tail, computed_headers(result))


async def embeddings(request: web.Request) -> web.StreamResponse:
    """``POST /api/embeddings``."""
    arrived = time.perf_counter()
    async with request.app[BODIES].read(request) as data:
        body = decode(data, EmbeddingBody)
        asked = to_legacy_request(body, store=may_store(request))
        result = await request.app[EMBEDDER].embed(asked, arrived=arrived)
    row = dump_rows(result.vectors) or b"[]"
    return await rows_response(
        request, b'{"embedding":' + row, result.vectors[:0], b"}", computed_headers(result)
    )


async def generate(request: web.Request) -> web.StreamResponse:
    """``POST /api/generate`` without a prompt: load or unload."""
    async with request.app[BODIES].read(request) as data:
        body = decode(data, GenerateBody)
    reply = await _load_or_unload(request.app[EMBEDDER], body, "generate" if body.prompt else "")
    return json_response(reply)


async def chat(request: web.Request) -> web.StreamResponse:
    """``POST /api/chat`` without messages: load or unload."""
    async with request.app[BODIES].read(request) as data:
        body = decode(data, ChatBody)
    reply = await _load_or_unload(request.app[EMBEDDER], body, "chat" if body.messages else "")
    fields = msgspec.to_builtins(reply, builtin_types=[datetime])
    del fields["response"]
    return json_response({**fields, "message": {"role": "assistant", "content": ""}})


async def version(_: web.Request) -> web.StreamResponse:
    """``GET /api/version``."""
    return json_response(VersionReply(version=__version__))


async def root(_: web.Request) -> web.StreamResponse:
    """``GET /``: what every Ollama client looks for."""
    return web.Response(text="Ollama is running")


async def tags(request: web.Request) -> web.StreamResponse:
    """``GET /api/tags``: models in the store."""
    return json_response(TagsReply(models=await asyncio.to_thread(request.app[LIBRARY].list)))


async def ps(request: web.Request) -> web.StreamResponse:
    """``GET /api/ps``: models in memory."""
    now = datetime.now(UTC).astimezone()
    embedder = request.app[EMBEDDER]
    models = [to_running_model(one, embedder, now) for one in embedder.running()]
    return json_response(PsReply(models=models))


async def _load_or_unload(
    embedder: Embedder, body: GenerateBody | ChatBody, verb: str
) -> GenerateReply:
    """What both routes do; *verb* is what no embedding model can, if that was asked for."""
    keep_alive = _keep_alive(body.keep_alive)
    _check_name(body.model)
    name = body.model or ""
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


def to_running_model(status: ModelStatus, embedder: Embedder, now: datetime) -> RunningModel:
    """Return a row of ``/api/ps``; without digest and details if its name was deleted."""
    name, info = status.spec.name, status.info
    ahead = FOR_EVER if math.isinf(status.expires_in) else timedelta(seconds=status.expires_in)
    try:
        model = embedder.find(name)
        limit = embedder.limit(model)
    except EmbeddError:
        model, limit = None, status.spec.context_length
    return RunningModel(
        name=name,
        model=name,
        size=status.size,
        digest=model.manifest_digest if model else "",
        details=model.details.without_lengths() if model else Details(families=[]),
        expires_at=now + ahead,
        size_vram=info.gpu_bytes if info else 0,
        context_length=limit,
        state=msgspec.UNSET if info else "loading",
        engine=info.engine if info else msgspec.UNSET,
    )


def _keep_alive(value: object) -> float | None:
    return None if value is None else parse_keep_alive(value)


def _check_name(model: str | None) -> None:
    if not (model or "").strip():
        raise ModelNotFoundError(model or "", f"model '{model or ''}' not found")
    parse_model_name(model or "")


def _prompt(input_type: str | None) -> Prompt | None:
    if input_type is None:
        return None
    if input_type not in INPUT_TYPES:
        raise InvalidInputError(f'invalid input_type "{input_type}"')
    return Prompt(name=input_type)


def _nanoseconds(seconds: float) -> int:
    return max(1, int(seconds * NANOSECONDS))


DIALECT = Dialect(
    name="ollama",
    routes=(
        Route(method="GET", path="/", endpoint=root),
        Route(method="GET", path="/api/version", endpoint=version),
        Route(method="GET", path="/api/tags", endpoint=tags),
        Route(method="GET", path="/api/ps", endpoint=ps),
        Route(method="POST", path="/api/embed", endpoint=embed),
        Route(method="POST", path="/api/embeddings", endpoint=embeddings),
        Route(method="POST", path="/api/generate", endpoint=generate),
        Route(method="POST", path="/api/chat", endpoint=chat),
    ),
    to_error=lambda failure: to_error(failure.error),
    statuses={LoadTimeoutError: 500, InsufficientMemoryError: 500, UnsupportedError: 501},
    tells_routes=False,
)
