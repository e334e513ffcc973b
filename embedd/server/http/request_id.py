"""The name of a request: the client's own if it is a fair one, else a new one."""

import re
import uuid

from aiohttp import web

HEADER = "X-Request-Id"
_FAIR = re.compile(r"[A-Za-z0-9._-]{1,128}")
_KEY = web.RequestKey("request_id", str)


def request_id(request: web.Request) -> str:
    """The same for as long as the request lasts; answer and log carry it."""
    if _KEY not in request:
        sent = request.headers.get(HEADER, "")
        request[_KEY] = sent if _FAIR.fullmatch(sent) else uuid.uuid4().hex
    return request[_KEY]


async def add_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """Signal ``on_response_prepare``: every answer carries it."""
    response.headers[HEADER] = request_id(request)
