"""The aiohttp application: the routes of all dialects, and the answer to every error."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeAlias

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from embedd.embedder.embedder import MAX_ANSWER, Embedder
from embedd.errors import (
    EmbeddError,
    ForbiddenError,
    OverloadedError,
    ServiceError,
    ShuttingDownError,
    StalledBodyError,
    UnknownRouteError,
    WrongMethodError,
)
from embedd.exhaustion import to_file_error
from embedd.library import Library
from embedd.metrics import Metrics
from embedd.painter.painter import Painter
from embedd.server import ui
from embedd.server.access.auth import KEYS, Access, Keys, check_key, choose_access
from embedd.server.access.origins import CORS, OriginPolicy, check_origin
from embedd.server.batches.shelf import Shelf
from embedd.server.dialects import registry
from embedd.server.dialects.a1111.options import CHECKPOINT, Checkpoint
from embedd.server.dialects.base import (
    BODIES,
    EMBEDDER,
    ENDLESS,
    LIBRARY,
    PAINTER,
    POLICY,
    Dialect,
    Endpoint,
    Failure,
    Policy,
    Route,
)
from embedd.server.dialects.batches import dialect as batches
from embedd.server.dialects.ollama import dialect as ollama
from embedd.server.errors import (
    OVERLOADS,
    OverloadLog,
    choose_status,
    error_headers,
    log_error,
    log_refusal,
)
from embedd.server.http.answers import ANSWERS, AnswersInFlight
from embedd.server.http.bodies import ALREADY_READ, BodyLimits, raw_fields
from embedd.server.http.compress import compress_response, is_long
from embedd.server.http.connection import HANDLER_ARGUMENTS, SERVER_NAME
from embedd.server.http.json_out import JSON, RENDERING, dump
from embedd.server.http.paths import BASE_PATH, DoubledSlashes, served_path
from embedd.server.http.request_id import HEADER as REQUEST_ID
from embedd.server.http.request_id import request_id
from embedd.server.http.shutdown import SHUTDOWN, Shutdown
from embedd.server.http.threads import POOLS, Pools
from embedd.server.http.timeouts import TIMEOUTS, Timeouts
from embedd.server.openapi import pages
from embedd.server.openapi.document import describe
from embedd.server.ops import health
from embedd.server.ops import metrics as ops
from embedd.server.ops.readiness import Readiness

log = logging.getLogger(__name__)

DIALECTS: Sequence[Dialect] = (
    *registry.DIALECTS,
    *health.DIALECTS,
    pages.DIALECT,
    ops.DIALECT,
    ui.DIALECT,
)
UNKNOWN_EXPECTATION: Final = "the only expectation that is known is 100-continue"
Candidates: TypeAlias = Sequence[tuple[Dialect, Route]]


def make_app(
    *,
    embedder: Embedder,
    painter: Painter,
    library: Library,
    bodies: BodyLimits,
    origins: OriginPolicy,
    metrics: Metrics,
    answers: AnswersInFlight | None = None,
    policy: Policy | None = None,
    keys: Keys | None = None,
    timeouts: Timeouts | None = None,
    readiness: Readiness | None = None,
    shelf: Shelf | None = None,
    base_path: str = "",
    observers: Sequence[Middleware] = (),
) -> web.Application:
    """Make the application that serves *embedder*, *painter* and *library*.

    Args:
        shelf: Keeps files and batches; None: the server has none.
        base_path: A prefix with which all paths are served too.
        observers: Outermost middlewares, which see every request with its answer.
    """
    answers = answers or AnswersInFlight(MAX_ANSWER)
    count = ops.RequestCounter(metrics, base_path)
    app = web.Application(
        middlewares=[*observers, _make_entrance(count, answers, origins)],
        handler_args=HANDLER_ARGUMENTS,
    )
    app[EMBEDDER] = embedder
    app[PAINTER] = painter
    app[CHECKPOINT] = Checkpoint()
    app[ops.METRICS] = metrics
    app[LIBRARY] = library
    app[BODIES] = bodies
    app[ANSWERS] = answers
    app[POLICY] = policy or Policy()
    app[RENDERING] = asyncio.Lock()
    app[KEYS] = keys or Keys()
    app[TIMEOUTS] = timeouts or Timeouts()
    app[POOLS] = Pools()
    app[SHUTDOWN] = Shutdown()
    app[OVERLOADS] = OverloadLog()
    app[health.READINESS] = readiness or Readiness()
    app[BASE_PATH] = base_path
    if app[POLICY].ui:
        app[ui.LIVE] = ui.Live(functools.partial(metrics.collect, ui.FAMILIES))
        app.cleanup_ctx.append(ui.watch_live)
    if shelf is not None:
        batches.add_batches(app, shelf)
    absent = [batches.DIALECT] * (shelf is None) + [ui.DIALECT] * (not app[POLICY].ui)
    routes = _group_routes([one for one in DIALECTS if one not in absent])
    document: Callable[[], bytes] = functools.cache(functools.partial(describe, routes, base_path))
    app[pages.DOCUMENT] = document
    app.on_response_prepare.append(_add_common_headers)
    for (method, path), candidates in routes.items():
        endpoint = _choose_by_body(candidates)
        for prefix in {"", base_path}:
            _add_route(app, method, prefix + path, endpoint)
    app.router.register_resource(DoubledSlashes(app.router))
    return app


def _group_routes(dialects: Sequence[Dialect]) -> Mapping[tuple[str, str], Candidates]:
    """Group the routes by method and path, the unconditional one of each group last."""
    groups: dict[tuple[str, str], list[tuple[Dialect, Route]]] = {}
    for dialect in dialects:
        for route in dialect.routes:
            groups.setdefault((route.method, route.path), []).append((dialect, route))
    for candidates in groups.values():
        candidates.sort(key=lambda candidate: candidate[1].accepts is None)
    return groups


def _add_route(app: web.Application, method: str, path: str, endpoint: Endpoint) -> None:
    # Redirects lose the body in many clients: a trailing slash is the same path.
    for variant in {path, path.rstrip("/") + "/"}:
        # Any character: a name with a line end in it is not found, but by the route itself.
        pattern = variant.replace("}", r":[\s\S]+}")
        app.router.add_route(method, pattern, endpoint)
        if method == "GET":
            app.router.add_route("HEAD", pattern, endpoint)


def _make_entrance(
    count: ops.RequestCounter, answers: AnswersInFlight, origins: OriginPolicy
) -> Middleware:
    """Return the middleware of every request; one for all, because each costs some microseconds.

    It counts requests, checks origins, logs those whose client leaves before the answer is
    complete, answers those that reach no route, and releases what was claimed for the answer.
    """

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        counted = count.begin()
        status = ops.CLIENT_LEFT
        try:
            response = await _answer_routed(request, handler, origins)
            status = response.status
        except web.HTTPException as error:
            status = error.status
            raise
        else:
            return response
        finally:
            answers.release(request)
            count.end(request, status, counted)

    return answer


def _choose_by_body(candidates: Candidates) -> Endpoint:
    """Make the endpoint of a method and path: the first route that accepts the body answers.

    The key is checked, and the body read, in the dialect of the last route.
    """
    *conditional, (dialect, route) = candidates
    endpoint = route.endpoint

    async def choose(request: web.Request) -> web.StreamResponse:
        async with request.app[BODIES].read(request) as data:
            request[ALREADY_READ] = data
            chosen = await request.app[BODIES].inspect(
                data, lambda: _find_accepting(conditional, data)
            )
            if chosen is None:
                return await route.endpoint(request)
            other, shared = chosen
            return await _answer_errors(other, shared.endpoint)(request)

    if conditional:
        endpoint = choose
    return _answer_errors(dialect, endpoint, choose_access(route.method, route.path))


def _find_accepting(conditional: Candidates, data: bytearray) -> tuple[Dialect, Route] | None:
    """Return the first that accepts the body *data*, or None."""
    fields = raw_fields(data)
    return next((one for one in conditional if one[1].accepts and one[1].accepts(fields)), None)


def _answer_errors(
    dialect: Dialect, endpoint: Endpoint, access: Access = Access.PUBLIC
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Wrap *endpoint*: its errors are answered in the shape of *dialect*.

    So is a request without a key for *access*, before its body is read.
    """

    async def answer(request: web.Request) -> web.StreamResponse:
        app = request.app
        shutdown = app[SHUTDOWN]
        running = shutdown.enter()
        try:
            check_key(app[KEYS], access, request)
            return await endpoint(request)
        except EmbeddError as error:
            return _error_response(dialect, request, error)
        except asyncio.CancelledError:
            # An answer that has begun cannot become another: its connection is closed.
            if not shutdown.has_stopped_this() or request.writer.output_size:
                raise
            return _error_response(dialect, request, ShuttingDownError())
        except (web.HTTPException, ConnectionError):
            raise
        except Exception as error:
            return _error_response(dialect, request, _explain(request, error))
        finally:
            shutdown.leave(running)

    return answer


