"""What observes requests: it is called once each is answered."""

import time
from collections.abc import Callable
from typing import TypeAlias

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from embedd.server.ops.metrics import CLIENT_LEFT

# Called with the request, the status of its answer, and the seconds that it took.
Note: TypeAlias = Callable[[web.Request, int, float], None]


def make_observer(note: Note) -> Middleware:
    """Return a middleware that calls *note*, also when the client left (status 499)."""

    @web.middleware
    async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
        start = time.perf_counter()
        status = CLIENT_LEFT
        try:
            response = await handler(request)
            status = response.status
        except web.HTTPException as error:
            status = error.status
            raise
        else:
            return response
        finally:
            note(request, status, time.perf_counter() - start)

    return observe
