"""The API of llama.cpp's server: vectors, tokens, what the server is."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from aiohttp import web

from embedd import __version__
from embedd.embedder.embedder import Embedder
from embedd.errors import InvalidInputError
from embedd.resolve import ResolvedModel
from embedd.server.dialects.base import (
    BODIES,
    EMBEDDER,
    Dialect,
    Policy,
    Route,
    Sharer,
    choose_model,
    computed_headers,
    embed_body,
)
from embedd.server.dialects.endpoints import detokenize, parse_ids, tokenize_body
from embedd.server.dialects.llamacpp.content import parse_content, parse_one
from embedd.server.dialects.llamacpp.errors import STATUSES, to_error
from embedd.server.http.bodies import decode_plainly
from embedd.server.http.json_out import Parts, Rows, dump_rows, json_response, parts_response
from embedd.server.ops.health import health
from embedd.types import (
    EmbedRequest,
    EmbedResult,
    Normalize,
    Tokenized,
    TokenizeRequest,
    TokenPiece,
    Truncate,
)

RAW, EUCLIDEAN, HIGHEST_NORM = -1, 2, 1000


class EmbedBody(msgspec.Struct):
    """Body of ``POST /embedding``."""

    content: Any = None
    input: Any = None
    model: str | None = None
    embd_normalize: int | None = None
    truncate: bool | None = None


class TokenizeBody(msgspec.Struct):
    """Body of ``POST /tokenize`` with ``content``."""

    content: Any = None
    inputs: Any = None
    model: str | None = None
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None


class DetokenizeBody(msgspec.Struct):
    """Body of ``POST /detokenize``."""

    tokens: Any = None
    model: str | None = None


def to_request(body: EmbedBody, policy: Policy) -> EmbedRequest:
    """``/embedding`` in the words of the core.

    Raises:
        InvalidInputError: There is nothing to embed, or a field is wrong.
    """
    content = body.input if body.content is None else body.content
    if content is None:
        raise InvalidInputError('"input" or "content" must be provided', field="content")
    return EmbedRequest(
        model=body.model or "",
        inputs=parse_content(content, policy),
        truncate=Truncate.END if body.truncate else Truncate.ERROR,
        normalize=_parse_norm(body.embd_normalize),
    )


def _parse_norm(number: int | None) -> Normalize | int:
    if number is None or number == EUCLIDEAN:
        return Normalize.L2
    if not RAW <= number <= HIGHEST_NORM:
        raise InvalidInputError(
            f"embd_normalize must be between {RAW} and {HIGHEST_NORM}, got {number}",
            field="embd_normalize",
        )
    return Normalize.NONE if number == RAW else number


def to_reply(result: EmbedResult) -> Parts:
    """For each input a list of vectors, which has one."""

    def render(start: int, stop: int) -> bytes:
        return b",".join(
            b'{"index":%d,"embedding":[%b]}' % (index, dump_rows(result.vectors[index : index + 1]))
            for index in range(start, stop)
        )

    return [b"[", Rows(len(result.vectors), render), b"]"]


def to_tokenize_request(body: TokenizeBody, policy: Policy) -> TokenizeRequest:
    """``/tokenize`` in the words of the core.

    Raises:
        InvalidInputError: ``content`` is neither text nor a mix of texts and ids.
    """
    if body.content is None:
        raise InvalidInputError('"content" or "inputs" must be provided', field="content")
    if body.inputs is not None:
        raise InvalidInputError('use either "content" or "inputs"', field="content")
    inputs = [] if body.content in ([], "") else [parse_one(body.content, policy)]
    return TokenizeRequest(
        model=body.model or "",
        inputs=inputs,
        add_special=bool(body.add_special),
        parse_special=body.parse_special is not False,
        with_pieces=bool(body.with_pieces),
    )


def to_tokens(result: Tokenized, *, with_pieces: bool) -> Sequence[object]:
    """Ids, or ids with their texts: a list of bytes where they are no UTF-8."""
    ids: list[int] = result.ids.tolist()
    if not with_pieces:
        return ids
    return [
        {"id": id_, "piece": _to_text(piece)} for id_, piece in zip(ids, result.pieces, strict=True)
    ]


def _to_text(piece: TokenPiece) -> str | list[int]:
    try:
        return piece.text.decode()
    except UnicodeDecodeError:
        return list(piece.text)


async def embedding(request: web.Request) -> web.StreamResponse:
    """``POST /embedding``."""
    _, result = await embed_body(request, EmbedBody, to_request)
    return await parts_response(request, to_reply(result), computed_headers(result))


async def tokenize(request: web.Request) -> web.StreamResponse:
    """``POST /tokenize`` with ``content``."""
    asked, results = await tokenize_body(request, TokenizeBody, to_tokenize_request)
    tokens = [to_tokens(one, with_pieces=asked.with_pieces) for one in results]
    return json_response({"tokens": tokens[0] if tokens else []})


async def detokenize_tokens(request: web.Request) -> web.StreamResponse:
    """``POST /detokenize``."""
    async with request.app[BODIES].read(request) as data:
        body = decode_plainly(data, DetokenizeBody)
        ids = parse_ids("tokens", [] if body.tokens is None else body.tokens)
        [text] = await detokenize(request, body.model, [ids], special=True)
        return json_response({"content": text})


async def props(request: web.Request) -> web.StreamResponse:
    """``GET /props``: what is known of a model without loading its weights."""
    embedder = request.app[EMBEDDER]
    name = request.query.get("model") or await choose_model(request.app, "embedding")
    model = await asyncio.to_thread(embedder.find, name)
    bos, eos = await _spell_ends(embedder, name, model)
    settings: dict[str, object] = {"n_ctx": embedder.limit(model), "params": {}}
    return json_response(
        {
            "default_generation_settings": settings,
            "total_slots": 1,
            "model_alias": name,
            "model_path": model.spec.path.name,
            "modalities": {"vision": False, "audio": False, "video": False},
            "chat_template": "",
            "bos_token": bos,
            "eos_token": eos,
            "build_info": f"embedd-{__version__}",
            "is_sleeping": not embedder.is_loaded(model),
        }
    )


async def _spell_ends(embedder: Embedder, name: str, model: ResolvedModel) -> Sequence[str]:
    """The tokens at the beginning and the end of a text; empty where there are none."""
    found = [model.facts.metadata.get(f"tokenizer.ggml.{end}_token_id") for end in ("bos", "eos")]
    known = [np.array([one], np.int64) for one in found if isinstance(one, int)]
    spelled = iter(await embedder.detokenize(name, known, special=True) if known else ())
    return [next(spelled) if isinstance(one, int) else "" for one in found]


DIALECT = Dialect(
    name="llamacpp",
    routes=(
        Route(method="POST", path="/embedding", endpoint=embedding),
        Route(method="POST", path="/tokenize", endpoint=tokenize),
        Route(method="POST", path="/detokenize", endpoint=detokenize_tokens),
        Route(method="GET", path="/health", endpoint=health),
        Route(method="GET", path="/v1/health", endpoint=health),
        Route(method="GET", path="/props", endpoint=props),
    ),
    to_error=to_error,
    statuses=STATUSES,
)

# The path `/embeddings` is OpenAI's.
SHARER = Sharer(
    dialect=DIALECT,
    endpoint=embedding,
    wants=lambda fields: "content" in fields and "input" not in fields,
)
