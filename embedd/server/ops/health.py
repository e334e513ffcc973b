"""The health check: one body that TEI's and llama.cpp's clients both understand."""

from aiohttp import web

from embedd.server.dialects.base import EMBEDDER
from embedd.server.http.json_out import json_response


async def health(request: web.Request) -> web.StreamResponse:
    """``GET /health``: 200, or 503 with the reason; no model is loaded or called for it."""
    reason = request.app[EMBEDDER].unhealthy_reason()
    if reason is None:
        return json_response({"status": "ok"})
    error = {"code": 503, "message": reason, "type": "unavailable_error"}
    headers = {"Retry-After": "1"}
    return json_response({"error": error, "error_type": "Unhealthy"}, status=503, headers=headers)
