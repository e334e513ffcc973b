"""TEI's ``/rerank``: ``texts`` in, a list out."""

from typing import Any

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from embedd.errors import EmptyInputError, InvalidInputError
from embedd.server.dialects.base import Policy
from embedd.server.dialects.common.openai_input import check_inputs
from embedd.server.dialects.common.vector_json import shortest
from embedd.server.dialects.endpoints import computed_headers, rerank_body
from embedd.server.dialects.tei.fields import parse_cut
from embedd.server.http.json_out import json_response
from embedd.types import RerankRequest, RerankResult


class RerankBody(Struct):
    """Body of ``POST /rerank`` with ``texts``."""

    query: Any = None
    texts: Any = None
    model: str | None = None
    truncate: bool | None = None
    truncation_direction: str | None = None
    raw_scores: bool | None = None
    return_text: bool | None = None


class Ranked(Struct, frozen=True, kw_only=True):
    """A text's index and score; the text too if it was requested."""

    index: int
    score: float
    text: str | UnsetType = UNSET


def to_request(body: RerankBody, policy: Policy) -> RerankRequest:
    """``/rerank`` as a `RerankRequest`; the model may be missing.

    Raises:
        InvalidInputError: A field is missing or of the wrong type.
    """
    query, texts = body.query, body.texts
    if not isinstance(query, str):
        raise InvalidInputError('"query" must be a string', field="query")
    if not query:
        raise EmptyInputError("`query` cannot be empty", field="query")
    if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
        raise InvalidInputError("`texts` must be a list of strings", field="texts")
    if not texts:
        raise EmptyInputError("`texts` cannot be empty", field="texts")
    check_inputs(texts, policy, "texts")
    return RerankRequest(
        model=body.model or "",
        query=query,
        documents=texts,
        truncate=parse_cut(truncate=body.truncate, direction=body.truncation_direction),
        raw_scores=bool(body.raw_scores),
    )


def to_reply(body: RerankBody, result: RerankResult) -> list[Ranked]:
    """Indices and scores, best first."""
    return [
        Ranked(
            index=index,
            score=shortest(score),
            text=body.texts[index] if body.return_text else UNSET,
        )
        for index, score in result.ranked
    ]


async def rerank(request: web.Request) -> web.StreamResponse:
    """``POST /rerank`` with ``texts``."""
    body, _, result = await rerank_body(request, RerankBody, to_request)
    return json_response(to_reply(body, result), headers=computed_headers(result))
