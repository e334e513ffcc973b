"""Whether the server can serve: one answer for TEI's and llama.cpp's clients."""

from aiohttp import web

from embedd.server.dialects.base import EMBEDDER
from embedd.server.http.json_out import json_response


async def health(request: web.Request) -> web.StreamResponse:
    """``GET /health``: from what is known; nothing is loaded or computed for it."""
    trouble = request.app[EMBEDDER].trouble()
    if trouble is None:
        return json_response({"status": "ok"})
    error = {"code": 503, "message": trouble, "type": "unavailable_error"}
    headers = {"Retry-After": "1"}
    return json_response({"error": error, "error_type": "Unhealthy"}, status=503, headers=headers)
