"""JSON that leaves the server: exact floats, safe for clients that split lines."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
import orjson
from aiohttp import web

from embedd.types import Quantized, Vectors

# orjson holds the interpreter's lock while it writes: so many rows take about 3 ms.
ROWS = 64
JSON = "application/json; charset=utf-8"

# Line splitters of clients break on these; inside JSON strings only they can occur.
_UNSAFE = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of an answer that are written as they are sent.

    ``render(start, stop)`` is those rows as JSON with commas between.
    """

    count: int
    render: Callable[[int, int], bytes]


Parts: TypeAlias = Sequence[bytes | Rows]


def dump(value: object) -> bytes:
    """*value*, a msgspec struct or plain data, as JSON."""
    data = msgspec.json.encode(value)
    for raw, escaped in _UNSAFE:
        data = data.replace(raw, escaped)
    return data


def dump_rows(vectors: Vectors | Quantized) -> bytes:
    """Rows as JSON arrays without the outer brackets: shortest digits of each float32."""
    return orjson.dumps(vectors, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


def json_response(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A whole answer in one piece."""
    return web.Response(
        body=dump(value), status=status, headers={**(headers or {}), "Content-Type": JSON}
    )


def vector_rows(vectors: Vectors) -> Rows:
    """The vectors as JSON arrays."""
    return Rows(len(vectors), lambda start, stop: dump_rows(vectors[start:stop]))


def join_parts(parts: Parts) -> bytes:
    """The whole answer."""
    return b"".join(
        part if isinstance(part, bytes) else part.render(0, part.count) for part in parts
    )


async def parts_response(
    request: web.Request, parts: Parts, headers: Mapping[str, str]
) -> web.StreamResponse:
    """The parts one after the other: at once when small, in slices when large.

    Between slices the event loop serves others, and no more than a slice is in memory
    as text.
    """
    all_headers: dict[str, Any] = {**headers, "Content-Type": JSON}
    if sum(part.count for part in parts if isinstance(part, Rows)) <= ROWS:
        return web.Response(body=join_parts(parts), headers=all_headers)
    response = web.StreamResponse(headers=all_headers)
    await response.prepare(request)
    async for piece in _pieces(parts):
        await response.write(piece)
    await response.write_eof()
    return response


async def rows_response(
    request: web.Request, head: bytes, vectors: Vectors, tail: bytes, headers: Mapping[str, str]
) -> web.StreamResponse:
    """``head``, the rows, ``tail``, as `parts_response` does it."""
    return await parts_response(request, [head, vector_rows(vectors), tail], headers)


async def _pieces(parts: Parts) -> AsyncIterator[bytes]:
    for part in parts:
        if isinstance(part, bytes):
            yield part
            continue
        for start in range(0, part.count, ROWS):
            stop = min(start + ROWS, part.count)
            yield (b"," if start else b"") + part.render(start, stop)
            await asyncio.sleep(0)
