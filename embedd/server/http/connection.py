"""Connections of clients: those that make no progress are closed, and all when the server stops.

aiohttp's handler knows a timeout for idle connections only. A client that sends half a head, or
does not read its answer, would be served for ever.
"""

import asyncio
import logging
import resource
from collections import Counter
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
# Of all clients; the descriptors that are left are for files, workers and sockets to other servers.
MAX_CONNECTIONS: Final = 4096
SPARE_DESCRIPTORS: Final = 256
LOOK: Final = 1.0  # seconds between two looks at all connections
LOOK_AT_END: Final = 0.05  # the same while the server stops
# Arguments of aiohttp's handler. For the first see `embedd.server.http.decompress`.
HANDLER_ARGUMENTS: Final[dict[str, Any]] = {
    "auto_decompress": False,
    "max_line_size": MAX_LINE,
    "max_field_size": MAX_LINE,
}


REASONS: Final = {
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


def choose_limit() -> int:
    """Return how many connections may be open: fewer than there are descriptors."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(2, min(MAX_CONNECTIONS, descriptors - SPARE_DESCRIPTORS, descriptors * 3 // 4))


class Connection(web.RequestHandler):
    """A connection whose progress is watched.

    Args:
        server: Answers its requests.
        opened: Called when it is open; returns why it is refused, or None.
        closed: Called when it is closed.

    Attributes:
        address: The client's, without its port, once it is open.
    """

    __slots__ = (
        "_body",
        "_closed",
        "_half_closed",
        "_head_began",
        "_head_size",
        "_opened",
        "_progressed",
        "_unsent",
        "_wire",
        "address",
    )

    def __init__(
        self,
        server: web.Server,
        *,
        opened: Callable[["Connection"], str | None],
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
        peer = self._wire.get_extra_info("peername")
        self.address = peer[0] if peer and not isinstance(peer, str) else "a Unix socket"
        refusal = self._opened(self)
        super().connection_made(transport)
        if refusal is not None:
            self._refuse(503, refusal)

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
        retry = "Retry-After: 1\r\n" if status == 503 else ""
        head = (
            f"HTTP/1.1 {status} {REASONS[status]}\r\n"
            f"Server: {SERVER_NAME}\r\nContent-Type: text/plain; charset=utf-8\r\n{retry}"
            f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        )
        if not self._wire.is_closing():
            self._wire.write(f"{head}{text}".encode())
        self.force_close()

    def _log(self, reason: str) -> None:
        log.info("connection refused", extra={"address": self.address, "reason": reason})


class Connections:
    """The open connections of a server; called for each new one.

    Args:
        server: Answers their requests.
        timeouts: May change meanwhile.
        limit: Of open connections; one address may have half of them.
    """

    def __init__(self, server: web.Server, timeouts: Timeouts, limit: int | None = None) -> None:
        self._server = server
        self._timeouts = timeouts
        self._limit = choose_limit() if limit is None else limit
        self._open: set[Connection] = set()
        self._of_address: Counter[str] = Counter()

    def __call__(self) -> Connection:
        """Make the protocol of a new connection."""
        return Connection(self._server, opened=self._add, closed=self._remove)

    def _add(self, one: Connection) -> str | None:
        """Count *one*; return why it is refused, or None."""
        self._open.add(one)
        self._of_address[one.address] += 1
        if len(self._open) > self._limit:
            return f"the server has {self._limit} connections, the limit: try again later"
        share = max(1, self._limit // 2)
        if self._of_address[one.address] > share:
            return (
                f"your address may have {share} of the {self._limit} connections of the server: "
                "close some, or wait"
            )
        return None

    def _remove(self, one: Connection) -> None:
        self._open.discard(one)
        self._of_address[one.address] -= 1
        if not self._of_address[one.address]:
            del self._of_address[one.address]

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
