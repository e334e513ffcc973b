"""The aiohttp application: the routes of all dialects, and the answer to every error."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from aiohttp import web
from aiohttp.typedefs import Handler

from embedd import __version__
from embedd.embedder.embedder import Embedder
from embedd.errors import EmbeddError, ServiceError, UnknownRouteError, WrongMethodError
from embedd.library import Library
from embedd.metrics import Metrics
from embedd.server.access.auth import KEYS, Keys, choose_access, require_key
from embedd.server.access.origins import OriginPolicy, add_cors_headers, make_origin_check
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
# Further dialects of a path, chosen by the fields of the body. The path's own dialect answers
# all other bodies, and errors that occur before the body is read.
SHARED: Mapping[str, Sequence[Sharer]] = {
    "/api/embeddings": (aigne.SHARER,),
    "/embeddings": (llamacpp.SHARER,),
    "/tokenize": (tei_tokens.SHARER,),
    **dict.fromkeys(rerank.PATHS, (tei_rerank.SHARER,)),
}
# Prefixes and paths that are not served but whose clients expect errors in their shape.
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
    origins: OriginPolicy,
    metrics: Metrics,
    policy: Policy | None = None,
    keys: Keys | None = None,
) -> web.Application:
    """Make the application that serves *embedder* and *library*."""
    app = web.Application(
        middlewares=[ops.make_counter(metrics), make_origin_check(origins), _answer_unknown_paths],
        handler_args={"auto_decompress": False},  # see `embedd.server.http.decompress`
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
        endpoint = _choose_by_body(dialect, endpoint, SHARED[route.path])
    endpoint = _answer_errors(
        dialect, require_key(endpoint, choose_access(route.method, route.path))
    )
    # Redirects lose the body in many clients: a trailing slash is the same path.
    for path in {route.path, route.path.rstrip("/") + "/"}:
        pattern = path.replace("}", ":.+}")
        app.router.add_route(route.method, pattern, endpoint)
        if route.method == "GET":
            app.router.add_route("HEAD", pattern, endpoint)


def _choose_by_body(dialect: Dialect, endpoint: Endpoint, sharers: Sequence[Sharer]) -> Endpoint:
    """Wrap *endpoint*: the first of *sharers* that wants the body answers, else *dialect*."""

    async def answer(request: web.Request) -> web.StreamResponse:
        async with request.app[BODIES].read(request) as data:
            request[ALREADY_READ] = data
            names = field_names(data)
            for sharer in sharers:
                if sharer.wants(names):
                    return await _answer_errors(sharer.dialect, sharer.endpoint)(request)
            return await endpoint(request)

    return _answer_errors(dialect, answer)


def _answer_errors(
    dialect: Dialect, endpoint: Endpoint
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Wrap *endpoint*: its errors are answered in the shape of *dialect*."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await endpoint(request)
        except EmbeddError as error:
            return _error_response(dialect, request, error)
        except (asyncio.CancelledError, ConnectionError):
            log_refusal(request, 499, "the client went away")
            raise
        except web.HTTPException:
            raise
        except Exception:
            extra = {"path": request.path, "request_id": request_id(request)}
            log.exception("request crashed", extra=extra)
            return _error_response(dialect, request, ServiceError("internal error"))

    return answer


def _error_response(dialect: Dialect, request: web.Request, error: EmbeddError) -> web.Response:
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
        dialect = find_error_dialect(request.path)
        if dialect is not None:
            unknown = UnknownRouteError(f"no such route: {request.method} {request.path}")
            return _error_response(dialect, request, unknown)
        log_refusal(request, 404, "no such path")
        return web.Response(text="404 page not found", status=404)
    except web.HTTPMethodNotAllowed as error:
        allowed = tuple(sorted(error.allowed_methods))
        dialect = find_error_dialect(request.path)
        if dialect is not None:
            message = f"{request.path} does not take {request.method}, use {', '.join(allowed)}"
            return _error_response(dialect, request, WrongMethodError(message, allowed=allowed))
        log_refusal(request, 405, "no such verb")
        headers = {"Allow": ",".join(allowed)}
        return web.Response(text="405 method not allowed", status=405, headers=headers)


def find_error_dialect(path: str) -> Dialect | None:
    """Return the dialect of errors on *path* where no route answers; None is plain text."""
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
