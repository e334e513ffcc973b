"""Request ids: the client's own if it is valid, else a random one."""

import random
import re

from aiohttp import web

HEADER = "X-Request-Id"
# Python's own generator: request ids are not secret, and `secrets` makes a system call each time.
_RANDOM = random.Random()  # noqa: S311 - likewise
_VALID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_KEY = web.RequestKey("request_id", str)


def request_id(request: web.Request) -> str:
    """Return the id of *request*, which its answer and log lines carry."""
    found = request.get(_KEY)
    if found is None:
        sent = request.headers.get(HEADER)
        is_valid = sent is not None and _VALID.fullmatch(sent)
        found = request[_KEY] = sent if sent and is_valid else f"{_RANDOM.getrandbits(128):032x}"
    return found
