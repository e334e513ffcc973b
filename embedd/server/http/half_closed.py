"""Clients that close their side of the connection after a request, and wait for the answer.

To the server such a client (``shutdown(SHUT_WR)``, ``nc -N``) looks like one that has left: both
send FIN. Only data tells them apart, which the system of a client that has left answers with RST.
So the answer's first bytes, which are the same in every answer, are sent one by one while it is
computed.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final, cast

START: Final = b"HTTP/1."  # of every answer
FIRST_PROBE: Final = 0.5  # seconds until the first byte; each next one takes twice as long
ANSWER: Final = 0.1  # seconds until a system has answered that its client has left


class HalfClosed:
    """Finds out whether the client of a half-closed connection has left.

    Args:
        transport: Of the connection.
        may_write: Whether nothing of the answer was written yet.
        replace: Called with the transport that later writes have to use.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        *,
        may_write: Callable[[], bool],
        replace: Callable[[asyncio.Transport], None],
    ) -> None:
        self._transport = transport
        self._may_write = may_write
        self._replace = replace
        self._written = 0
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(FIRST_PROBE, self._probe)

    def end(self) -> None:
        """Stop: the connection is closed."""
        self._timer.cancel()

    def _probe(self) -> None:
        if self._transport.is_closing() or not self._may_write() or self._written == len(START):
            return
        self._transport.write(START[self._written : self._written + 1])
        self._written += 1
        self._replace(cast("asyncio.Transport", Begun(self._transport, self._written, self._go_on)))
        self._timer = self._loop.call_later(ANSWER, self._look)

    def _look(self) -> None:
        if self._transport.is_closing():
            return
        sock = self._transport.get_extra_info("socket")
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._transport.abort()
            return
        self._timer = self._loop.call_later(FIRST_PROBE * 2**self._written, self._probe)

    def _go_on(self) -> None:
        """The answer itself is being written."""
        self._timer.cancel()
        self._replace(self._transport)


class Begun:
    """A transport on which the first *count* bytes of the answer were written already.

    Args:
        go_on: Called before the answer is written.
    """

    def __init__(
        self, transport: asyncio.Transport, count: int, go_on: Callable[[], object]
    ) -> None:
        self._transport = transport
        self._count = count
        self._go_on = go_on

    def write(self, data: bytes) -> None:
        """Write *data* without what was written."""
        self._go_on()
        self._transport.write(memoryview(data)[self._count :])

    def writelines(self, parts: Any) -> None:
        """Write *parts* without what was written."""
        self.write(b"".join(parts))

    def __getattr__(self, name: str) -> Any:
        """Return the transport's own attribute."""
        return getattr(self._transport, name)
