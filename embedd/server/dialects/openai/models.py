"""``/v1/models``: one list for the clients of OpenAI, Cohere and llama.cpp."""

import asyncio
from collections.abc import Iterable

import msgspec
from aiohttp import web

from embedd.embedder.embedder import Embedder
from embedd.errors import EmbeddError, InvalidModelNameError, ModelNotFoundError
from embedd.library import Library
from embedd.names import ModelName, parse_model_name
from embedd.ollama_api import StoredModel
from embedd.resolve import ResolvedModel
from embedd.server.dialects.base import EMBEDDER, LIBRARY
from embedd.server.dialects.common.fields import choose_word
from embedd.server.http.json_out import json_response

ENDPOINTS = {"embedding": "embed", "rerank": "rerank"}


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model as OpenAI's clients read it."""

    id: str
    object: str = "model"
    created: int
    owned_by: str


class Usable(msgspec.Struct, frozen=True, kw_only=True):
    """A model as Cohere's and llama.cpp's clients read it."""

    name: str
    model: str
    endpoints: list[str]
    context_length: int


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /v1/models``."""

    object: str = "list"
    data: list[Model]
    models: list[Usable]


class ShownModel(Model, frozen=True, kw_only=True):
    """``GET /v1/models/{id}``."""

    name: str
    endpoints: list[str]
    context_length: int


async def list_models(request: web.Request) -> web.StreamResponse:
    """``GET /v1/models``; ``?endpoint=`` limits `ModelList.models` to those that it can use."""
    endpoint = request.query.get("endpoint")
    if endpoint is not None:
        endpoint = choose_word("endpoint", endpoint, ENDPOINTS.values())
    reply = await asyncio.to_thread(_list, request.app[LIBRARY], request.app[EMBEDDER], endpoint)
    return json_response(reply)


async def show_model(request: web.Request) -> web.StreamResponse:
    """``GET /v1/models/{id}``."""
    id_ = request.match_info["id"].rstrip("/")
    return json_response(await asyncio.to_thread(_show, request.app[EMBEDDER], id_))


def _list(library: Library, embedder: Embedder, endpoint: str | None) -> ModelList:
    entries = library.list()
    usable = [_to_usable(entry, embedder) for entry in entries]
    return ModelList(
        data=[
            Model(
                id=entry.name,
                created=int(entry.modified_at.timestamp()),
                owned_by=_owner(parse_model_name(entry.name)),
            )
            for entry in entries
        ],
        models=[one for one in usable if endpoint is None or endpoint in one.endpoints],
    )


def _show(embedder: Embedder, id_: str) -> ShownModel:
    try:
        model = embedder.find_any(id_)
    except (InvalidModelNameError, ModelNotFoundError) as error:
        hint = error.hint if isinstance(error, ModelNotFoundError) else ""
        raise ModelNotFoundError(id_, f"model '{id_}' not found", hint=hint) from None
    return ShownModel(
        id=id_,
        created=int(model.modified_at),
        owned_by=_owner(model.name),
        name=model.name.display,
        endpoints=_endpoints(model.capabilities),
        context_length=embedder.limit(model) if isinstance(model, ResolvedModel) else 0,
    )


def _to_usable(entry: StoredModel, embedder: Embedder) -> Usable:
    try:
        limit = embedder.limit(embedder.find(entry.name))
    except EmbeddError:  # listed even if it cannot be loaded
        limit = entry.details.context_length or 0
    return Usable(
        name=entry.name,
        model=entry.name,
        endpoints=_endpoints(entry.capabilities),
        context_length=limit,
    )


def _endpoints(capabilities: Iterable[str]) -> list[str]:
    return [ENDPOINTS[one] for one in capabilities if one in ENDPOINTS]


def _owner(name: ModelName) -> str:
    return name.namespace or "library"
