"""JSON answers: exact floats, no characters that clients mistake for line ends."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

import msgspec
import orjson
from aiohttp import web

from embedd.server.http.compress import choose_coding, open_compressor
from embedd.types import Quantized, TokenIds, Vectors
from embedd.vectors import Sliceable

# Numbers written at a time: orjson holds the interpreter's lock for about a millisecond then.
MAX_NUMBERS = 1 << 14
JSON = "application/json; charset=utf-8"

# Clients that split answers into lines split at these too. They occur only in strings.
_UNSAFE = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))


@dataclass(slots=True)
class Rows:
    """Rows of an answer that are converted to JSON while they are sent.

    ``render(start, stop)`` returns those rows as JSON, with *separator* between them; *step* is how
    many it is called for at most, which takes a few milliseconds.
    """

    count: int
    render: Callable[[int, int], bytes]
    step: int
    separator: bytes = b","


# Held while a slice of a large answer is rendered.
RENDERING: Final = web.AppKey("rendering", asyncio.Lock)

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


def vector_rows(vectors: Sliceable, width: int) -> Rows:
    """Return the vectors, of *width* numbers each, as rows of JSON arrays."""
    return Rows(
        len(vectors), lambda start, stop: dump_rows(vectors[start:stop]), choose_step(width)
    )


def choose_step(width: int) -> int:
    """Return how many rows of *width* numbers are rendered in about a millisecond."""
    return max(1, MAX_NUMBERS // max(1, width))


def join_parts(parts: Parts) -> bytes:
    """Return the whole answer, rendered in the same slices as one that is sent in pieces."""
    return b"".join(render() for render in _renderers(parts))


async def parts_response(
    request: web.Request, parts: Parts, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Send the parts in order: at once when small, in slices of `Rows.step` when large.

    A slice is rendered when the client has taken those before it, and only one of all answers at
    a time: other requests are served between two.
    """
    all_headers: dict[str, Any] = {**headers, "Content-Type": JSON}
    if sum([part.count / part.step for part in parts if isinstance(part, Rows)]) <= 1:
        pieces = [one if isinstance(one, bytes) else one.render(0, one.count) for one in parts]
        return web.Response(body=b"".join(pieces), headers=all_headers)
    coding = choose_coding(request.headers.get("Accept-Encoding", ""))
    compressor = open_compressor(coding) if coding else None
    if coding:
        all_headers["Content-Encoding"] = coding
    response = web.StreamResponse(headers=all_headers)
    await response.prepare(request)
    for render in _renderers(parts):
        async with request.app[RENDERING]:
            piece = render()
            await asyncio.sleep(0)
        if compressor:
            piece = await asyncio.to_thread(compressor.compress, piece)
        if piece:
            await response.write(piece)  # and wait until the socket takes more
    await response.write_eof(compressor.flush() if compressor else b"")
    return response


def _renderers(parts: Parts) -> Iterator[Callable[[], bytes]]:
    for part in parts:
        if isinstance(part, bytes):
            yield partial(bytes, part)
            continue
        for start in range(0, part.count, part.step):
            yield partial(_render, part, start)


def _render(rows: Rows, start: int) -> bytes:
    stop = min(start + rows.step, rows.count)
    return (rows.separator if start else b"") + rows.render(start, stop)
