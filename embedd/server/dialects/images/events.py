"""Streams of a picture's progress: server-sent events, or lines of JSON."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from embedd.errors import EmbeddError
from embedd.images import PaintEvent, PaintProgress, PaintRequest, PaintResult, Phase
from embedd.logs import MAX_REASON
from embedd.server.dialects.base import PAINTER, POLICY
from embedd.server.http.schedule import Deadline, read_schedule

log = logging.getLogger(__name__)

SSE: Final = "text/event-stream"
QUIET_SECONDS: Final = 10.0  # without an event, after which a comment keeps proxies awake


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """How a dialect writes a stream.

    Args:
        render: The bytes of an event; none if the dialect does not show it.
        fail: The bytes of an error after the start.
        end: What comes last, after an error as well.
        quiet: The bytes that mean nothing but that the server works.
    """

    media: str
    render: Callable[[PaintEvent], Iterable[bytes]]
    fail: Callable[[EmbeddError], bytes]
    end: bytes = b""
    quiet: Callable[[PaintProgress], bytes] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


async def answer_events(
    request: web.Request, wanted: PaintRequest, stream: Stream
) -> web.StreamResponse:
    """Paint, and send what *stream* makes of the events; the client may leave meanwhile.

    Raises:
        EmbeddError: As `Painter.paint`, before the first event: nothing was sent yet.
    """
    timeout = request.app[POLICY].request_timeout
    schedule = read_schedule(request, arrived=time.perf_counter(), timeout=timeout)
    async with Deadline(schedule):
        painting = await request.app[PAINTER].paint(wanted)
    async with aclosing(painting) as events:
        async with Deadline(schedule):
            last = await anext(events)
        headers = {**stream.headers, "Content-Type": stream.media, "Cache-Control": "no-store"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        try:
            async with Deadline(schedule), aclosing(_with_quiet(last, events)) as all_events:
                async for event in all_events:
                    for piece in await _render(stream, event, last):
                        await response.write(piece)
                    last = event or last
        except EmbeddError as error:
            facts = {"path": request.path, "reason": str(error)[:MAX_REASON]}
            log.warning("request failed", extra=facts)
            await response.write(stream.fail(error))
        if stream.end:
            await response.write(stream.end)
        await response.write_eof()
        return response


def describe_progress(progress: PaintProgress) -> str:
    """``step 5/25``, or what is done before the first step."""
    if progress.phase is Phase.SAMPLING:
        return f"step {progress.step}/{progress.steps}"
    if progress.phase is Phase.QUEUED:
        return f"queued, {progress.position} before"
    return progress.phase.value


def sse_comment(progress: PaintProgress) -> bytes:
    """A line that clients skip, and that says how far the picture is."""
    return f": {describe_progress(progress)}\n\n".encode()


async def _render(stream: Stream, event: PaintEvent | None, last: PaintEvent) -> Iterable[bytes]:
    """What to send for *event*, or for none after *last*; pictures become base64 in a thread."""
    if event is None:
        is_shown = stream.quiet is not None and isinstance(last, PaintProgress)
        return [stream.quiet(last)] if is_shown else []  # type: ignore[arg-type,misc]  # is_shown says it
    if isinstance(event, PaintResult) or event.preview is not None:
        return await asyncio.to_thread(lambda: list(stream.render(event)))
    return stream.render(event)


async def _with_quiet(
    first: PaintEvent, events: AsyncGenerator[PaintEvent, None]
) -> AsyncGenerator[PaintEvent | None, None]:
    """Yield *first* and all *events*, and None whenever none came for `QUIET_SECONDS`."""
    yield first
    task: asyncio.Task[PaintEvent] | None = None
    try:
        while True:
            task = task or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({task}, timeout=QUIET_SECONDS)
            if not done:
                yield None
                continue
            try:
                event = task.result()
            except StopAsyncIteration:
                return
            task = None
            yield event
    finally:
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait({task})
