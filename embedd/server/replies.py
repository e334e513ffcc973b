"""JSON that leaves the server: exact floats, safe for clients that split lines."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import orjson
from aiohttp import web

from embedd.types import Vectors

# orjson holds the interpreter's lock while it writes: so many rows take about 3 ms.
ROWS = 64
JSON = "application/json; charset=utf-8"

# Line splitters of clients break on these; inside JSON strings only they can occur.
_UNSAFE = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))


def dump(value: object) -> bytes:
    """*value*, a msgspec struct or plain data, as JSON."""
    data = msgspec.json.encode(value)
    for raw, escaped in _UNSAFE:
        data = data.replace(raw, escaped)
    return data


def dump_rows(vectors: Vectors) -> bytes:
    """Rows as JSON arrays without the outer brackets: shortest digits of each float32."""
    return orjson.dumps(vectors, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


def json_response(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A whole answer in one piece."""
    return web.Response(
        body=dump(value), status=status, headers={**(headers or {}), "Content-Type": JSON}
    )


async def rows_response(
    request: web.Request, head: bytes, vectors: Vectors, tail: bytes, headers: Mapping[str, str]
) -> web.StreamResponse:
    """``head``, the rows, ``tail``: at once when small, in slices when large.

    Between slices the event loop serves others, and no more than a slice is in memory
    as text.
    """
    all_headers: dict[str, Any] = {**headers, "Content-Type": JSON}
    if len(vectors) <= ROWS:
        return web.Response(body=head + dump_rows(vectors) + tail, headers=all_headers)
    response = web.StreamResponse(headers=all_headers)
    await response.prepare(request)
    await response.write(head)
    async for piece in _slices(vectors):
        await response.write(piece)
    await response.write(tail)
    await response.write_eof()
    return response


async def _slices(vectors: Vectors) -> AsyncIterator[bytes]:
    for start in range(0, len(vectors), ROWS):
        yield (b"," if start else b"") + dump_rows(vectors[start : start + ROWS])
        await asyncio.sleep(0)
