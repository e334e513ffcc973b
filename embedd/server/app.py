"""Builds the aiohttp application: routes of all dialects, one way to answer errors."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web
from aiohttp.typedefs import Handler

from embedd import __version__
from embedd.embedder import Embedder
from embedd.errors import EmbeddError, ServiceError
from embedd.library import Library
from embedd.server.bodies import BodyLimits
from embedd.server.dialects import ollama
from embedd.server.dialects.base import BODIES, EMBEDDER, LIBRARY, Dialect, Endpoint
from embedd.server.errors import choose_status, log_error, log_refusal, retry_headers
from embedd.server.replies import JSON
from embedd.server.security import Doors, add_cors_headers, make_guard

log = logging.getLogger(__name__)

DIALECTS: Sequence[Dialect] = (ollama.DIALECT,)
SERVER_NAME = f"embedd/{__version__}"


def make_app(
    *, embedder: Embedder, library: Library, bodies: BodyLimits, doors: Doors
) -> web.Application:
    """The application over the two doors of the core."""
    app = web.Application(middlewares=[make_guard(doors), _answer_unknown_paths])
    app[EMBEDDER] = embedder
    app[LIBRARY] = library
    app[BODIES] = bodies
    app.on_response_prepare.append(add_cors_headers)
    app.on_response_prepare.append(_name_server)
    for dialect in DIALECTS:
        for route in dialect.routes:
            endpoint = _speak(dialect, route.endpoint)
            # Redirects lose the body in many clients: a trailing slash is the same path.
            for path in {route.path, route.path.rstrip("/") + "/"}:
                app.router.add_route(route.method, path, endpoint)
                if route.method == "GET":
                    app.router.add_route("HEAD", path, endpoint)
    return app


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
            log.exception("request crashed", extra={"path": request.path})
            return _refuse(dialect, request, ServiceError("internal error"))

    return answer


def _refuse(dialect: Dialect, request: web.Request, error: EmbeddError) -> web.Response:
    status = choose_status(error, dialect.statuses)
    log_error(request, error, status)
    return web.Response(
        body=dialect.to_error(error),
        status=status,
        headers={**retry_headers(error, status), "Content-Type": JSON},
    )


@web.middleware
async def _answer_unknown_paths(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPNotFound:
        log_refusal(request, 404, "no such path")
        return web.Response(text="404 page not found", status=404)
    except web.HTTPMethodNotAllowed as error:
        log_refusal(request, 405, "no such verb")
        allowed = {"Allow": ",".join(sorted(error.allowed_methods))}
        return web.Response(text="405 method not allowed", status=405, headers=allowed)


async def _name_server(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = SERVER_NAME
