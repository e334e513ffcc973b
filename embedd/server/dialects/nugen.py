"""Nugen's API: texts only, never cut, shorter vectors only where the model was made for it."""

import secrets
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from embedd.errors import EmptyInputError, InvalidInputError
from embedd.server.dialects.base import Dialect, Policy, Route, computed_headers, embed_body
from embedd.server.dialects.common.fields import (
    parse_formats,
    parse_optional_keep_alive,
    require_model,
)
from embedd.server.dialects.common.openai_input import FIELD, parse_forms
from embedd.server.dialects.common.vector_json import items
from embedd.server.dialects.openai.errors import STATUSES, to_error
from embedd.server.http.json_out import Parts, dump, parts_response
from embedd.types import ClientIds, DimensionCheck, EmbedRequest, EmbedResult, Truncate

NULL = msgspec.Raw(b"null")


class EmbedBody(msgspec.Struct):
    """Body of ``POST /api/v3/inference/embeddings``."""

    model: str | None = None
    input: msgspec.Raw = NULL
    dimensions: int | None = None
    encoding_format: str | None = None
    keep_alive: Any = None
    options: dict[str, Any] | None = None


def to_request(body: EmbedBody, policy: Policy) -> EmbedRequest:
    """``/api/v3/inference/embeddings`` in the words of the core.

    Raises:
        InvalidInputError: A field is missing or unknown, or an input is no text.
    """
    return EmbedRequest(
        model=require_model(body.model),
        inputs=_parse_texts(bytes(body.input), policy),
        truncate=Truncate.ERROR,
        dimensions=body.dimensions,
        dimension_check=DimensionCheck.MATRYOSHKA,
        formats=parse_formats(encoding_format=body.encoding_format),
        keep_alive=parse_optional_keep_alive(body.keep_alive),
        options=body.options or {},
    )


def to_reply(asked: EmbedRequest, result: EmbedResult, *, id_: str, created: int) -> Parts:
    """The vectors; ``created`` has a decimal point, ``usage`` one key."""
    tail = {
        "model": asked.model,
        "created": float(created),
        "usage": {"total_tokens": sum(result.tokens)},
    }
    head = b'{"id":%b,"object":"embedding","data":[' % dump(id_)
    return [head, items(result, asked.formats), b"]," + dump(tail)[1:]]


async def embeddings(request: web.Request) -> web.StreamResponse:
    """``POST /api/v3/inference/embeddings``."""
    asked, result = await embed_body(request, EmbedBody, to_request)
    id_ = f"embed-{secrets.token_hex(12)}"
    parts = to_reply(asked, result, id_=id_, created=int(time.time()))
    return await parts_response(request, parts, computed_headers(result))


def _parse_texts(raw: bytes, policy: Policy) -> Sequence[str | ClientIds]:
    try:
        inputs = parse_forms(raw, policy)
    except EmptyInputError:
        inputs = [""]
    if not all(isinstance(one, str) for one in inputs):
        raise InvalidInputError("invalid input type", field=FIELD)
    if "" in inputs:
        raise EmptyInputError("input cannot be empty", field=FIELD)
    return inputs


DIALECT = Dialect(
    name="nugen",
    routes=(Route(method="POST", path="/api/v3/inference/embeddings", endpoint=embeddings),),
    to_error=to_error,
    statuses=STATUSES,
)
