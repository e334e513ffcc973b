"""Clients of a server in another process, small enough to measure it: HTTP by hand, asyncio."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

LIMIT = 1 << 20  # bytes of a head


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back, and after how many seconds."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def retry_after(self) -> float:
        """Seconds to wait before the next try."""
        return float(self.headers["retry-after"])


def make_request(
    path: str,
    body: object = b"",
    *,
    method: str = "POST",
    length: int | None = None,
    head: str = "",
) -> bytes:
    """Return a request; *body* is sent as JSON unless it is bytes.

    Args:
        length: Of the body, as the head has it.
        head: More lines of it, each with its end.
    """
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    size = len(data) if length is None else length
    lines = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{head}Content-Length: {size}\r\n\r\n"
    return lines.encode() + data


class Connection:
    """A connection that is kept open between requests."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, request: bytes) -> Answer:
        """Return the answer to *request*."""
        start = time.perf_counter()
        self.writer.write(request)
        # While it is sent the answer may come: a server refuses before it has read all.
        draining = asyncio.ensure_future(self.writer.drain())
        try:
            status, headers = await self._read_head()
            body = await self._read_body(headers)
        finally:
            draining.cancel()
            await asyncio.wait([draining])
            if not draining.cancelled():
                draining.exception()
        seconds = time.perf_counter() - start
        return Answer(status=status, headers=headers, body=body, seconds=seconds)

    async def post(self, path: str, body: object, head: str = "") -> Answer:
        """Send *body* and return the answer."""
        return await self.send(make_request(path, body, head=head))

    async def embed(self, inputs: object, *, model: str, head: str = "") -> Answer:
        """Send a request to ``/api/embed`` and return the answer."""
        return await self.post("/api/embed", {"model": model, "input": inputs}, head)

    async def _read_head(self) -> tuple[int, dict[str, str]]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().rstrip().split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}

    async def _read_body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return await self.reader.readexactly(int(headers.get("content-length", 0)))
        parts = []
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            parts.append(await self.reader.readexactly(size))
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)
        return b"".join(parts)

    async def close(self) -> None:
        """Close it."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def connect(port: int, *, receive: int = 0, address: str = "127.0.0.1") -> Connection:
    """Return a connection to *port*.

    Args:
        receive: Bytes that are read ahead, 0 for as many as usual.
        address: Its own.
    """
    sock = socket.socket()
    if receive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    sock.setblocking(False)
    try:
        sock.bind((address, 0))
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return Connection(*await asyncio.open_connection(sock=sock, limit=receive or LIMIT))
    except BaseException:
        sock.close()
        raise


@asynccontextmanager
async def open_connection(port: int) -> AsyncIterator[Connection]:
    """Yield a connection to *port*."""
    connection = await connect(port)
    try:
        yield connection
    finally:
        await connection.close()


async def ask(port: int, path: str, body: object = b"", *, method: str = "POST") -> Answer:
    """Return the answer to one request on a connection of its own."""
    async with open_connection(port) as connection:
        return await connection.send(make_request(path, body, method=method))


async def embed_patiently(
    port: int, inputs: object, *, model: str, tries: list[int] | None = None
) -> Answer:
    """As a client that honours ``Retry-After``: return the first answer that is not 429 or 503.

    Args:
        tries: Gets the status of each answer.
    """
    while True:
        async with open_connection(port) as connection:
            answer = await connection.embed(inputs, model=model)
        if tries is not None:
            tries.append(answer.status)
        if answer.status not in {429, 503}:
            return answer
        await asyncio.sleep(answer.retry_after)