def _explain(request: web.Request, error: Exception) -> EmbeddError:
    """Return the error to answer with where *error* is none of embedd's; a bug is logged."""
    if isinstance(error, OSError):
        exhausted = to_file_error(error, "the request cannot be answered now")
        if exhausted is not None:
            return exhausted
    extra = {"path": request.path, "request_id": request_id(request)}
    log.error("request crashed", exc_info=error, extra=extra)
    return ServiceError("internal error")


def _error_response(dialect: Dialect, request: web.Request, error: EmbeddError) -> web.Response:
    status = choose_status(error, dialect.statuses)
    omitted = request.app[OVERLOADS].take_omitted() if isinstance(error, OverloadedError) else 0
    if omitted is not None:
        log_error(request, error, status, omitted=omitted)
    failure = Failure(error=error, status=status, request_id=request_id(request))
    response = web.Response(
        body=dump(dialect.to_error(failure)),
        status=status,
        headers={**error_headers(error, status), "Content-Type": JSON},
    )
    if isinstance(error, StalledBodyError):  # what comes later is not another request
        response.force_close()
    return response


async def _answer_routed(
    request: web.Request, handler: Handler, origins: OriginPolicy
) -> web.StreamResponse:
    """Answer a request, also one that reaches no route: of an unknown path, method or origin."""
    try:
        return check_origin(origins, request) or await handler(request)
    except (asyncio.CancelledError, ConnectionError):
        # It had reached its route, whose answer has an end of its own.
        if request.match_info.http_exception is None and ENDLESS not in request:
            log_refusal(request, ops.CLIENT_LEFT, "the client went away")
        raise
    except ForbiddenError as error:
        refusing = find_error_dialect(served_path(request)) or ollama.DIALECT
        return _error_response(refusing, request, error)
    except web.HTTPNotFound:
        path = served_path(request)
        dialect = find_error_dialect(path)
        meant = registry.MEANT.get(path.rstrip("/"))
        if dialect is None and meant:
            dialect = ollama.DIALECT
        if dialect is not None:
            unknown = UnknownRouteError(_explain_unknown(request, meant or ()))
            return _error_response(dialect, request, unknown)
        log_refusal(request, 404, "no such path")
        return web.Response(text="404 page not found", status=404)
    except web.HTTPMethodNotAllowed as error:
        allowed = tuple(sorted(error.allowed_methods))
        dialect = find_error_dialect(served_path(request))
        if dialect is not None:
            message = f"{request.path} does not take {request.method}, use {', '.join(allowed)}"
            return _error_response(dialect, request, WrongMethodError(message, allowed=allowed))
        log_refusal(request, 405, "no such method")
        headers = {"Allow": ",".join(allowed)}
        return web.Response(text="405 method not allowed", status=405, headers=headers)


