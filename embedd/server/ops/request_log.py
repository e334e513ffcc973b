"""The log of requests: a line for each, with what was computed for it."""

import logging
import time

from aiohttp import web
from aiohttp.typedefs import Handler

from embedd.server.dialects.base import COMPUTED
from embedd.server.http.request_id import request_id
from embedd.server.ops.metrics import CLIENT_LEFT

log = logging.getLogger(__name__)


@web.middleware
async def log_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Log *request* once it is answered; without its query, texts and vectors."""
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
        facts: dict[str, object] = {
            "method": request.method,
            "path": request.path,
            "status": status,
            "ms": _to_milliseconds(time.perf_counter() - start),
            "client": request.remote,
            "request_id": request_id(request),
        }
        log.info("request answered", extra=facts | describe_computed(request))


def describe_computed(request: web.Request) -> dict[str, object]:
    """Return what was computed for *request* as facts for a log line, none if nothing was."""
    computed = request.get(COMPUTED)
    if computed is None:
        return {}
    result = computed.result
    timings = result.timings
    return {
        "model": computed.model,
        "inputs": len(result.tokens),
        "tokens": sum(result.tokens),
        "truncated": len(result.truncated),
        "load_ms": _to_milliseconds(timings.load),
        "tokenize_ms": _to_milliseconds(timings.tokenize),
        "queue_ms": _to_milliseconds(timings.queue),
        "compute_ms": _to_milliseconds(timings.compute),
    }


def _to_milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)
