"""The OpenAPI document: made from the routes, the structs that decode bodies, the statuses."""

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from embedd import __version__, errors
from embedd.server.access.auth import Access, choose_access
from embedd.server.dialects.base import Dialect, Endpoint, Route, Sharer
from embedd.server.errors import choose_status
from embedd.server.openapi.schemas import BYTES, ENDPOINTS, ERRORS, NDJSON, Described, OpenAIError

Json = dict[str, Any]
Speaker = tuple[Dialect, Endpoint]

JSON: Final = "application/json"
REF: Final = "#/components/schemas/{name}"
KEY: Final = {"bearer": {"type": "http", "scheme": "bearer"}}


def describe(dialects: Sequence[Dialect], shared: Mapping[str, Sequence[Sharer]]) -> bytes:
    """The document as JSON.

    Args:
        shared: Who else answers on a path, as the app has it.
    """
    schemas = _Schemas()
    paths: dict[str, Json] = {}
    for dialect in dialects:
        for route in dialect.routes:
            sharers = [(one.dialect, one.endpoint) for one in shared.get(route.path, ())]
            speakers = [(dialect, route.endpoint), *sharers]
            operation = _operation(route, speakers, schemas)
            paths.setdefault(route.path, {})[route.method.lower()] = operation
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "embedd", "version": __version__},
            "paths": paths,
            "components": {"schemas": schemas.components, "securitySchemes": KEY},
        }
    )


class _Schemas:
    """The schemas of all types that are described; structs by reference."""

    def __init__(self) -> None:
        described = ENDPOINTS.values()
        kinds = [one.body for one in described] + [one.reply for one in described]
        kinds = [*dict.fromkeys([*filter(None, kinds), *ERRORS.values(), OpenAIError])]
        schemas, self.components = msgspec.json.schema_components(
            map(_without_raw, kinds), ref_template=REF
        )
        self._schemas = dict(zip(kinds, schemas, strict=True))

    def any_of(self, kinds: Sequence[Any]) -> Json:
        """The schema of one of *kinds*."""
        found = [self._schemas[kind] for kind in dict.fromkeys(kinds)]
        return found[0] if len(found) == 1 else {"anyOf": found}


def _without_raw(kind: Any) -> Any:
    """*kind* with anything where a struct leaves a field for later: msgspec cannot tell it."""
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return kind
    fields = msgspec.structs.fields(kind)
    if all(field.type is not msgspec.Raw for field in fields):
        return kind
    readable = [
        (field.name, Any if field.type is msgspec.Raw else field.type, None) for field in fields
    ]
    namespace = {"__doc__": kind.__doc__}
    return msgspec.defstruct(kind.__name__, readable, module=kind.__module__, namespace=namespace)


def _operation(route: Route, speakers: Sequence[Speaker], schemas: _Schemas) -> Json:
    described = [ENDPOINTS.get(endpoint, Described()) for _, endpoint in speakers]
    summary = (route.endpoint.__doc__ or "").partition("\n")[0].rstrip(".").replace("``", "`")
    operation: Json = {
        "tags": [dialect.name for dialect, _ in speakers],
        "summary": summary,
        "parameters": [*_parameters(route, described)],
        "responses": {**_replies(described, schemas), **_refusals(speakers, schemas)},
    }
    bodies = [one.body for one in described if one.body is not None]
    if bodies == [bytes]:
        operation["requestBody"] = {"content": {BYTES: {}}}
    elif bodies:
        operation["requestBody"] = {"content": {JSON: {"schema": schemas.any_of(bodies)}}}
    if choose_access(route.method, route.path) is not Access.PUBLIC:
        operation["security"] = [{}, {"bearer": []}]
    return operation


def _parameters(route: Route, described: Sequence[Described]) -> Iterator[Json]:
    text = {"type": "string"}
    if "{" in route.path:
        name = route.path[route.path.index("{") + 1 : -1]
        yield {"name": name, "in": "path", "required": True, "schema": text}
    for name in dict.fromkeys(name for one in described for name in one.query):
        yield {"name": name, "in": "query", "schema": text}


def _replies(described: Sequence[Described], schemas: _Schemas) -> Json:
    kinds = [one.reply for one in described if one.reply is not None]
    if not kinds:
        return {status: {"description": "done"} for status in ("200", "201")}
    media = {one.media for one in described}
    if NDJSON in media:  # what ``"stream": false`` gives
        media.add(JSON)
    content = {name: {"schema": schemas.any_of(kinds)} for name in sorted(media)}
    return {"200": {"description": "done", "content": content}}


def _refusals(speakers: Sequence[Speaker], schemas: _Schemas) -> Json:
    """Every status that an error of the core may have on the path."""
    told: dict[int, list[type]] = {}
    for dialect, _ in speakers:
        for kind in _all_errors(errors.EmbeddError):
            status = choose_status(kind.__new__(kind), dialect.statuses)
            told.setdefault(status, []).append(ERRORS.get(dialect.name, OpenAIError))
    refusals: Json = {
        str(status): {
            "description": HTTPStatus(status).phrase,
            "content": {JSON: {"schema": schemas.any_of(kinds)}},
        }
        for status, kinds in sorted(told.items())
    }
    return {**refusals, "403": {"description": "host or origin not allowed"}}


def _all_errors(kind: type[errors.EmbeddError]) -> Iterator[type[errors.EmbeddError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _all_errors(child)
