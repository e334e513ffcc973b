"""Rerank as Jina, Cohere, Voyage and llama.cpp have it: ``documents`` in, one answer for all."""

import secrets
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from embedd.errors import EmptyInputError, InvalidInputError
from embedd.server.dialects.base import Dialect, Failure, Policy, Route
from embedd.server.dialects.common.fields import parse_max_tokens, parse_truncate, require_model
from embedd.server.dialects.common.openai_input import check_count
from embedd.server.dialects.common.vector_json import shortest
from embedd.server.dialects.endpoints import computed_headers, rerank_body
from embedd.server.dialects.openai import errors as openai
from embedd.server.dialects.openai.embed import Usage
from embedd.server.http.json_out import json_response
from embedd.types import RerankRequest, RerankResult

DOCUMENTS_PER_UNIT = 100  # of what Cohere bills
NO_DOCUMENTS = '"documents" must be a non-empty string array'
PATHS = ("/rerank", "/reranking", "/v1/rerank", "/v1/reranking")


class RerankBody(Struct):
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
    truncate_prompt_tokens: int | None = None  # vLLM: of the query and a document together
    rank_fields: list[str] | None = None
    raw_scores: bool | None = None


class Ranked(Struct, frozen=True, kw_only=True):
    """A document's index and score; the document too if it was requested."""

    index: int
    relevance_score: float
    document: Any | UnsetType = UNSET


class Ranking(Struct, frozen=True, kw_only=True):
    """``POST /v1/rerank``: *results* for Jina, Cohere and llama.cpp, *data* for Voyage.

    ``POST /v2/rerank`` has *id*, *results* and *meta* alone.
    """

    id: str
    object: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    results: list[Ranked]
    data: list[Ranked] | UnsetType = UNSET
    usage: Usage | UnsetType = UNSET
    meta: dict[str, Any]


def to_request(body: RerankBody, policy: Policy) -> RerankRequest:
    """``/v1/rerank`` as a `RerankRequest`; the model may be missing.

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
    check_count(body.documents, policy.max_inputs, "documents")
    texts = [_to_text(one, body.rank_fields) for one in body.documents]
    truncate = parse_truncate(truncate=body.truncate, truncation=body.truncation)
    return RerankRequest(
        model=body.model or "",
        query=body.query,
        documents=texts,
        top_n=_choose_top_n(body.top_n, body.top_k),
        truncate=truncate,
        max_tokens=parse_max_tokens(body.truncate_prompt_tokens, truncate),
        max_tokens_per_doc=_check_cap(body.max_tokens_per_doc),
        raw_scores=bool(body.raw_scores),
    )


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


def _choose_top_n(top_n: int | None, top_k: int | None) -> int | None:
    """One number under two names; None is all."""
    if top_n is not None and top_k not in (None, top_n):
        raise InvalidInputError("top_n and top_k conflict", field="top_n")
    chosen = top_k if top_n is None else top_n
    if chosen is not None and chosen < 1:
        raise InvalidInputError(f"top_n must be at least 1, got {chosen}", field="top_n")
    return chosen


def _check_cap(max_tokens_per_doc: int | None) -> int | None:
    if max_tokens_per_doc is not None and max_tokens_per_doc < 1:
        raise InvalidInputError(
            f"max_tokens_per_doc must be at least 1, got {max_tokens_per_doc}",
            field="max_tokens_per_doc",
        )
    return max_tokens_per_doc


def to_request_v2(body: RerankBody, policy: Policy) -> RerankRequest:
    """``/v2/rerank`` as a `RerankRequest`.

    Raises:
        InvalidInputError: As `to_request`, or the model is missing.
    """
    default = policy.default_rerank_model or policy.default_model
    body.model = require_model(body.model, default)
    if isinstance(body.documents, list) and not body.documents:
        raise EmptyInputError("list of documents must not be empty", field="documents")
    if not isinstance(body.query, str) or not body.query.strip():
        message = "query must not be empty or be only whitespace"
        raise InvalidInputError(message, field="query")
    body.texts = None
    return to_request(body, policy)


def to_reply(body: RerankBody, wanted: RerankRequest, result: RerankResult, *, id_: str) -> Ranking:
    """The answer of ``/v1/rerank``."""
    tokens = sum(result.tokens)
    return Ranking(
        id=id_,
        object="list",
        model=wanted.model,
        results=_rank(body, result, body.documents, _to_object),
        data=_rank(body, result, wanted.documents, lambda text: text),
        usage=Usage(prompt_tokens=tokens, total_tokens=tokens),
        meta=_to_meta(wanted, result, version="1"),
    )


def to_reply_v2(
    body: RerankBody, wanted: RerankRequest, result: RerankResult, *, id_: str
) -> Ranking:
    """The answer of ``/v2/rerank``."""
    results = _rank(body, result, body.documents, _to_object)
    return Ranking(id=id_, results=results, meta=_to_meta(wanted, result, version="2"))


def _rank(
    body: RerankBody,
    result: RerankResult,
    documents: Sequence[Any],
    to_document: Callable[[Any], Any],
) -> list[Ranked]:
    """Indices and scores, best first, with the documents if the body asks for them."""
    return [
        Ranked(
            index=index,
            relevance_score=shortest(score),
            document=to_document(documents[index]) if body.return_documents else UNSET,
        )
        for index, score in result.ranked
    ]


def _to_object(document: object) -> object:
    return {"text": document} if isinstance(document, str) else document


def _to_meta(wanted: RerankRequest, result: RerankResult, *, version: str) -> dict[str, Any]:
    """The units that Cohere would have billed."""
    units = -(-len(wanted.documents) // DOCUMENTS_PER_UNIT)
    return {
        "api_version": {"version": version},
        "billed_units": {"search_units": units},
        "tokens": {"input_tokens": sum(result.tokens)},
    }


def to_error(failure: Failure) -> openai.ErrorReply:
    """OpenAI's envelope, with a third key that Cohere's clients read."""
    reply = openai.to_error(failure)
    return msgspec.structs.replace(reply, message=reply.detail)


async def rerank(request: web.Request) -> web.StreamResponse:
    """``POST /v1/rerank`` with ``documents``."""
    body, wanted, result = await rerank_body(request, RerankBody, to_request)
    reply = to_reply(body, wanted, result, id_=f"rerank-{secrets.token_hex(16)}")
    return json_response(reply, headers=computed_headers(result))


async def rerank_v2(request: web.Request) -> web.StreamResponse:
    """``POST /v2/rerank``."""
    body, wanted, result = await rerank_body(request, RerankBody, to_request_v2)
    reply = to_reply_v2(body, wanted, result, id_=str(uuid.uuid4()))
    return json_response(reply, headers=computed_headers(result))


DIALECT = Dialect(
    name="rerank",
    routes=tuple(
        Route(method="POST", path=path, endpoint=rerank, body=RerankBody, reply=Ranking)
        for path in PATHS
    ),
    to_error=to_error,
    statuses=openai.STATUSES,
)
