"""OpenAI's API, with the fields of Nebula, Voyage, Jina and Mistral on the same routes."""

import uuid
from collections.abc import Callable

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from embedd.errors import UnsupportedValueError
from embedd.server.dialects.base import Policy
from embedd.server.dialects.common import openai_input
from embedd.server.dialects.common.chunk import chunk_rows, parse_chunk
from embedd.server.dialects.common.fields import (
    PARTS,
    parse_dimensions,
    parse_formats,
    parse_max_tokens,
    parse_optional_keep_alive,
    parse_truncate,
    require_model,
)
from embedd.server.dialects.common.prompts import parse_prompt
from embedd.server.dialects.common.vector_json import Items, insert_rows, items
from embedd.server.dialects.endpoints import computed_headers, embed_body
from embedd.server.http.json_out import Parts, parts_response
from embedd.types import ChunkPlace, DimensionCheck, EmbedRequest, EmbedResult, Normalize


class EmbedBody(openai_input.EmbedBody):
    """Body of ``POST /v1/embeddings``; fields without effect (``user`` …) are not read."""

    truncate: bool | str | None = None
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
    # vLLM: most tokens of an input, -1 is what the model takes
    truncate_prompt_tokens: int | None = None


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens of a request; services send one, two or five of these keys."""

    prompt_tokens: int | UnsetType = UNSET
    completion_tokens: int | UnsetType = UNSET
    total_tokens: int
    completion_tokens_details: UnsetType | None = UNSET
    prompt_tokens_details: UnsetType | None = UNSET


class EmbedReply(Struct, frozen=True, kw_only=True):
    """``POST /v1/embeddings``; AIGNE Hub's answer has no *id*, Nugen's has *created*.

    *chunks* answers a request with ``chunk``: where the texts were cut.
    """

    id: str | UnsetType = UNSET
    object: str = "list"
    data: Items
    model: str
    created: float | UnsetType = UNSET
    usage: Usage
    chunks: list[ChunkPlace] | UnsetType = UNSET


def to_request(body: EmbedBody, policy: Policy, *, from_openai: bool = True) -> EmbedRequest:
    """``/v1/embeddings`` as an `EmbedRequest`.

    Args:
        from_openai: Whether clients of the route send ids of OpenAI's vocabularies.

    Raises:
        InvalidInputError: A field is missing, unknown or contradicts another.
    """
    model = require_model(body.model, policy.default_model)
    for name in ("late_chunking", "return_multivector"):
        if getattr(body, name):
            raise UnsupportedValueError(f"{name} is not supported yet", field=name)
    prompt = parse_prompt(input_type=body.input_type, task=body.task, prompt_name=body.prompt_name)
    truncate = parse_truncate(truncate=body.truncate, truncation=body.truncation, words=PARTS)
    return EmbedRequest(
        model=model,
        inputs=openai_input.parse_inputs(body.input, policy, from_openai=from_openai),
        truncate=truncate,
        max_tokens=parse_max_tokens(body.truncate_prompt_tokens, truncate),
        chunk=parse_chunk(body.chunk, max_chunks=policy.max_inputs),
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


def to_reply(wanted: EmbedRequest, result: EmbedResult, *, id_: str) -> Parts:
    """The list of vectors; ``usage`` with the five keys that Nebula's clients read."""
    tokens = sum(result.tokens)
    usage = Usage(
        prompt_tokens=tokens,
        completion_tokens=0,
        total_tokens=tokens,
        completion_tokens_details=None,
        prompt_tokens_details=None,
    )
    return to_parts(EmbedReply(id=id_, data=[], model=wanted.model, usage=usage), wanted, result)


def to_parts(reply: EmbedReply, wanted: EmbedRequest, result: EmbedResult) -> Parts:
    """*reply* with its vectors, and with the places of chunks if the request has ``chunk``."""
    rows = {"data": items(result, wanted.formats)}
    if wanted.chunk is not None:
        reply = msgspec.structs.replace(reply, chunks=[])
        rows["chunks"] = chunk_rows(result.chunks)
    return insert_rows(reply, rows)


async def embeddings(request: web.Request) -> web.StreamResponse:
    """``POST /v1/embeddings``."""
    return await _answer(request, to_request)


async def azure_embeddings(request: web.Request) -> web.StreamResponse:
    """``POST /openai/deployments/{model}/embeddings``: the model is Azure's deployment."""
    model = request.match_info["model"]

    def translate(body: EmbedBody, policy: Policy) -> EmbedRequest:
        body.model = model
        return to_request(body, policy)

    return await _answer(request, translate)


async def _answer(
    request: web.Request, translate: Callable[[EmbedBody, Policy], EmbedRequest]
) -> web.StreamResponse:
    wanted, result = await embed_body(request, EmbedBody, translate)
    parts = to_reply(wanted, result, id_=f"embd-{uuid.uuid4().hex}")
    return await parts_response(request, parts, computed_headers(result))
