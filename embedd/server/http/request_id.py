"""Request ids: the client's own if it is valid, else a random one."""

import re
import uuid

from aiohttp import web

HEADER = "X-Request-Id"
_VALID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_KEY = web.RequestKey("request_id", str)


def request_id(request: web.Request) -> str:
    """Return the id of *request*, which its answer and log lines carry."""
    if _KEY not in request:
        sent = request.headers.get(HEADER, "")
        request[_KEY] = sent if _VALID.fullmatch(sent) else uuid.uuid4().hex
    return request[_KEY]
