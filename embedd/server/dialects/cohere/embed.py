"""Cohere's ``/v1/embed`` and ``/v2/embed``."""

import uuid
from typing import Any

from aiohttp import web
from msgspec import Struct

from embedd.errors import EmptyInputError, InvalidInputError, UnsupportedValueError
from embedd.server.dialects.base import Policy
from embedd.server.dialects.common.chunk import refuse_chunk
from embedd.server.dialects.common.fields import (
    CUTS,
    choose_word,
    make_format,
    parse_type_names,
    require_model,
)
from embedd.server.dialects.common.openai_input import check_count, check_inputs
from embedd.server.dialects.common.prompts import parse_prompt
from embedd.server.dialects.common.vector_json import column, insert_rows
from embedd.server.dialects.endpoints import computed_headers, embed_body
from embedd.server.http.json_out import Parts, parts_response
from embedd.types import DimensionCheck, EmbedRequest, EmbedResult, VectorFormat


class EmbedBody(Struct):
    """Body of ``POST /v1/embed``."""

    model: str | None = None
    texts: list[str] | None = None
    images: Any = None
    input_type: str | None = None
    embedding_types: list[str] | None = None
    output_dimension: int | None = None
    truncate: str | None = None
    chunk: Any = None


class EmbedBodyV2(EmbedBody):
    """Body of ``POST /v2/embed``."""

    inputs: list[dict[str, Any]] | None = None
    max_tokens: int | None = None


class EmbedReply(Struct, frozen=True, kw_only=True):
    """``POST /v1/embed`` and ``/v2/embed``: *embeddings* by type if the request names types."""

    id: str
    response_type: str
    embeddings: list[list[float]] | dict[str, list[Any]]
    texts: list[str]
    meta: dict[str, Any]


def to_request(body: EmbedBody, policy: Policy) -> EmbedRequest:
    """``/v1/embed`` as an `EmbedRequest`; the model may be missing.

    Raises:
        InvalidInputError: A field is missing, unknown or contradicts another.
    """
    if body.images is not None:
        raise UnsupportedValueError("images are not supported", field="images")
    return _to_request(body, body.texts, policy)


def to_request_v2(body: EmbedBodyV2, policy: Policy) -> EmbedRequest:
    """``/v2/embed`` as an `EmbedRequest`.

    Raises:
        InvalidInputError: A field is missing, unknown or contradicts another.
    """
    body.model = require_model(body.model, policy.default_model)
    if body.images is not None:
        raise UnsupportedValueError("images are not supported", field="images")
    if body.texts is not None and body.inputs is not None:
        raise InvalidInputError("use either texts or inputs", field="inputs")
    if body.max_tokens is not None and body.max_tokens < 1:
        raise InvalidInputError(
            f"max_tokens must be at least 1, got {body.max_tokens}", field="max_tokens"
        )
    check_count(body.inputs or (), policy.max_inputs, "inputs")
    texts = body.texts if body.inputs is None else [_to_text(one) for one in body.inputs]
    if body.embedding_types is None:
        body.embedding_types = ["float"]
    return _to_request(body, texts, policy, body.max_tokens)


def _to_request(
    body: EmbedBody, texts: list[str] | None, policy: Policy, max_tokens: int | None = None
) -> EmbedRequest:
    refuse_chunk(body.chunk)
    if not texts:
        raise EmptyInputError("texts must not be empty", field="texts")
    prompt = parse_prompt(input_type=body.input_type)
    truncate = "end" if body.truncate is None else body.truncate
    return EmbedRequest(
        model=body.model or "",
        inputs=check_inputs(texts, policy, "texts"),
        truncate=CUTS[choose_word("truncate", truncate, CUTS)],
        max_tokens=max_tokens,
        dimensions=body.output_dimension,
        dimension_check=DimensionCheck.STRICT,
        formats=_parse_formats(body.embedding_types),
        prompt=prompt,
    )


def _parse_formats(names: list[str] | None) -> list[VectorFormat]:
    """An output for each type; one without a name if *names* is None."""
    if names is None:
        return [VectorFormat()]
    if not names:
        raise InvalidInputError("embedding_types must not be empty", field="embedding_types")
    return [make_format(name) for name in parse_type_names("embedding_types", names)]


def _to_text(item: dict[str, Any]) -> str:
    """The text parts of an element of ``inputs``, a line each."""
    content = item.get("content")
    if not isinstance(content, list) or not content:
        raise InvalidInputError("inputs must have content", field="inputs")
    return "\n".join(_to_line(part) for part in content)


def _to_line(part: object) -> str:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "image_url"} | {"image_url": _}:
            raise UnsupportedValueError("images are not supported", field="inputs")
        case _:
            raise InvalidInputError("content must be of type text", field="inputs")


def to_reply(wanted: EmbedRequest, result: EmbedResult, *, id_: str, version: str) -> Parts:
    """The vectors in each requested type, or as plain floats if the request names none."""
    columns = {output.key: column(result, output) for output in wanted.formats}
    by_type = "" not in columns
    reply = EmbedReply(
        id=id_,
        response_type="embeddings_by_type" if by_type else "embeddings_floats",
        embeddings={name: [] for name in columns} if by_type else [],
        texts=[str(text) for text in wanted.inputs],
        meta={
            "api_version": {"version": version},
            "billed_units": {"input_tokens": sum(result.tokens)},
        },
    )
    return insert_rows(reply, columns if by_type else {"embeddings": columns[""]})


async def embed(request: web.Request) -> web.StreamResponse:
    """``POST /v1/embed``."""
    wanted, result = await embed_body(request, EmbedBody, to_request)
    parts = to_reply(wanted, result, id_=str(uuid.uuid4()), version="1")
    return await parts_response(request, parts, computed_headers(result))


async def embed_v2(request: web.Request) -> web.StreamResponse:
    """``POST /v2/embed``."""
    wanted, result = await embed_body(request, EmbedBodyV2, to_request_v2)
    parts = to_reply(wanted, result, id_=str(uuid.uuid4()), version="2")
    return await parts_response(request, parts, computed_headers(result))