def _explain_unknown(request: web.Request, meant: Sequence[str]) -> str:
    text = f"no such route: {request.method} {request.path}"
    return f"{text}; use {' or '.join(meant)}" if meant else text


def find_error_dialect(path: str) -> Dialect | None:
    """Return the dialect of errors on *path* where no route answers; None is plain text."""
    path = path.rstrip("/") or "/"
    for dialect in DIALECTS:
        if any(route.path == path and route.accepts is None for route in dialect.routes):
            return dialect if dialect.formats_routing_errors else None
    for prefix, dialect in registry.NOT_SERVED.items():
        if path == prefix.rstrip("/") or (prefix.endswith("/") and path.startswith(prefix)):
            return dialect
    return None


async def _add_common_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add the headers of every answer (a response signal)."""
    headers = response.headers
    headers["Server"] = SERVER_NAME
    headers[REQUEST_ID] = request_id(request)
    if "Origin" in request.headers and CORS in request:
        varies = [headers.get("Vary"), request[CORS].get("Vary")]
        headers.update(request[CORS])
        if all(varies):
            headers["Vary"] = ", ".join(filter(None, varies))
    if isinstance(response, web.Response) and is_long(response):
        await compress_response(request, response)
    if "Content-Encoding" in headers:
        headers["Vary"] = ", ".join(filter(None, [headers.get("Vary"), "Accept-Encoding"]))
    if request.app[SHUTDOWN].has_begun:
        headers["Connection"] = "close"
        response.force_close()
    if isinstance(response, web.HTTPExpectationFailed):  # aiohttp quotes the client's header
        response.text = UNKNOWN_EXPECTATION
        headers["Content-Length"] = str(len(UNKNOWN_EXPECTATION))
