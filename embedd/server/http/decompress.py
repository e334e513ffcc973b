"""Compressed request bodies: undone piece by piece, so that whoever counts can stop.

aiohttp would do it too, but goes on after a body was refused: two megabytes that unpack
to two gigabytes held up the event loop for seconds.
"""

import asyncio
import sys
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from typing import Final, Protocol

from aiohttp import web

from embedd.errors import MalformedBodyError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE: Final = 1 << 18  # bytes that are unpacked before others are served: about half a ms
WINDOW: Final = 23  # log2 of the memory that zstd may take; RFC 9659 asks for no more


class Member(Protocol):
    """One gzip member, zlib stream or zstd frame that is being unpacked."""

    @property
    def eof(self) -> bool:
        """Whether it is whole."""
        ...

    @property
    def unused_data(self) -> bytes:
        """What came after its end."""
        ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """The next bytes, at most *max_length*."""
        ...


async def read_pieces(request: web.Request) -> AsyncGenerator[bytes, None]:
    """The body in pieces, what ``Content-Encoding`` names undone.

    Raises:
        MalformedBodyError: It is broken off, or not encoded as its headers say.
    """
    unpack = _choose(request.headers.get("Content-Encoding", ""))
    try:
        async for chunk in request.content.iter_any():
            for piece in unpack.feed(chunk) if unpack else [chunk]:
                yield piece
                if unpack:
                    await asyncio.sleep(0)
        if unpack:
            unpack.end()
    except web.RequestPayloadError as error:
        raise MalformedBodyError(f"cannot read the request body: {error}") from error
    except (zlib.error, zstd.ZstdError, EOFError) as error:
        text = f"cannot read the request body: it is no {unpack and unpack.name}: {error}"
        raise MalformedBodyError(text) from error


class Unpacker:
    """Unpacks members that follow each other.

    Args:
        make: A new member that begins with a byte like this.
    """

    def __init__(self, name: str, make: Callable[[int], Member]) -> None:
        self.name = name
        self._make = make
        self._member: Member | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What *data* unpacks to, in pieces of at most `PIECE` bytes."""
        while data or self._member:
            if self._member is None:
                self._member = self._make(data[0])
            piece = self._member.decompress(data, PIECE)
            data = getattr(self._member, "unconsumed_tail", b"")  # zstd keeps it itself
            if piece:
                yield piece
            if self._member.eof:
                data = self._member.unused_data
                self._member = None
            elif not data and len(piece) < PIECE:
                return

    def end(self) -> None:
        """Raise `EOFError` if there should be more."""
        if self._member is not None:
            raise EOFError("the end is missing")


def _inflate(first: int) -> Member:
    # Some clients send raw streams for "deflate": their first byte has no method 8.
    return zlib.decompressobj(zlib.MAX_WBITS if first & 15 == 8 else -zlib.MAX_WBITS)


def _unzip(_: int) -> Member:
    return zlib.decompressobj(zlib.MAX_WBITS | 16)


def _unzstd(_: int) -> Member:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW})


_ENCODINGS: Final[Mapping[str, Callable[[int], Member]]] = {
    "gzip": _unzip,
    "x-gzip": _unzip,
    "deflate": _inflate,
    "zstd": _unzstd,
}


def _choose(header: str) -> Unpacker | None:
    name = header.strip().lower()
    if name in ("", "identity"):
        return None
    if name not in _ENCODINGS:
        raise MalformedBodyError(
            f'cannot read the request body: no Content-Encoding "{name}", use gzip, deflate or zstd'
        )
    return Unpacker(name, _ENCODINGS[name])
