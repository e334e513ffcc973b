"""Ollama's ``/api/blobs``: uploads of files for ``/api/create``."""

import asyncio
import contextlib
from contextlib import aclosing
from typing import Any

from aiohttp import web

from embedd.errors import CorruptBlobError, InvalidInputError
from embedd.server.dialects.base import LIBRARY
from embedd.server.http.decompress import read_file
from embedd.server.http.streams import in_thread
from embedd.server.http.threads import POOLS

CHUNK = 1 << 20  # bytes of an upload that are written at once


async def has_blob(request: web.Request) -> web.StreamResponse:
    """``HEAD /api/blobs/{digest}``: 200 or 404, neither of which is a failure."""
    digest = _digest_in(request)
    found = await asyncio.to_thread(request.app[LIBRARY].has_blob, digest)
    return web.Response(status=200 if found else 404)


async def add_blob(request: web.Request) -> web.StreamResponse:
    """``POST /api/blobs/{digest}``: written to the disk as it arrives, whatever its size."""
    digest, library = _digest_in(request), request.app[LIBRARY]
    threads = request.app[POOLS].uploads
    if await asyncio.to_thread(library.has_blob, digest):
        return web.Response(status=200)
    with contextlib.ExitStack() as stack:
        incoming = await in_thread(threads, stack.enter_context, library.open_upload())
        pieces = bytearray()
        async with aclosing(read_file(request)) as arriving:
            async for piece in arriving:
                pieces += piece
                if len(pieces) >= CHUNK:
                    await in_thread(threads, incoming.write, bytes(pieces))
                    pieces.clear()
        await in_thread(threads, incoming.write, bytes(pieces))
        await in_thread(threads, _keep, incoming, digest)
    library.claim_blob(digest)
    return web.Response(status=201)


def _keep(incoming: Any, digest: str) -> None:
    try:
        incoming.seal(expected=digest)
    except CorruptBlobError as error:
        raise InvalidInputError(str(error)) from error
    incoming.keep()


def _digest_in(request: web.Request) -> str:
    return request.match_info["digest"].removesuffix("/")
