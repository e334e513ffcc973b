"""Serves an application on a socket, and ends it in order."""

import asyncio
import math
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from socket import socket
from typing import Any, Final, cast

from aiohttp import web

from embedd.server.http.connection import Connections
from embedd.server.http.shutdown import SHUTDOWN
from embedd.server.http.timeouts import TIMEOUTS
from embedd.server.http.unix_socket import BACKLOG

STALL: Final = 5.0  # seconds that a client may make no progress while the server stops
LAST_ANSWERS: Final = 1.0  # seconds for the answers that requests get which were stopped


@asynccontextmanager
async def open_listener(
    app: web.Application,
    socks: Sequence[socket],
    tls: ssl.SSLContext | None = None,
    *,
    grace: float,
) -> AsyncIterator[None]:
    """Serve *app* on all of *socks* until the block ends, and then finish the requests.

    They have *grace* seconds; those that run longer are answered with 503. Clients that make no
    progress for `STALL` seconds are not waited for.
    """
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, shutdown_timeout=LAST_ANSWERS
    )
    await runner.setup()
    timeouts = app[TIMEOUTS]
    connections = Connections(cast("web.Server", runner.server), timeouts)
    limits: dict[str, Any] = {}
    if tls and timeouts.head < math.inf:
        limits["ssl_handshake_timeout"] = timeouts.head
    loop = asyncio.get_running_loop()
    try:
        servers = [
            await loop.create_server(connections, sock=sock, ssl=tls, backlog=BACKLOG, **limits)
            for sock in socks
        ]
        watching = asyncio.create_task(connections.watch())
        try:
            yield
        finally:
            watching.cancel()
            for server in servers:
                server.close()
            await _finish(app, connections, grace)
    finally:
        await runner.cleanup()


async def _finish(app: web.Application, connections: Connections, grace: float) -> None:
    shutdown = app[SHUTDOWN]
    shutdown.begin()
    app[TIMEOUTS].shorten(STALL)
    await connections.drain(grace)
    shutdown.stop_requests()
    await connections.drain(LAST_ANSWERS)
    connections.abort()
