"""Builds the aiohttp application: routes of all dialects, one way to answer errors."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from aiohttp import web
from aiohttp.typedefs import Handler

from embedd import __version__
from embedd.embedder.embedder import Embedder
from embedd.errors import EmbeddError, ServiceError, UnknownRouteError, WrongVerbError
from embedd.library import Library
from embedd.metrics import Metrics
from embedd.server.access.auth import KEYS, Keys, choose_access, require_key
from embedd.server.access.origins import Doors, add_cors_headers, make_guard
from embedd.server.dialects import aigne, nugen, rerank
from embedd.server.dialects.base import (
    BODIES,
    EMBEDDER,
    LIBRARY,
    POLICY,
    Dialect,
    Endpoint,
    Failure,
    Policy,
    Route,
    Sharer,
)
from embedd.server.dialects.cohere import embed as cohere
from embedd.server.dialects.llamacpp import embed as llamacpp
from embedd.server.dialects.ollama import embed as ollama
from embedd.server.dialects.ollama import management
from embedd.server.dialects.openai import embed as openai
from embedd.server.dialects.tei import embed as tei
from embedd.server.dialects.tei import rerank as tei_rerank
from embedd.server.dialects.tei import tokens as tei_tokens
from embedd.server.errors import choose_status, error_headers, log_error, log_refusal
from embedd.server.http.bodies import ALREADY_READ, BodyLimits, field_names
from embedd.server.http.json_out import JSON
from embedd.server.http.request_id import add_request_id, request_id
from embedd.server.openapi import pages
from embedd.server.openapi.document import describe
from embedd.server.ops import metrics as ops

log = logging.getLogger(__name__)

DIALECTS: Sequence[Dialect] = (
    ollama.DIALECT,
    management.DIALECT,
    openai.DIALECT,
    aigne.DIALECT,
    nugen.DIALECT,
    cohere.DIALECT,
    rerank.DIALECT,
    tei.DIALECT,
    llamacpp.DIALECT,
    pages.DIALECT,
    ops.DIALECT,
)
# Who else answers on a path, by what the body holds; the path's own dialect answers the
# rest, and whatever goes wrong before the body is known.
SHARED: Mapping[str, Sequence[Sharer]] = {
    "/api/embeddings": (aigne.SHARER,),
    "/embeddings": (llamacpp.SHARER,),
    "/tokenize": (tei_tokens.SHARER,),
    **dict.fromkeys(rerank.PATHS, (tei_rerank.SHARER,)),
}
# Paths that nobody serves but whose clients want to be told so in their own shape.
NOT_SERVED: Mapping[str, Dialect] = {
    "/v1/": openai.DIALECT,
    "/v2/": openai.DIALECT,
    **dict.fromkeys(("/embed_sparse", "/predict", "/vertex", "/invocations"), tei.DIALECT),
}
SERVER_NAME = f"embedd/{__version__}"


def make_app(
    *,
    embedder: Embedder,
    library: Library,
    bodies: BodyLimits,
    doors: Doors,
    metrics: Metrics,
    policy: Policy | None = None,
    keys: Keys | None = None,
) -> web.Application:
    """The application over the two doors of the core."""
    app = web.Application(
        middlewares=[ops.make_counter(metrics), make_guard(doors), _answer_unknown_paths],
        handler_args={"auto_decompress": False},  # see `inflating`
    )
    app[EMBEDDER] = embedder
    app[ops.METRICS] = metrics
    app[LIBRARY] = library
    app[BODIES] = bodies
    app[POLICY] = policy or Policy()
    app[KEYS] = keys or Keys()
    document: Callable[[], bytes] = _describe
    app[pages.DOCUMENT] = document
    app.on_response_prepare.append(add_cors_headers)
    app.on_response_prepare.append(_name_server)
    app.on_response_prepare.append(add_request_id)
    for dialect in DIALECTS:
        for route in dialect.routes:
            _add_route(app, dialect, route)
    return app


@functools.cache
def _describe() -> bytes:
    return describe(DIALECTS, SHARED)


def _add_route(app: web.Application, dialect: Dialect, route: Route) -> None:
    endpoint = route.endpoint
    if route.path in SHARED:
        endpoint = _share(dialect, endpoint, SHARED[route.path])
    endpoint = _speak(dialect, require_key(endpoint, choose_access(route.method, route.path)))
    # Redirects lose the body in many clients: a trailing slash is the same path.
    for path in {route.path, route.path.rstrip("/") + "/"}:
        pattern = path.replace("}", ":.+}")
        app.router.add_route(route.method, pattern, endpoint)
        if route.method == "GET":
            app.router.add_route("HEAD", pattern, endpoint)


def _share(dialect: Dialect, endpoint: Endpoint, sharers: Sequence[Sharer]) -> Endpoint:
    """The body decides who answers: the first of *sharers* that wants it, else *dialect*."""

    async def answer(request: web.Request) -> web.StreamResponse:
        async with request.app[BODIES].read(request) as data:
            request[ALREADY_READ] = data
            names = field_names(data)
            for sharer in sharers:
                if sharer.wants(names):
                    return await _speak(sharer.dialect, sharer.endpoint)(request)
            return await endpoint(request)

    return _speak(dialect, answer)


def _speak(
    dialect: Dialect, endpoint: Endpoint
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """*endpoint* with its errors in the shape of *dialect*."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await endpoint(request)
        except EmbeddError as error:
            return _refuse(dialect, request, error)
        except (asyncio.CancelledError, ConnectionError):
            log_refusal(request, 499, "the client went away")
            raise
        except web.HTTPException:
            raise
        except Exception:
            extra = {"path": request.path, "request_id": request_id(request)}
            log.exception("request crashed", extra=extra)
            return _refuse(dialect, request, ServiceError("internal error"))

    return answer


def _refuse(dialect: Dialect, request: web.Request, error: EmbeddError) -> web.Response:
    status = choose_status(error, dialect.statuses)
    log_error(request, error, status)
    failure = Failure(error=error, status=status, request_id=request_id(request))
    return web.Response(
        body=dialect.to_error(failure),
        status=status,
        headers={**error_headers(error, status), "Content-Type": JSON},
    )


@web.middleware
async def _answer_unknown_paths(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPNotFound:
        speaker = find_speaker(request.path)
        if speaker is not None:
            unknown = UnknownRouteError(f"no such route: {request.method} {request.path}")
            return _refuse(speaker, request, unknown)
        log_refusal(request, 404, "no such path")
        return web.Response(text="404 page not found", status=404)
    except web.HTTPMethodNotAllowed as error:
        allowed = tuple(sorted(error.allowed_methods))
        speaker = find_speaker(request.path)
        if speaker is not None:
            message = f"{request.path} does not take {request.method}, use {', '.join(allowed)}"
            return _refuse(speaker, request, WrongVerbError(message, allowed=allowed))
        log_refusal(request, 405, "no such verb")
        headers = {"Allow": ",".join(allowed)}
        return web.Response(text="405 method not allowed", status=405, headers=headers)


def find_speaker(path: str) -> Dialect | None:
    """Whose shape an error has on *path* before any body is read; None is plain text."""
    path = path.rstrip("/") or "/"
    for dialect in DIALECTS:
        if any(route.path == path for route in dialect.routes):
            return dialect if dialect.tells_routes else None
    for prefix, dialect in NOT_SERVED.items():
        if path == prefix.rstrip("/") or (prefix.endswith("/") and path.startswith(prefix)):
            return dialect
    return None


async def _name_server(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = SERVER_NAME
