"""llama.cpp's ``/embedding``."""

from typing import Annotated, Any, Final

from aiohttp import web
from msgspec import Meta, Struct

from embedd.errors import InvalidInputError
from embedd.server.dialects.base import Policy
from embedd.server.dialects.common.chunk import refuse_chunk
from embedd.server.dialects.common.vector_json import choose_numbers
from embedd.server.dialects.endpoints import computed_headers, embed_body
from embedd.server.dialects.llamacpp.content import parse_content
from embedd.server.http.json_out import Parts, Rows, choose_step, dump_rows, parts_response
from embedd.types import EmbedRequest, EmbedResult, Normalize, Truncate

RAW, EUCLIDEAN, HIGHEST_NORM = -1, 2, 1000
# What `to_reply` writes, for the OpenAPI document: the numbers are written without structs.
_VECTOR: Final = {"type": "array", "items": {"type": "number"}}
_ITEM: Final = {
    "type": "object",
    "properties": {
        "index": {"type": "integer"},
        "embedding": {"type": "array", "items": _VECTOR},
    },
    "required": ["index", "embedding"],
}
Items = Annotated[list[Any], Meta(extra_json_schema={"items": _ITEM})]


class EmbedBody(Struct):
    """Body of ``POST /embedding``."""

    content: Any = None
    input: Any = None
    model: str | None = None
    embd_normalize: int | None = None
    truncate: bool | None = None
    chunk: Any = None


def to_request(body: EmbedBody, policy: Policy) -> EmbedRequest:
    """``/embedding`` as an `EmbedRequest`; the model may be missing.

    Raises:
        InvalidInputError: There is nothing to embed, or a field is wrong.
    """
    refuse_chunk(body.chunk)
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
    """For each input its index, and a list with its vector."""
    vectors = choose_numbers(result)

    def render(start: int, stop: int) -> bytes:
        return b",".join(
            b'{"index":%d,"embedding":[%b]}' % (index, dump_rows(vectors[index : index + 1]))
            for index in range(start, stop)
        )

    return [b"[", Rows(len(vectors), render, choose_step(result.vectors.shape[1])), b"]"]


async def embedding(request: web.Request) -> web.StreamResponse:
    """``POST /embedding``."""
    _, result = await embed_body(request, EmbedBody, to_request)
    return await parts_response(request, to_reply(result), computed_headers(result))
