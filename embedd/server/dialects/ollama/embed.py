"""Ollama's ``/api/embed`` and its older ``/api/embeddings``."""

import time

from aiohttp import web
from msgspec import structs

from embedd.errors import InvalidInputError
from embedd.names import parse_model_name
from embedd.ollama_api import EmbedBody, EmbeddingBody, EmbeddingReply, EmbedReply
from embedd.server.dialects.base import BODIES, COMPUTED, EMBEDDER, POLICY, Computed, Policy
from embedd.server.dialects.common.chunk import chunk_rows, parse_chunk
from embedd.server.dialects.common.fields import PARTS, parse_optional_keep_alive, parse_truncate
from embedd.server.dialects.common.openai_input import check_ids
from embedd.server.dialects.common.vector_json import float_rows, insert_rows
from embedd.server.dialects.endpoints import computed_headers, may_store
from embedd.server.dialects.ollama.fields import require_model
from embedd.server.dialects.ollama.input import parse_inputs
from embedd.server.http.answers import claim_for
from embedd.server.http.bodies import decode, find_misspelt, raw_fields
from embedd.server.http.header_text import to_header_text
from embedd.server.http.json_out import Parts, dump_rows, parts_response
from embedd.server.http.schedule import Deadline, read_schedule
from embedd.types import (
    EmbedRequest,
    EmbedResult,
    Normalize,
    Prompt,
    Truncate,
)

NANOSECONDS = 1e9
INPUT_TYPES = ("query", "document")
MAX_CHUNKS = 100_000
# Under which other APIs, and mistakes, have the inputs.
OTHER_NAMES = ("inputs", "prompt", "prompts", "texts", "text", "content", "documents", "sentences")


def to_request(body: EmbedBody, policy: Policy, *, store: bool = True) -> EmbedRequest:
    """``/api/embed`` as an `EmbedRequest`; fields are checked in Ollama's order.

    Raises:
        InvalidInputError: A field is wrong.
        ModelNotFoundError: The model's name is missing.
    """
    truncate = parse_truncate(truncate=body.truncate, words=PARTS)
    keep_alive = parse_optional_keep_alive(body.keep_alive)
    model = require_model(body.model, policy.default_model)
    inputs = () if body.input is None else parse_inputs(body.input, policy.max_ollama_inputs)
    check_ids(inputs, policy)
    return EmbedRequest(
        model=model,
        inputs=inputs,
        truncate=truncate,
        chunk=parse_chunk(body.chunk, max_chunks=MAX_CHUNKS),
        dimensions=body.dimensions,
        prompt=_parse_prompt(body.input_type),
        keep_alive=keep_alive,
        options=body.options or {},
        store=store,
    )


def to_legacy_request(body: EmbeddingBody, policy: Policy, *, store: bool = True) -> EmbedRequest:
    """``/api/embeddings`` as an `EmbedRequest`: one prompt, never cut, normalised as in Ollama.

    Raises:
        InvalidInputError: A field is wrong.
    """
    keep_alive = parse_optional_keep_alive(body.keep_alive)
    model = body.model or ""
    if not model.strip():
        model = policy.default_model or ""
    if not model:
        raise InvalidInputError("model is required", field="model")
    parse_model_name(model)
    return EmbedRequest(
        model=model,
        inputs=[body.prompt] if body.prompt else (),
        truncate=Truncate.ERROR,
        normalize=Normalize.LEGACY,
        keep_alive=keep_alive,
        options=body.options or {},
        store=store,
    )


def _parse_prompt(input_type: str | None) -> Prompt | None:
    if input_type is None:
        return None
    if input_type not in INPUT_TYPES:
        raise InvalidInputError(f'invalid input_type "{input_type}"')
    return Prompt(name=input_type)


