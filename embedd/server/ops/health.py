"""The health and readiness checks: one body that TEI's and llama.cpp's clients understand."""

from dataclasses import replace

from aiohttp import web

from embedd.errors import ShuttingDownError
from embedd.server.dialects.base import EMBEDDER, Route
from embedd.server.dialects.llamacpp.dialect import DIALECT as LLAMACPP
from embedd.server.dialects.llamacpp.errors import ErrorReply, Fault
from embedd.server.dialects.tei.dialect import DIALECT as TEI
from embedd.server.http.json_out import json_response
from embedd.server.http.shutdown import SHUTDOWN
from embedd.server.ops.readiness import Readiness

Health = dict[str, str]

READINESS = web.AppKey("readiness", Readiness)


async def health(request: web.Request) -> web.StreamResponse:
    """``GET /health``: 200, or 503 with the reason; no model is loaded or called for it."""
    reason = request.app[EMBEDDER].unhealthy_reason()
    return _answer(reason, "Unhealthy")


async def ready(request: web.Request) -> web.StreamResponse:
    """``GET /ready``: 200, or 503 until all models of ``--load`` are loaded, and at the end."""
    reason = request.app[READINESS].reason()
    if request.app[SHUTDOWN].has_begun:
        reason = str(ShuttingDownError())
    return _answer(reason, "Overloaded")


def _answer(reason: str | None, error_type: str) -> web.StreamResponse:
    if reason is None:
        return json_response({"status": "ok"})
    fault = Fault(code=503, message=reason, type="unavailable_error")
    reply = ErrorReply(error=fault, error_type=error_type)
    return json_response(reply, status=503, headers={"Retry-After": "1"})


# Each path answers errors, as of a wrong method, in the shape that its clients expect.
DIALECTS = (
    replace(
        LLAMACPP,
        routes=(
            Route(method="GET", path="/health", endpoint=health, reply=Health),
            Route(method="GET", path="/v1/health", endpoint=health, reply=Health),
            Route(method="GET", path="/ready", endpoint=ready, reply=Health),
        ),
    ),
    replace(TEI, routes=(Route(method="GET", path="/ping", endpoint=health, reply=Health),)),
)
