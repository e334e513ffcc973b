"""What all endpoints share: reading the body, computing, the headers of a computed answer."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from aiohttp import web
from msgspec.structs import replace

from embedd.errors import InvalidInputError, LoadTimeoutError
from embedd.ollama_api import format_served_by
from embedd.server.dialects.base import (
    BODIES,
    COMPUTED,
    EMBEDDER,
    LIBRARY,
    POLICY,
    Computed,
    Policy,
)
from embedd.server.http.answers import claim_for
from embedd.server.http.bodies import Body, decode_plainly
from embedd.server.http.header_text import to_header_text
from embedd.server.http.schedule import Deadline, read_schedule
from embedd.types import (
    ClientIds,
    DType,
    EmbedRequest,
    EmbedResult,
    RerankRequest,
    RerankResult,
    Result,
    Tokenized,
    TokenizeRequest,
    Truncated,
)

LONGEST_TRUNCATED: Final = 1000  # bytes of `X-Embedd-Truncated`
MORE: Final = "; more"


class DetokenizeBody(msgspec.Struct):
    """Body of ``POST /detokenize`` and ``POST /v1/detokenize``."""

    tokens: Any = None
    model: str | None = None


async def embed_body(
    request: web.Request, kind: type[Body], to_request: Callable[[Body, Policy], EmbedRequest]
) -> tuple[EmbedRequest, EmbedResult]:
    """Read the body, translate and compute it: the request, with its model's name, and the result.

    Raises:
        EmbeddError: As `Embedder.embed`, and for a body that cannot be read or translated.
    """
    arrived = time.perf_counter()
    app = request.app
    policy, bodies = app[POLICY], app[BODIES]
    schedule = read_schedule(request, arrived=arrived, timeout=policy.request_timeout)
    async with Deadline(schedule), bodies.read(request) as data:
        claim = claim_for(request, len(data))
        wanted = await bodies.decode(
            data, lambda: to_request(decode_plainly(data, kind, policy.max_inputs), policy)
        )
        model = await choose_named(app, wanted.model, "embedding")
        wanted = replace(wanted, model=model, store=may_store(request), schedule=schedule)
        try:
            result = await app[EMBEDDER].embed(wanted, arrived=arrived, claim=claim)
        except LoadTimeoutError as error:
            raise name_model(error, model) from error
        request[COMPUTED] = Computed(model, result)
        return wanted, result


async def rerank_body(
    request: web.Request, kind: type[Body], to_request: Callable[[Body, Policy], RerankRequest]
) -> tuple[Body, RerankRequest, RerankResult]:
    """As `embed_body` for a rerank; the body comes too: it has the documents as they were sent.

    Raises:
        EmbeddError: As `Embedder.rerank`, and for a body that cannot be read or translated.
    """
    arrived = time.perf_counter()
    app = request.app
    policy, bodies = app[POLICY], app[BODIES]
    schedule = read_schedule(request, arrived=arrived, timeout=policy.request_timeout)
    async with Deadline(schedule), bodies.read(request) as data:
        claim_for(request, len(data))

        def translate() -> tuple[Body, RerankRequest]:
            body = decode_plainly(data, kind, policy.max_inputs)
            return body, to_request(body, policy)

        body, wanted = await bodies.decode(data, translate)
        model = await choose_named(app, wanted.model, "rerank")
        wanted = replace(wanted, model=model, store=may_store(request), schedule=schedule)
        try:
            result = await app[EMBEDDER].rerank(wanted, arrived=arrived)
        except LoadTimeoutError as error:
            raise name_model(error, model) from error
        request[COMPUTED] = Computed(model, result)
        return body, wanted, result


async def tokenize_body(
    request: web.Request, kind: type[Body], to_request: Callable[[Body, Policy], TokenizeRequest]
) -> tuple[TokenizeRequest, list[Tokenized]]:
    """As `embed_body` for tokens.

    Raises:
        EmbeddError: As `Embedder.tokenize`, and for a body that cannot be read or translated.
    """
    policy = request.app[POLICY]
    schedule = read_schedule(request, arrived=time.perf_counter(), timeout=policy.request_timeout)
    async with Deadline(schedule), request.app[BODIES].read(request) as data:
        claim = claim_for(request, len(data))
        wanted = await request.app[BODIES].decode(
            data, lambda: to_request(decode_plainly(data, kind, policy.max_inputs), policy)
        )
        model = await choose_named(request.app, wanted.model, "embedding")
        wanted = replace(wanted, model=model)
        return wanted, await request.app[EMBEDDER].tokenize(wanted, claim=claim)


async def detokenize_body(
    request: web.Request, translate: Callable[[bytearray], tuple[str | None, list[ClientIds], bool]]
) -> list[str]:
    """Read the body, and return the text of each of its sequences of token ids.

    Args:
        translate: Returns the model's name, the sequences, and whether special tokens are kept.

    Raises:
        EmbeddError: As `Embedder.detokenize`, and for a body that cannot be read or translated.
    """
    timeout = request.app[POLICY].request_timeout
    schedule = read_schedule(request, arrived=time.perf_counter(), timeout=timeout)
    async with Deadline(schedule), request.app[BODIES].read(request) as data:
        claim = claim_for(request, len(data))
        name, sequences, special = await request.app[BODIES].decode(data, lambda: translate(data))
        model = await choose_named(request.app, name, "embedding")
        embedder = request.app[EMBEDDER]
        return await embedder.detokenize(model, sequences, special=special, claim=claim)


def to_translation(
    to_sequence: Callable[[DetokenizeBody], ClientIds],
) -> Callable[[bytearray], tuple[str | None, list[ClientIds], bool]]:
    """Return what `detokenize_body` needs for a body of one sequence, special tokens kept."""

    def translate(data: bytearray) -> tuple[str | None, list[ClientIds], bool]:
        body = decode_plainly(data, DetokenizeBody)
        return body.model, [to_sequence(body)], True

    return translate


def name_model(error: LoadTimeoutError, name: str) -> LoadTimeoutError:
    """Return *error* with the model's name."""
    return type(error)(f'model "{name}" is still loading')


