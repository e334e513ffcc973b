"""Cohere's API, versions 1 and 2: embed, and the routes of all it has."""

import uuid
from typing import Any

import msgspec
from aiohttp import web

from embedd.errors import (
    EmptyInputError,
    InputTooLongError,
    InvalidInputError,
    UnsupportedValueError,
)
from embedd.server.dialects.base import (
    Dialect,
    Failure,
    Policy,
    Route,
    computed_headers,
    embed_body,
)
from embedd.server.dialects.cohere.tokens import detokenize_tokens, tokenize
from embedd.server.dialects.common.error_text import phrase
from embedd.server.dialects.common.fields import (
    CUTS,
    choose_word,
    make_format,
    parse_type_names,
    require_model,
)
from embedd.server.dialects.common.openai_input import check_inputs
from embedd.server.dialects.common.prompts import parse_prompt
from embedd.server.dialects.common.vector_json import column
from embedd.server.dialects.openai.errors import STATUSES
from embedd.server.dialects.rerank import rerank_v2
from embedd.server.http.json_out import Parts, Rows, dump, parts_response
from embedd.types import DimensionCheck, EmbedRequest, EmbedResult, VectorFormat


class EmbedBody(msgspec.Struct):
    """Body of ``POST /v1/embed``."""

    model: str | None = None
    texts: list[str] | None = None
    images: Any = None
    input_type: str | None = None
    embedding_types: list[str] | None = None
    output_dimension: int | None = None
    truncate: str | None = None


class EmbedBodyV2(EmbedBody):
    """Body of ``POST /v2/embed``."""

    inputs: list[dict[str, Any]] | None = None
    max_tokens: int | None = None


def to_request(body: EmbedBody, policy: Policy) -> EmbedRequest:
    """``/v1/embed`` in the words of the core; without a model the default one is meant.

    Raises:
        InvalidInputError: A field is missing, unknown or contradicts another.
    """
    if body.images is not None:
        raise UnsupportedValueError("images are not supported", field="images")
    return _to_request(body, body.texts, policy)


def to_request_v2(body: EmbedBodyV2, policy: Policy) -> EmbedRequest:
    """``/v2/embed`` in the words of the core.

    Raises:
        InvalidInputError: A field is missing, unknown or contradicts another.
    """
    require_model(body.model)
    if body.images is not None:
        raise UnsupportedValueError("images are not supported", field="images")
    if body.texts is not None and body.inputs is not None:
        raise InvalidInputError("use either texts or inputs", field="inputs")
    if body.max_tokens is not None and body.max_tokens < 1:
        raise InvalidInputError(
            f"max_tokens must be at least 1, got {body.max_tokens}", field="max_tokens"
        )
    texts = body.texts if body.inputs is None else [_to_text(one) for one in body.inputs]
    if body.embedding_types is None:
        body.embedding_types = ["float"]
    return _to_request(body, texts, policy, body.max_tokens)


def _to_request(
    body: EmbedBody, texts: list[str] | None, policy: Policy, max_tokens: int | None = None
) -> EmbedRequest:
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
    """One output without a name where no type was named."""
    if names is None:
        return [VectorFormat()]
    if not names:
        raise InvalidInputError("embedding_types must not be empty", field="embedding_types")
    return [make_format(name) for name in parse_type_names("embedding_types", names)]


def _to_text(item: dict[str, Any]) -> str:
    """The text parts of one of ``inputs``, a line each."""
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


def to_reply(asked: EmbedRequest, result: EmbedResult, *, id_: str, version: str) -> Parts:
    """The vectors by the types that were asked for and no others, or as plain floats."""
    meta = {
        "api_version": {"version": version},
        "billed_units": {"input_tokens": sum(result.tokens)},
    }
    tail = b"," + dump({"texts": asked.inputs, "meta": meta})[1:]
    head = b'{"id":%b,"response_type":' % dump(id_)
    if not asked.formats[0].key:
        head += b'"embeddings_floats","embeddings":['
        return [head, column(result, asked.formats[0]), b"]" + tail]
    parts: list[bytes | Rows] = [head + b'"embeddings_by_type","embeddings":']
    for number, output in enumerate(asked.formats):
        opening = b"," if number else b"{"
        parts += [opening + dump(output.key) + b":[", column(result, output), b"]"]
    return [*parts, b"}" + tail]


def to_error(failure: Failure) -> bytes:
    """``{"id", "message"}``, the message with the beginning that Cohere's have."""
    message = phrase(failure.error, failure.request_id)
    if isinstance(failure.error, InputTooLongError):
        message = f"too many tokens: {message}"
    elif failure.status == 400:
        message = f"invalid request: {message}"
    return dump({"id": failure.request_id, "message": message})


async def embed(request: web.Request) -> web.StreamResponse:
    """``POST /v1/embed``."""
    asked, result = await embed_body(request, EmbedBody, to_request)
    parts = to_reply(asked, result, id_=str(uuid.uuid4()), version="1")
    return await parts_response(request, parts, computed_headers(result))


async def embed_v2(request: web.Request) -> web.StreamResponse:
    """``POST /v2/embed``."""
    asked, result = await embed_body(request, EmbedBodyV2, to_request_v2)
    parts = to_reply(asked, result, id_=str(uuid.uuid4()), version="2")
    return await parts_response(request, parts, computed_headers(result))


DIALECT = Dialect(
    name="cohere",
    routes=(
        Route(method="POST", path="/v1/embed", endpoint=embed),
        Route(method="POST", path="/v2/embed", endpoint=embed_v2),
        Route(method="POST", path="/v2/rerank", endpoint=rerank_v2),
        Route(method="POST", path="/v1/tokenize", endpoint=tokenize),
        Route(method="POST", path="/v1/detokenize", endpoint=detokenize_tokens),
    ),
    to_error=to_error,
    statuses=STATUSES,
)
