"""Connections of clients: those that make no progress are closed, and all when the server stops.

aiohttp's handler knows a timeout for idle connections only. A client that sends half a head, or
does not read its answer, would be served for ever.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, cast

from aiohttp import StreamReader, web
from aiohttp.http_exceptions import LineTooLong

from embedd import __version__
from embedd.server.http.half_closed import HalfClosed
from embedd.server.http.timeouts import Timeouts

log = logging.getLogger(__name__)

SERVER_NAME: Final = f"embedd/{__version__}"
MAX_LINE: Final = 64 << 10  # bytes of the request line, and of one header
MAX_HEAD: Final = 256 << 10  # bytes of the head; the parser alone would keep 128 lines
LOOK: Final = 1.0  # seconds between two looks at all connections
LOOK_AT_END: Final = 0.05  # the same while the server stops
# Arguments of aiohttp's handler. For the first see `embedd.server.http.decompress`.
HANDLER_ARGUMENTS: Final[dict[str, Any]] = {
    "auto_decompress": False,
    "max_line_size": MAX_LINE,
    "max_field_size": MAX_LINE,
}


class Connection(web.RequestHandler):
    """A connection whose progress is watched.

    Args:
        server: Answers its requests.
        opened: Called when it is open.
        closed: Called when it is closed.
    """

    __slots__ = (
        "_address",
        "_body",
        "_closed",
        "_half_closed",
        "_head_began",
        "_head_size",
        "_opened",
        "_progressed",
        "_unsent",
        "_wire",
    )

    def __init__(
        self,
        server: web.Server,
        *,
        opened: Callable[["Connection"], None],
        closed: Callable[["Connection"], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(server, loop=loop, access_log=None, **HANDLER_ARGUMENTS)  # type: ignore[arg-type]  # None is no log
        self._opened = opened
        self._closed = closed
        self._body: StreamReader | None = None  # of the last request
        self._half_closed: HalfClosed | None = None
        self._head_began: float | None = None
        self._head_size = 0
        self._unsent = 0
        self._progressed = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a head."""
        # The handler forgets its transport when it closes it, before all was sent.
        self._wire = cast("asyncio.Transport", transport)
        self._head_began = self._loop.time()
        self._opened(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        self._closed(self)
        if self._half_closed is not None:
            self._half_closed.end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse *data*; it belongs to a head if no request is being answered."""
        if data and self.is_idle:
            self._head_size += len(data)
            if self._head_began is None:
                self._head_began = self._loop.time()
        super().data_received(data)
        if self._messages:
            self._body = self._messages[-1][1]
        if not self.is_idle:
            self._head_began, self._head_size = None, 0
        elif self._head_size > MAX_HEAD:
            self._refuse(431, f"the head of a request may have {MAX_HEAD} bytes")

    def eof_received(self) -> bool:  # type: ignore[override]  # the base class has nothing to return
        """Keep the connection if a complete request is being answered; its client may wait."""
        if self._half_closed is not None:  # uvloop says it again after a pause of reading
            return True
        is_complete = self._body is not None and self._body.is_eof()
        if self.is_idle or not is_complete or self._wire.get_extra_info("sslcontext"):
            return False
        if not self._messages:
            self.close()  # after the answer
        self._half_closed = HalfClosed(
            self._wire, may_write=self._may_begin, replace=self._use_transport
        )
        return True

    def _may_begin(self) -> bool:
        request = self._current_request
        return request is not None and not request.writer.output_size

    def _use_transport(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered: the head of one may be incomplete."""
        # The first bytes may come before the handler waits for them.
        return self._body is None or (self._waiter is not None and not self._waiter.done())

    def check(self, timeouts: Timeouts) -> None:
        """Close the connection if its client made no progress for too long."""
        if self._half_closed is not None and self.is_idle:
            self.force_close()  # all that came before the end was answered
            return
        now, unsent = self._loop.time(), self._wire.get_write_buffer_size()
        # A change is progress: the buffer does not grow while the client reads nothing, but for
        # the little that is written before a writer has to wait.
        if not unsent or unsent != self._unsent:
            self._unsent, self._progressed = unsent, now
        elif now - self._progressed >= timeouts.write:
            self._log(f"the client read nothing for {timeouts.write:g} s (EMBEDD_WRITE_TIMEOUT)")
            self._wire.abort()
        if self._head_began is not None and now - self._head_began >= timeouts.head:
            limit = f"{timeouts.head:g} s (EMBEDD_HEAD_TIMEOUT)"
            self._refuse(408, f"the head of the request was not complete after {limit}")

    def abandon_body(self) -> None:
        """Do not wait for the rest of a body after the answer: its client stopped sending."""
        self._lingering_time = 0.0

    def abort(self) -> None:
        """Close the connection; what was not sent is lost."""
        self._wire.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Make the answer to a head that cannot be parsed, without the client's bytes."""
        if status != 400:
            return super().handle_error(request, status, exc, message)
        text = "the request is not valid HTTP/1.1"
        if isinstance(exc, LineTooLong):
            status, text = 431, f"the request line and each header may have {MAX_LINE} bytes"
        self._log(text)
        response = web.Response(status=status, text=text, headers={"Server": SERVER_NAME})
        response.force_close()
        return response

    def _refuse(self, status: int, text: str) -> None:
        """Answer an incomplete head and close the connection."""
        self._log(text)
        self._head_began = None
        head = (
            f"HTTP/1.1 {status} {'Request Timeout' if status == 408 else 'Headers Too Large'}\r\n"
            f"Server: {SERVER_NAME}\r\nContent-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        )
        if not self._wire.is_closing():
            self._wire.write(f"{head}{text}".encode())
        self.force_close()

    def _log(self, reason: str) -> None:
        peer = self._wire.get_extra_info("peername")
        address = peer[0] if peer and not isinstance(peer, str) else "a Unix socket"
        log.info("connection refused", extra={"address": address, "reason": reason})


class Connections:
    """The open connections of a server; called for each new one.

    Args:
        server: Answers their requests.
        timeouts: May change meanwhile.
    """

    def __init__(self, server: web.Server, timeouts: Timeouts) -> None:
        self._server = server
        self._timeouts = timeouts
        self._open: set[Connection] = set()

    def __call__(self) -> Connection:
        """Make the protocol of a new connection."""
        return Connection(self._server, opened=self._open.add, closed=self._open.discard)

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._open)

    async def watch(self) -> None:
        """Close connections whose clients make no progress, until cancelled."""
        while True:
            await asyncio.sleep(LOOK)
            self._check()

    async def drain(self, seconds: float) -> None:
        """Close each when no request is being answered; return when none is open.

        Those whose clients make no progress are closed too. Return after *seconds* in any case.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while self._open and loop.time() < end:
            for one in tuple(self._open):
                if one.is_idle:
                    one.force_close()
            self._check()
            await asyncio.sleep(LOOK_AT_END)

    def abort(self) -> None:
        """Close all; what was not sent is lost."""
        for one in tuple(self._open):
            one.abort()

    def _check(self) -> None:
        for one in tuple(self._open):
            one.check(self._timeouts)
