"""The log of requests: a line for each, with what was computed for it."""

import logging

from aiohttp import web

from embedd.server.dialects.base import COMPUTED
from embedd.server.http.request_id import request_id

log = logging.getLogger(__name__)


def log_request(request: web.Request, status: int, seconds: float) -> None:
    """Log *request*, which was answered; without its query, texts and vectors."""
    facts: dict[str, object] = {
        "method": request.method,
        "path": request.path,
        "status": status,
        "ms": _to_milliseconds(seconds),
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
