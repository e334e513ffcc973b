"""Compression of answers for clients that ask for it, where it is worth the time."""

import asyncio
import sys
import zlib
from typing import Final, Protocol

from aiohttp import web

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Vectors of a few texts are sent as they are: many clients ask for compression that is of no use
# to them, and it would take as long as sending them in a local network.
LEAST: Final = 1 << 14  # bytes
CODINGS: Final = ("zstd", "gzip")  # the faster one first
_ANY: Final = "*"
_LEVEL: Final = 1
_GZIP: Final = 31  # zlib's number of the format
_TEXTS: Final = ("text/", "application/json", "application/javascript", "application/openmetrics")


class Compressor(Protocol):
    """Compresses a body piece by piece."""

    def compress(self, data: bytes, /) -> bytes:
        """Return bytes of the compressed body, possibly none yet."""
        ...

    def flush(self) -> bytes:
        """Return its last bytes."""
        ...


def choose_coding(accepted: str) -> str | None:
    """Return the coding for a client with ``Accept-Encoding: accepted``; None is none."""
    if not accepted:
        return None
    weights = dict(map(_parse_coding, accepted.lower().split(",")))
    other = weights.get(_ANY, 0.0)
    return next((one for one in CODINGS if weights.get(one, other) > 0), None)


def _parse_coding(part: str) -> tuple[str, float]:
    name, _, parameter = part.partition(";")
    key, _, value = parameter.strip().partition("=")
    try:
        return name.strip(), float(value) if key.strip() == "q" else 1.0
    except ValueError:
        return name.strip(), 1.0


def open_compressor(coding: str) -> Compressor:
    """Return a compressor for one body."""
    if coding == "zstd":
        return zstd.ZstdCompressor(level=_LEVEL)
    return zlib.compressobj(_LEVEL, wbits=_GZIP)


def is_long(response: web.Response) -> bool:
    """Whether the body of *response* is worth to be compressed."""
    body = response.body
    return isinstance(body, bytes) and len(body) >= LEAST


async def compress_response(request: web.Request, response: web.Response) -> None:
    """Compress the body of *response*, which `is_long`, if it is text and the client wants it."""
    body = response.body
    if not isinstance(body, bytes) or request.method == "HEAD":
        return
    coding = choose_coding(request.headers.get("Accept-Encoding", ""))
    if coding is None or not response.headers.get("Content-Type", "").startswith(_TEXTS):
        return
    compressor = open_compressor(coding)
    response.body = await asyncio.to_thread(lambda: compressor.compress(body) + compressor.flush())
    response.headers["Content-Encoding"] = coding
    response.headers["Content-Length"] = str(len(response.body))
