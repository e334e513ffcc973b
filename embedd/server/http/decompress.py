"""Decompression of request bodies in small pieces, so that a limit can stop it.

aiohttp decompresses too, but goes on after a body was refused: two megabytes that become two
gigabytes held up the event loop for seconds.
"""

import asyncio
import sys
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from typing import Final, TypeAlias

from aiohttp import web

from embedd.errors import MalformedBodyError, StalledBodyError, TooLargeError
from embedd.server.http.connection import Connection
from embedd.server.http.timeouts import TIMEOUTS

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Bytes a second that a client has to send after `Timeouts.body`, on average: as Apache's
# mod_reqtimeout. One byte now and then would be progress for ever.
MIN_RATE: Final = 500
MAX_PIECE: Final = 1 << 18  # bytes between two turns of the event loop: about half a ms
LOOK: Final = 0.5  # seconds between two looks at the timeout, which a shutdown shortens
MAX_RATIO: Final = 16  # bytes that one byte of a file may become; weights shrink to half at best
FREE_BYTES: Final = 1 << 20  # of a file, whatever it was compressed to
WINDOW: Final = 23  # log2 of zstd's largest window; RFC 9659 allows no more for HTTP


# One gzip member, zlib stream or zstd frame.
Decompressor: TypeAlias = "zlib._Decompress | zstd.ZstdDecompressor"  # noqa: SLF001 - zlib names it nowhere else


def read_arrived(request: web.Request) -> bytes | None:
    """Return the body if it has arrived whole and is not compressed, else None.

    Bodies of one packet with their head, and those of other clients a moment later.
    """
    content = request.content
    if not content.is_eof() or content.exception() is not None:
        return None
    return None if "Content-Encoding" in request.headers else content.read_nowait()


async def read_decompressed(request: web.Request) -> AsyncGenerator[bytes, None]:
    """Read the body in pieces, decompressed as ``Content-Encoding`` says.

    Raises:
        MalformedBodyError: The body ends early or is not encoded as its headers say.
        StalledBodyError: The client stopped sending.
    """
    async with aclosing(_read_pieces(request)) as pieces:
        async for piece, _ in pieces:
            yield piece


async def read_file(request: web.Request) -> AsyncGenerator[bytes, None]:
    """As `read_decompressed`, for a body of any size that was not compressed to nearly nothing.

    Raises:
        TooLargeError: It has more than `MAX_RATIO` times the bytes that were sent.
    """
    size = 0
    async with aclosing(_read_pieces(request)) as pieces:
        async for piece, sent in pieces:
            size += len(piece)
            if size > max(MAX_RATIO * sent, FREE_BYTES):
                raise TooLargeError(
                    f"compressed file too large: {sent} bytes become more than {MAX_RATIO} times "
                    "as many: send it without Content-Encoding",
                    limit=MAX_RATIO,
                )
            yield piece


async def _read_pieces(request: web.Request) -> AsyncGenerator[tuple[bytes, int], None]:
    """Yield pieces of the body, each with the number of bytes that had to be sent so far."""
    stream = _open_stream(request.headers.get("Content-Encoding", ""))
    loop = asyncio.get_running_loop()
    sent, waited = 0, 0.0  # for the client: what is done with a piece is not its time
    try:
        while True:
            begun = loop.time()
            chunk = await _read_chunk(request, sent / MIN_RATE - waited)
            waited += loop.time() - begun
            if not chunk:
                break
            sent += len(chunk)
            for piece in stream.decompress(chunk) if stream else [chunk]:
                yield piece, sent
                if stream:
                    await asyncio.sleep(0)
        if stream:
            stream.check_end()
    except web.RequestPayloadError as error:
        # Without the error's text, which has bytes of the client.
        text = "cannot read the request body: it ends early, or its parts are not as it says"
        raise MalformedBodyError(text) from error
    except (zlib.error, zstd.ZstdError, EOFError) as error:
        text = f"cannot read the request body: not valid {stream and stream.name}: {error}"
        raise MalformedBodyError(text) from error


async def _read_chunk(request: web.Request, ahead: float) -> bytes:
    """Return the bytes that have arrived, at least one; none at the end of the body.

    Args:
        ahead: Seconds by which the client is faster than `MIN_RATE`; negative if it is slower.
    """
    timeouts, loop = request.app[TIMEOUTS], asyncio.get_running_loop()
    begun = loop.time()
    while True:
        remaining = begun + timeouts.body + min(ahead, 0.0) - loop.time()
        try:
            async with asyncio.timeout(max(0.0, min(remaining, LOOK))):
                return await request.content.readany()
        except TimeoutError:
            if remaining <= LOOK:
                if isinstance(request.protocol, Connection):
                    request.protocol.abandon_body()
                rate = MIN_RATE if ahead < 0 else None
                raise StalledBodyError(timeouts.body, rate=rate) from None


class DecompressedStream:
    """A body of one or more compressed parts (gzip members, zstd frames), one after the other.

    Args:
        name: Of the encoding, for messages.
        open_part: Makes the decompressor of a part from the part's first byte.
    """

    def __init__(self, name: str, open_part: Callable[[int], Decompressor]) -> None:
        self.name = name
        self._open_part = open_part
        self._part: Decompressor | None = None

    def decompress(self, data: bytes) -> Iterator[bytes]:
        """Yield what *data* decompresses to, in pieces of at most `MAX_PIECE` bytes."""
        while data or self._part:
            if self._part is None:
                self._part = self._open_part(data[0])
            piece = self._part.decompress(data, MAX_PIECE)
            data = getattr(self._part, "unconsumed_tail", b"")  # zstd keeps it internally
            if piece:
                yield piece
            if self._part.eof:
                data = self._part.unused_data
                self._part = None
            elif not data and len(piece) < MAX_PIECE:
                return

    def check_end(self) -> None:
        """Raise `EOFError` if the last part is not complete."""
        if self._part is not None:
            raise EOFError("the end is missing")


def _open_deflate(first_byte: int) -> Decompressor:
    # Some clients send raw streams as "deflate": only a zlib header has method 8.
    return zlib.decompressobj(zlib.MAX_WBITS if first_byte & 15 == 8 else -zlib.MAX_WBITS)


def _open_gzip(_: int) -> Decompressor:
    return zlib.decompressobj(zlib.MAX_WBITS | 16)


def _open_zstd(_: int) -> Decompressor:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW})


_ENCODINGS: Final[Mapping[str, Callable[[int], Decompressor]]] = {
    "gzip": _open_gzip,
    "x-gzip": _open_gzip,
    "deflate": _open_deflate,
    "zstd": _open_zstd,
}


def _open_stream(header: str) -> DecompressedStream | None:
    name = header.strip().lower()
    if name in ("", "identity"):
        return None
    if name not in _ENCODINGS:
        raise MalformedBodyError(
            f'cannot read the request body: unsupported Content-Encoding "{name[:40]}", '
            "use gzip, deflate or zstd"
        )
    return DecompressedStream(name, _ENCODINGS[name])
