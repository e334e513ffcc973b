"""The OpenAPI document: made from the routes, their structs and the statuses of errors."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, TypeAlias, get_type_hints

import msgspec

from embedd import __version__, errors
from embedd.server.access.auth import Access, choose_access
from embedd.server.dialects.base import JSON, NDJSON, Dialect, Route
from embedd.server.errors import choose_status
from embedd.server.openapi.examples import ENTRIES, Entry
from embedd.server.openapi.schemas import Json, Schemas

Candidates: TypeAlias = Sequence[tuple[Dialect, Route]]

KEY: Final = {"bearer": {"type": "http", "scheme": "bearer"}}


def describe(routes: Mapping[tuple[str, str], Candidates], base_path: str = "") -> bytes:
    """The document as JSON.

    Args:
        base_path: The prefix of all paths.
        routes: By method and path: the dialects that answer there, and how.
    """
    schemas = Schemas(_kinds(routes.values()))
    paths: dict[str, Json] = {}
    for (method, path), candidates in routes.items():
        entry = ENTRIES.get((method, path)) or _describe_by_code(candidates)
        paths.setdefault(path, {})[method.lower()] = _describe(candidates, schemas, entry)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "embedd", "version": __version__},
            "servers": [{"url": base_path or "/"}],
            "paths": paths,
            "components": {"schemas": schemas.components, "securitySchemes": KEY},
        }
    )


def _kinds(groups: Iterable[Candidates]) -> Iterator[Any]:
    """The types of all bodies, answers and errors."""
    for dialect, route in (one for candidates in groups for one in candidates):
        yield _error_type(dialect)
        yield from (kind for kind in (route.body, route.reply) if kind not in (None, bytes))


def _error_type(dialect: Dialect) -> Any:
    return get_type_hints(dialect.to_error)["return"]


def _describe_by_code(candidates: Candidates) -> Entry:
    """The entry of a route that has none, as of a dialect that is not embedd's own."""
    text = (candidates[-1][1].endpoint.__doc__ or "").partition("\n")[0]
    return Entry(summary=text.rstrip(".").replace("``", "`"))


def _describe(candidates: Candidates, schemas: Schemas, entry: Entry) -> Json:
    """The operation of a method and path."""
    routes = [route for _, route in candidates]
    owner, first = candidates[-1]  # it answers what the others do not accept
    operation: Json = {
        "tags": [*dict.fromkeys([owner.name, *(dialect.name for dialect, _ in candidates)])],
        "summary": entry.summary,
        "parameters": [*_parameters(routes, entry.parameters)],
        "responses": {**_replies(routes, schemas), **_refusals(candidates, schemas)},
    }
    if entry.details:
        operation["description"] = entry.details
    bodies = [route.body for route in routes if route.body is not None]
    if bodies == [bytes]:
        operation["requestBody"] = {"content": {first.upload: {}}}
    elif bodies:
        content = {"schema": schemas.any_of(bodies)}
        if entry.bodies:
            content["examples"] = {name: {"value": body} for name, body in entry.bodies.items()}
        operation["requestBody"] = {"content": {JSON: content}}
    if choose_access(first.method, first.path) is not Access.PUBLIC:
        operation["security"] = [{}, {"bearer": []}]
    return operation


def _parameters(routes: Sequence[Route], values: Mapping[str, str]) -> Iterator[Json]:
    text = {"type": "string"}
    examples = {name: {"example": value} for name, value in values.items()}
    path = routes[0].path
    if "{" in path:
        name = path[path.index("{") + 1 : path.index("}")]
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "schema": text,
            **examples.get(name, {}),
        }
    for name in dict.fromkeys(name for route in routes for name in route.query):
        yield {"name": name, "in": "query", "schema": text, **examples.get(name, {})}


def _replies(routes: Sequence[Route], schemas: Schemas) -> Json:
    kinds = [route.reply for route in routes if route.reply is not None]
    if not kinds:
        return {status: {"description": "done"} for status in ("200", "201")}
    media = {route.media for route in routes}
    if NDJSON in media:  # ``"stream": false`` gives one object
        media.add(JSON)
    content = {name: {"schema": schemas.any_of(kinds)} for name in sorted(media)}
    content |= {name: {} for route in routes for name in route.other_media}
    return {"200": {"description": "done", "content": content}}


def _refusals(candidates: Candidates, schemas: Schemas) -> Json:
    """Every status that an error of the core may have on the path."""
    kinds: dict[int, list[Any]] = {}
    for dialect, _ in candidates:
        for error in _all_errors(errors.EmbeddError):
            status = choose_status(error.__new__(error), dialect.statuses)
            kinds.setdefault(status, []).append(_error_type(dialect))
    refusals: Json = {
        str(status): {
            "description": HTTPStatus(status).phrase,
            "content": {JSON: {"schema": schemas.any_of(types)}},
        }
        for status, types in sorted(kinds.items())
    }
    return refusals


def _all_errors(kind: type[errors.EmbeddError]) -> Iterator[type[errors.EmbeddError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _all_errors(child)
