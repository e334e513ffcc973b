"""The server's end of the socket to a worker."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec
import numpy.typing as npt

from embedd.engine.ipc import framing

log = logging.getLogger(__name__)


_Message = TypeVar("_Message")


class Frames(asyncio.Protocol, Generic[_Message]):
    """Sends frames, and splits the received bytes into frames.

    Args:
        take: Called with the message and the array of each received frame.
        parse: Returns the message in the header of a frame.

    Attributes:
        lost: Done when the connection has ended. It is cut when the worker sends an invalid
            frame: it may have overwritten its own memory.
        heard: Whether anything came since this was last set to False.
    """

    def __init__(
        self, take: Callable[[_Message, bytes], None], parse: Callable[[memoryview], _Message]
    ) -> None:
        self._take = take
        self._parse = parse
        self._received = bytearray()
        self.heard = True
        self._transport: asyncio.Transport
        self._writable = asyncio.Event()
        self._writable.set()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def send(self, message: msgspec.Struct, array: npt.NDArray[Any] | None = None) -> None:
        """Write a frame, and wait while the socket is full; no effect after the end."""
        self.write(message, array)
        if not self._writable.is_set():
            await self._writable.wait()

    def write(self, message: msgspec.Struct, array: npt.NDArray[Any] | None = None) -> None:
        """Write a frame without waiting, for small frames; no effect after the end."""
        # uvloop raises RuntimeError once the process at the other end is gone, and its end is
        # noticed only after that.
        if self._transport.is_closing():
            return
        self._transport.write(b"".join(framing.make_frame(message, array)))

    def close(self) -> None:
        """End the connection, which ends the worker."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.heard = True
        self._received += data
        try:
            self._split()
        except Exception:
            log.exception("invalid frame from worker")
            self._received.clear()
            self._transport.abort()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        del exc  # how the process ended says more
        self._writable.set()
        self.lost.set_result(None)

    def _split(self) -> None:
        start = 0
        with memoryview(self._received) as received:
            while len(received) - start >= framing.PREFIX.size:
                body = start + framing.PREFIX.size
                header, array = framing.parse_prefix(received[start:body])
                end = body + header + array
                if len(received) < end:
                    break
                message = self._parse(received[body : body + header])
                self._take(message, bytes(received[body + header : end]))
                start = end
        del self._received[:start]
