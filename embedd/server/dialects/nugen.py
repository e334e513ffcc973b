"""Nugen's API: texts only, never cut; ``dimensions`` only where the model was trained for it."""

import secrets
import time
from collections.abc import Sequence

from aiohttp import web

from embedd.errors import EmptyInputError, InvalidInputError
from embedd.server.dialects.base import Dialect, Policy, Route
from embedd.server.dialects.common.chunk import refuse_chunk
from embedd.server.dialects.common.fields import (
    parse_formats,
    parse_optional_keep_alive,
    require_model,
)
from embedd.server.dialects.common.openai_input import FIELD, EmbedBody, parse_inputs
from embedd.server.dialects.common.vector_json import insert_rows, items
from embedd.server.dialects.endpoints import computed_headers, embed_body
from embedd.server.dialects.openai.embed import EmbedReply, Usage
from embedd.server.dialects.openai.errors import STATUSES, to_error
from embedd.server.http.json_out import Parts, parts_response
from embedd.types import ClientIds, DimensionCheck, EmbedRequest, EmbedResult, Truncate


def to_request(body: EmbedBody, policy: Policy) -> EmbedRequest:
    """``/api/v3/inference/embeddings`` as an `EmbedRequest`.

    Raises:
        InvalidInputError: A field is missing or unknown, or an input is not text.
    """
    refuse_chunk(body.chunk)
    return EmbedRequest(
        model=require_model(body.model, policy.default_model),
        inputs=_parse_texts(body.input, policy),
        truncate=Truncate.ERROR,
        dimensions=body.dimensions,
        dimension_check=DimensionCheck.MATRYOSHKA,
        formats=parse_formats(encoding_format=body.encoding_format),
        keep_alive=parse_optional_keep_alive(body.keep_alive),
        options=body.options or {},
    )


def to_reply(wanted: EmbedRequest, result: EmbedResult, *, id_: str, created: int) -> Parts:
    """The vectors; ``created`` has a decimal point, ``usage`` one key."""
    reply = EmbedReply(
        id=id_,
        object="embedding",
        data=[],
        model=wanted.model,
        created=float(created),
        usage=Usage(total_tokens=sum(result.tokens)),
    )
    return insert_rows(reply, {"data": items(result, wanted.formats)})


async def embeddings(request: web.Request) -> web.StreamResponse:
    """``POST /api/v3/inference/embeddings``."""
    wanted, result = await embed_body(request, EmbedBody, to_request)
    id_ = f"embed-{secrets.token_hex(12)}"
    parts = to_reply(wanted, result, id_=id_, created=int(time.time()))
    return await parts_response(request, parts, computed_headers(result))


def _parse_texts(value: object, policy: Policy) -> Sequence[str | ClientIds]:
    try:
        inputs = parse_inputs(value, policy)
    except EmptyInputError:
        inputs = [""]
    if not all(isinstance(one, str) for one in inputs):
        raise InvalidInputError("invalid input type", field=FIELD)
    if "" in inputs:
        raise EmptyInputError("input cannot be empty", field=FIELD)
    return inputs


DIALECT = Dialect(
    name="nugen",
    routes=(
        Route(
            method="POST",
            path="/api/v3/inference/embeddings",
            endpoint=embeddings,
            body=EmbedBody,
            reply=EmbedReply,
        ),
    ),
    to_error=to_error,
    statuses=STATUSES,
)
