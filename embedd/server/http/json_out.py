"""JSON answers: exact floats, no characters that clients mistake for line ends."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
import orjson
from aiohttp import web

from embedd.types import Quantized, TokenIds, Vectors

# Rows written at a time: orjson holds the interpreter's lock for about 3 ms for so many vectors.
MAX_ROWS = 64
JSON = "application/json; charset=utf-8"

# Clients that split answers into lines split at these too. They occur only in strings.
_UNSAFE = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of an answer that are converted to JSON while they are sent.

    ``render(start, stop)`` returns those rows as JSON, separated by commas; *step* is how many
    it is called for at most, which takes a few milliseconds.
    """

    count: int
    render: Callable[[int, int], bytes]
    step: int = MAX_ROWS


Parts: TypeAlias = Sequence[bytes | Rows]


def dump(value: object) -> bytes:
    """Convert *value*, a msgspec struct or plain data, to JSON."""
    data = msgspec.json.encode(value)
    for raw, escaped in _UNSAFE:
        data = data.replace(raw, escaped)
    return data


def dump_rows(numbers: Vectors | Quantized | TokenIds) -> bytes:
    """Convert rows to JSON arrays without outer brackets; float32 in their shortest digits."""
    return orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


def json_response(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Make an answer of one piece."""
    return web.Response(
        body=dump(value), status=status, headers={**(headers or {}), "Content-Type": JSON}
    )


def vector_rows(vectors: Vectors) -> Rows:
    """Return the vectors as rows of JSON arrays."""
    return Rows(len(vectors), lambda start, stop: dump_rows(vectors[start:stop]))


def join_parts(parts: Parts) -> bytes:
    """Return the whole answer."""
    return b"".join(
        part if isinstance(part, bytes) else part.render(0, part.count) for part in parts
    )


async def parts_response(
    request: web.Request, parts: Parts, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Send the parts in order: at once when small, in slices of `Rows.step` when large.

    Other requests are served between slices, and only one slice is in memory as text.
    """
    all_headers: dict[str, Any] = {**headers, "Content-Type": JSON}
    if sum(part.count / part.step for part in parts if isinstance(part, Rows)) <= 1:
        return web.Response(body=join_parts(parts), headers=all_headers)
    response = web.StreamResponse(headers=all_headers)
    await response.prepare(request)
    async for piece in _pieces(parts):
        await response.write(piece)
    await response.write_eof()
    return response


async def _pieces(parts: Parts) -> AsyncIterator[bytes]:
    for part in parts:
        if isinstance(part, bytes):
            yield part
            continue
        for start in range(0, part.count, part.step):
            stop = min(start + part.step, part.count)
            yield (b"," if start else b"") + part.render(start, stop)
            await asyncio.sleep(0)
