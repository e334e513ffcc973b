"""Rerank as Jina, Cohere, Voyage and llama.cpp have it: ``documents`` in, one answer for all."""

import secrets
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from embedd.errors import EmptyInputError, InvalidInputError
from embedd.server.dialects.base import Dialect, Failure, Policy, Route, computed_headers
from embedd.server.dialects.common.fields import parse_truncate, require_model
from embedd.server.dialects.common.openai_input import check_inputs
from embedd.server.dialects.common.reranking import (
    Asked,
    parse_cap,
    parse_top_n,
    rerank_body,
    to_number,
)
from embedd.server.dialects.openai.errors import STATUSES, to_envelope
from embedd.server.http.json_out import dump, json_response
from embedd.types import RerankRequest, RerankResult

DOCUMENTS_PER_UNIT = 100
NO_DOCUMENTS = '"documents" must be a non-empty string array'


class RerankBody(msgspec.Struct):
    """Body of ``POST /v1/rerank``."""

    query: Any = None
    documents: Any = None
    texts: Any = None
    model: str | None = None
    top_n: int | None = None
    top_k: int | None = None
    return_documents: bool | None = None
    truncate: bool | str | None = None
    truncation: bool | None = None
    max_tokens_per_doc: int | None = None
    rank_fields: list[str] | None = None
    raw_scores: bool | None = None


def to_asked(body: RerankBody, policy: Policy) -> Asked:
    """``/v1/rerank`` in the words of the core; without a model the default one is meant.

    Raises:
        InvalidInputError: A field is missing, of the wrong type or contradicts another.
    """
    if body.texts is not None and body.documents is not None:
        raise InvalidInputError("use either documents or texts", field="documents")
    if body.query is None or body.query == "":
        raise InvalidInputError('"query" must be provided', field="query")
    if not isinstance(body.query, str):
        raise InvalidInputError('"query" must be a string', field="query")
    if not isinstance(body.documents, list):
        raise InvalidInputError(NO_DOCUMENTS, field="documents")
    if not body.documents:
        raise EmptyInputError(NO_DOCUMENTS, field="documents")
    texts = [_to_text(one, body.rank_fields) for one in body.documents]
    check_inputs(texts, policy, "documents")
    request = RerankRequest(
        model=body.model or "",
        query=body.query,
        documents=texts,
        top_n=parse_top_n(body.top_n, body.top_k),
        truncate=parse_truncate(truncate=body.truncate, truncation=body.truncation),
        max_tokens_per_doc=parse_cap(body.max_tokens_per_doc),
        raw_scores=bool(body.raw_scores),
    )
    return Asked(request=request, echo=body.documents if body.return_documents else None)


def _to_text(document: object, fields: Sequence[str] | None) -> str:
    match document:
        case str():
            return document
        case dict() if fields and any(name in document for name in fields):
            return "\n".join(f"{name}: {document[name]}" for name in fields if name in document)
        case {"text": str(text)} if not fields:
            return text
        case _:
            raise InvalidInputError(NO_DOCUMENTS, field="documents")


def to_reply(asked: Asked, result: RerankResult, *, id_: str) -> dict[str, object]:
    """``results`` for Jina, Cohere and llama.cpp, ``data`` for Voyage."""
    tokens = sum(result.tokens)
    return {
        "id": id_,
        "object": "list",
        "model": asked.request.model,
        "results": to_results(asked, result),
        "data": _to_data(asked, result),
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "meta": to_meta(asked, result, version="1"),
    }


def to_results(asked: Asked, result: RerankResult) -> list[Mapping[str, object]]:
    """Places and scores, best first, with the documents as objects if they are wanted."""
    items = _to_items(result)
    if asked.echo is None:
        return items
    documents = [{"text": one} if isinstance(one, str) else one for one in asked.echo]
    return [
        {**item, "document": documents[index]}
        for item, (index, _) in zip(items, result.ranked, strict=True)
    ]


def to_meta(asked: Asked, result: RerankResult, *, version: str) -> dict[str, object]:
    """What Cohere would have billed."""
    units = -(-len(asked.request.documents) // DOCUMENTS_PER_UNIT)
    return {
        "api_version": {"version": version},
        "billed_units": {"search_units": units},
        "tokens": {"input_tokens": sum(result.tokens)},
    }


def _to_data(asked: Asked, result: RerankResult) -> list[Mapping[str, object]]:
    items = _to_items(result)
    if asked.echo is None:
        return items
    return [
        {**item, "document": asked.request.documents[index]}
        for item, (index, _) in zip(items, result.ranked, strict=True)
    ]


def _to_items(result: RerankResult) -> list[Mapping[str, object]]:
    return [{"index": index, "relevance_score": to_number(score)} for index, score in result.ranked]


def to_error(failure: Failure) -> bytes:
    """OpenAI's envelope, with a third key that Cohere's clients read."""
    envelope = to_envelope(failure)
    return dump({**envelope, "message": envelope["detail"]})


async def rerank(request: web.Request) -> web.StreamResponse:
    """``POST /v1/rerank`` with ``documents``."""
    asked, result = await rerank_body(request, RerankBody, to_asked)
    reply = to_reply(asked, result, id_=f"rerank-{secrets.token_hex(16)}")
    return json_response(reply, headers=computed_headers(result))


async def rerank_v2(request: web.Request) -> web.StreamResponse:
    """``POST /v2/rerank``."""
    asked, result = await rerank_body(request, RerankBody, to_asked_v2)
    reply = {
        "id": str(uuid.uuid4()),
        "results": to_results(asked, result),
        "meta": to_meta(asked, result, version="2"),
    }
    return json_response(reply, headers=computed_headers(result))


def to_asked_v2(body: RerankBody, policy: Policy) -> Asked:
    """``/v2/rerank`` in the words of the core.

    Raises:
        InvalidInputError: As `to_asked`, or there is no model.
    """
    require_model(body.model)
    if body.documents == []:
        raise EmptyInputError("list of documents must not be empty", field="documents")
    if not isinstance(body.query, str) or not body.query.strip():
        message = "query must not be empty or be only whitespace"
        raise InvalidInputError(message, field="query")
    body.texts = None
    return to_asked(body, policy)


PATHS = ("/rerank", "/reranking", "/v1/rerank", "/v1/reranking")
DIALECT = Dialect(
    name="rerank",
    routes=tuple(Route(method="POST", path=path, endpoint=rerank) for path in PATHS),
    to_error=to_error,
    statuses=STATUSES,
)