def to_reply(wanted: EmbedRequest, result: EmbedResult, *, parsing: float) -> Parts:
    """The answer of ``/api/embed``.

    Args:
        parsing: Seconds from the request's arrival until it was parsed; ``load_duration``
            where the model was loaded already.
    """
    if not result.tokens:
        reply = EmbedReply(model=wanted.model, embeddings=[])
    else:
        reply = EmbedReply(
            model=wanted.model,
            embeddings=[],
            total_duration=_to_nanoseconds(result.timings.total),
            load_duration=_to_nanoseconds(result.timings.load or parsing),
            prompt_eval_count=sum(result.tokens),
            truncated=list(result.truncated),
        )
    rows = {"embeddings": float_rows(result)}
    if wanted.chunk is not None:
        reply = structs.replace(reply, chunks=[])
        rows["chunks"] = chunk_rows(result.chunks)
    return insert_rows(reply, rows)


def _to_nanoseconds(seconds: float) -> int:
    return max(1, int(seconds * NANOSECONDS))


async def embed(request: web.Request) -> web.StreamResponse:
    """``POST /api/embed``."""
    arrived = time.perf_counter()
    app = request.app
    policy, bodies, store = app[POLICY], app[BODIES], may_store(request)
    schedule = read_schedule(request, arrived=arrived, timeout=policy.request_timeout)
    async with Deadline(schedule), bodies.read(request) as data:
        claim = claim_for(request, len(data))
        wanted, warning = await bodies.decode(data, lambda: _translate(data, policy, store=store))
        parsing = time.perf_counter() - arrived
        result = await app[EMBEDDER].embed(
            structs.replace(wanted, schedule=schedule), arrived=arrived, claim=claim
        )
    request[COMPUTED] = Computed(wanted.model, result)
    parts = to_reply(wanted, result, parsing=parsing)
    return await parts_response(request, parts, computed_headers(result) | warning)


def _translate(
    data: bytearray, policy: Policy, *, store: bool
) -> tuple[EmbedRequest, dict[str, str]]:
    body = decode(data, EmbedBody, policy.max_ollama_inputs)
    wanted = to_request(body, policy, store=store)
    return wanted, warn_of_other_names(data, "input") if body.input is None else {}


def warn_of_other_names(data: bytearray, field: str) -> dict[str, str]:
    """Return a warning as a header if the body has its inputs under another name than *field*.

    Ollama answers such a body without vectors, and so do we.
    """
    fields = raw_fields(data)
    found = next((name for name in OTHER_NAMES if name in fields), None)
    found = found or find_misspelt(fields, field)
    if found is None:
        return {}
    text = to_header_text(f"{found} is not read on this route: send {field}")
    return {"X-Embedd-Warning": text}


async def embeddings(request: web.Request) -> web.StreamResponse:
    """``POST /api/embeddings``."""
    arrived = time.perf_counter()
    app = request.app
    policy, bodies, store = app[POLICY], app[BODIES], may_store(request)
    schedule = read_schedule(request, arrived=arrived, timeout=policy.request_timeout)
    async with Deadline(schedule), bodies.read(request) as data:
        claim = claim_for(request, len(data))
        wanted, warning = await bodies.decode(
            data, lambda: _translate_legacy(data, policy, store=store)
        )
        result = await app[EMBEDDER].embed(
            structs.replace(wanted, schedule=schedule), arrived=arrived, claim=claim
        )
    request[COMPUTED] = Computed(wanted.model, result)
    numbers = dump_rows(result.vectors)[1:-1]
    parts = insert_rows(EmbeddingReply(embedding=[]), {"embedding": numbers})
    return await parts_response(request, parts, computed_headers(result) | warning)


def _translate_legacy(
    data: bytearray, policy: Policy, *, store: bool
) -> tuple[EmbedRequest, dict[str, str]]:
    body = decode(data, EmbeddingBody)
    wanted = to_legacy_request(body, policy, store=store)
    return wanted, warn_of_other_names(data, "prompt") if body.prompt is None else {}
