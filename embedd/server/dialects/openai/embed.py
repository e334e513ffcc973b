"""OpenAI's API, with the fields of Nebula, Voyage, Jina and Mistral on the same routes."""

import uuid
from typing import Any

import msgspec
from aiohttp import web

from embedd.errors import UnsupportedValueError
from embedd.server.dialects.base import Dialect, Policy, Route, computed_headers, embed_body
from embedd.server.dialects.common.fields import (
    parse_dimensions,
    parse_formats,
    parse_optional_keep_alive,
    parse_truncate,
    require_model,
)
from embedd.server.dialects.common.openai_input import parse_forms
from embedd.server.dialects.common.prompts import parse_prompt
from embedd.server.dialects.common.vector_json import items
from embedd.server.dialects.openai.errors import STATUSES, to_error
from embedd.server.dialects.openai.models import list_models, show_model
from embedd.server.http.json_out import Parts, dump, parts_response
from embedd.types import DimensionCheck, EmbedRequest, EmbedResult, Normalize

NULL = msgspec.Raw(b"null")


class EmbedBody(msgspec.Struct):
    """Body of ``POST /v1/embeddings``; fields without effect (``user`` …) are not read."""

    model: str | None = None
    input: msgspec.Raw = NULL
    encoding_format: str | None = None
    dimensions: int | None = None
    truncate: bool | str | None = None
    keep_alive: Any = None
    options: dict[str, Any] | None = None
    prompt_name: str | None = None
    # Voyage and Mistral
    input_type: str | None = None
    truncation: bool | None = None
    output_dtype: str | None = None
    output_dimension: int | None = None
    # Jina
    task: str | None = None
    embedding_type: str | list[str] | None = None
    normalized: bool | None = None
    late_chunking: bool | None = None
    return_multivector: bool | None = None


def to_request(body: EmbedBody, policy: Policy) -> EmbedRequest:
    """``/v1/embeddings`` in the words of the core.

    Raises:
        InvalidInputError: A field is missing, unknown or contradicts another.
    """
    model = require_model(body.model)
    for name in ("late_chunking", "return_multivector"):
        if getattr(body, name):
            raise UnsupportedValueError(f"{name} is not supported yet", field=name)
    prompt = parse_prompt(input_type=body.input_type, task=body.task, prompt_name=body.prompt_name)
    return EmbedRequest(
        model=model,
        inputs=parse_forms(bytes(body.input), policy),
        truncate=parse_truncate(truncate=body.truncate, truncation=body.truncation),
        dimensions=parse_dimensions(body.dimensions, body.output_dimension),
        dimension_check=DimensionCheck.STRICT,
        normalize=Normalize.NONE if body.normalized is False else Normalize.L2,
        formats=parse_formats(
            encoding_format=body.encoding_format,
            output_dtype=body.output_dtype,
            embedding_type=body.embedding_type,
        ),
        prompt=prompt,
        keep_alive=parse_optional_keep_alive(body.keep_alive),
        options=body.options or {},
    )


def to_reply(asked: EmbedRequest, result: EmbedResult, *, id_: str) -> Parts:
    """The list of vectors; ``usage`` with the five keys that Nebula's clients read."""
    tokens = sum(result.tokens)
    tail = {
        "model": asked.model,
        "usage": {
            "prompt_tokens": tokens,
            "completion_tokens": 0,
            "total_tokens": tokens,
            "completion_tokens_details": None,
            "prompt_tokens_details": None,
        },
    }
    head = b'{"id":%b,"object":"list","data":[' % dump(id_)
    return [head, items(result, asked.formats), b"]," + dump(tail)[1:]]


async def embeddings(request: web.Request) -> web.StreamResponse:
    """``POST /v1/embeddings``."""
    asked, result = await embed_body(request, EmbedBody, to_request)
    parts = to_reply(asked, result, id_=f"embd-{uuid.uuid4().hex}")
    return await parts_response(request, parts, computed_headers(result))


DIALECT = Dialect(
    name="openai",
    routes=(
        Route(method="POST", path="/v1/embeddings", endpoint=embeddings),
        Route(method="POST", path="/embeddings", endpoint=embeddings),
        Route(method="GET", path="/v1/models", endpoint=list_models),
        Route(method="GET", path="/models", endpoint=list_models),
        Route(method="GET", path="/v1/models/{id}", endpoint=show_model),
    ),
    to_error=to_error,
    statuses=STATUSES,
)