def may_store(request: web.Request) -> bool:
    """Whether vectors may come from the cache and go to it (RFC 9111, ``no-store``)."""
    wanted = request.headers.get("Cache-Control")
    return wanted is None or "no-store" not in wanted.lower()


async def choose_named(app: web.Application, name: str | None, capability: str) -> str:
    """The model *name* as the client sent it, or `choose_model` if it is blank."""
    if name and name.strip():
        return name
    return await choose_model(app, capability)


async def choose_model(app: web.Application, capability: str) -> str:
    """The model of a request that names none: the default, or the only one with *capability*.

    Raises:
        InvalidInputError: None has it, or several have.
    """
    policy = app[POLICY]
    default = policy.default_model
    if capability == "rerank":
        default = policy.default_rerank_model or default
    if default is not None:
        return default
    entries = await asyncio.to_thread(app[LIBRARY].list)
    names = [entry.name for entry in entries if capability in entry.capabilities]
    if len(names) != 1:
        raise InvalidInputError("no model given and default_model is not set", field="model")
    return names[0]


def computed_headers(result: Result) -> dict[str, str]:
    """Headers of an answer with something computed, the same in every dialect."""
    served_by = result.served_by
    if served_by is None:
        return {}
    headers = {
        "Server-Timing": _server_timing(result),
        "X-Embedd-Model": format_served_by(served_by),
    }
    if result.truncated:
        headers["X-Embedd-Truncated"] = describe_truncated(result.truncated)
    if result.warnings:
        headers["X-Embedd-Warning"] = to_header_text("; ".join(result.warnings))
    if isinstance(result, EmbedResult) and result.quantized.keys() & {DType.INT8, DType.UINT8}:
        headers["X-Embedd-Quantization"] = _quantization(result.int8_range)
    return headers


def _quantization(int8_range: float | None) -> str:
    if int8_range is None:
        return "int8;scale=vector"
    return f"int8;scale=fixed;range={int8_range:g}"


def _server_timing(result: Result) -> str:
    timings = result.timings
    text = (
        f"tokenize;dur={1000 * timings.tokenize:.3f}, queue;dur={1000 * timings.queue:.3f}, "
        f"compute;dur={1000 * timings.compute:.3f}, total;dur={1000 * timings.total:.3f}"
    )
    if timings.load:
        text = f"load;dur={1000 * timings.load:.3f}, {text}"
    if reused := sum(result.reused.values()):
        text += f', cache;desc="{reused} of {len(result.tokens)} reused"'
    return text


def describe_truncated(truncated: Sequence[Truncated]) -> str:
    """Return ``count=2; index=0 tokens=602 kept=256; index=4 …``, and ``; more`` if it is long."""
    text = f"count={len(truncated)}"
    for one in truncated:
        part = f"; index={one.index} tokens={one.tokens} kept={one.kept}"
        if len(text) + len(part) + len(MORE) > LONGEST_TRUNCATED:
            return text + MORE
        text += part
    return text
