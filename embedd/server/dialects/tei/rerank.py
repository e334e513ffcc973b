"""TEI's rerank: ``texts`` in, a list out."""

from typing import Any

import msgspec
from aiohttp import web

from embedd.errors import EmptyInputError, InvalidInputError
from embedd.server.dialects.base import Dialect, Policy, Sharer, computed_headers
from embedd.server.dialects.common.openai_input import check_inputs
from embedd.server.dialects.common.reranking import Asked, rerank_body, to_number
from embedd.server.dialects.tei.errors import STATUSES, to_error
from embedd.server.dialects.tei.fields import parse_cut
from embedd.server.http.json_out import json_response
from embedd.types import RerankRequest, RerankResult


class RerankBody(msgspec.Struct):
    """Body of ``POST /rerank`` with ``texts``."""

    query: Any = None
    texts: Any = None
    model: str | None = None
    truncate: bool | None = None
    truncation_direction: str | None = None
    raw_scores: bool | None = None
    return_text: bool | None = None


def to_asked(body: RerankBody, policy: Policy) -> Asked:
    """TEI's ``/rerank`` in the words of the core.

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
    request = RerankRequest(
        model=body.model or "",
        query=query,
        documents=texts,
        truncate=parse_cut(truncate=body.truncate, direction=body.truncation_direction),
        raw_scores=bool(body.raw_scores),
    )
    return Asked(request=request, echo=texts if body.return_text else None)


def to_reply(asked: Asked, result: RerankResult) -> list[dict[str, object]]:
    """The texts' places and scores, best first."""
    items: list[dict[str, object]] = [
        {"index": index, "score": to_number(score)} for index, score in result.ranked
    ]
    if asked.echo is not None:
        for item, (index, _) in zip(items, result.ranked, strict=True):
            item["text"] = asked.echo[index]
    return items


async def rerank(request: web.Request) -> web.StreamResponse:
    """``POST /rerank`` with ``texts``."""
    asked, result = await rerank_body(request, RerankBody, to_asked)
    return json_response(to_reply(asked, result), headers=computed_headers(result))


# The paths are those of `rerank`.
SHARER = Sharer(
    dialect=Dialect(name="tei rerank", routes=(), to_error=to_error, statuses=STATUSES),
    endpoint=rerank,
    wants=lambda fields: "texts" in fields and "documents" not in fields,
)
