"""Answers of long jobs: the job runs in its own thread, each of its steps is a line."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final, TypeAlias, TypeVar

from aiohttp import web

from embedd.errors import (
    EmbeddError,
    NoSourceError,
    RequestError,
    ServiceError,
    ShuttingDownError,
)
from embedd.library import ReportProgress
from embedd.logs import MAX_REASON
from embedd.ollama_api import ProgressLine
from embedd.server.http.json_out import dump
from embedd.server.http.shutdown import SHUTDOWN
from embedd.server.http.threads import POOLS, Threads

log = logging.getLogger(__name__)

NDJSON: Final = "application/x-ndjson"
POLL_INTERVAL: Final = 0.5  # seconds between two checks whether the client is still there
# Lines that may wait for a slow client: beyond it the progress within a step is left out.
MAX_WAITING_LINES: Final = 256

Stop: TypeAlias = Callable[[], bool]
Work: TypeAlias = Callable[[ReportProgress, Stop], object]
Lines: TypeAlias = AsyncGenerator[ProgressLine, None]
T = TypeVar("T")


async def follow(request: web.Request, work: Work, *, resumes: bool = False) -> Lines:
    """Run *work* in a thread and yield the progress that it reports.

    When the client disconnects, or the generator is closed, *work* is asked to stop.

    Args:
        resumes: Whether the same request goes on later where *work* was stopped: then it does
            not delay the end of the server.

    Raises:
        ConnectionResetError: The client disconnected.
        ShuttingDownError: *work* resumes, and the server is shutting down.
        OverloadedError: Too many jobs are running.
        EmbeddError: As *work*.
    """
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[ProgressLine | None] = asyncio.Queue()
    done: asyncio.Future[None] = loop.create_future()
    stopped = threading.Event()

    room = threading.Semaphore(MAX_WAITING_LINES)

    def report(line: ProgressLine) -> None:
        if line.total is None or room.acquire(blocking=False):
            loop.call_soon_threadsafe(lines.put_nowait, line)

    def run() -> None:
        error = _run(work, report, stopped.is_set)
        if not loop.is_closed():
            loop.call_soon_threadsafe(_finish, done, lines, error)

    await request.app[POOLS].jobs.start(run)
    try:
        while (line := await _next_line(lines, request, resumes)) is not None:
            if line.total is not None:
                room.release()
            yield line
        await done
    finally:
        stopped.set()


async def answer_streamed(
    request: web.Request, lines: Lines, to_error: Callable[[EmbeddError], bytes]
) -> web.StreamResponse:
    """Send one JSON object per line; an error after the first line becomes the last line.

    Raises:
        EmbeddError: It occurred before the first line: nothing was sent yet.
    """
    async with aclosing(lines):
        first = await anext(lines)
        response = web.StreamResponse(headers={"Content-Type": NDJSON})
        await response.prepare(request)
        await response.write(dump(first) + b"\n")
        try:
            async for line in lines:
                await response.write(dump(line) + b"\n")
        except EmbeddError as error:
            facts = {"path": request.path, "reason": str(error)[:MAX_REASON]}
            is_callers = isinstance(error, RequestError | NoSourceError)
            log.log(logging.INFO if is_callers else logging.WARNING, "request failed", extra=facts)
            await response.write(to_error(error) + b"\n")
        await response.write_eof()
        return response


async def answer_whole(lines: Lines) -> web.Response:
    """Return the answer for ``"stream": false``: the last line alone.

    Raises:
        EmbeddError: As the job.
    """
    async with aclosing(lines):
        async for _ in lines:
            pass
    body = dump(ProgressLine(status="success"))
    return web.Response(body=body, headers={"Content-Type": "application/json"})


async def in_thread(threads: Threads, function: Callable[..., T], *arguments: object) -> T:
    """Call *function* in one of *threads*; when cancelled, wait for it to end.

    So the function writes nothing more when its caller cleans up.
    """
    task = asyncio.ensure_future(threads.run(function, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
    finally:
        del task  # the traceback of its failure has this frame: a cycle


def _run(work: Work, report: ReportProgress, stop: Stop) -> EmbeddError | None:
    try:
        work(report, stop)
    except EmbeddError as error:
        return error
    except Exception:
        log.exception("request crashed")
        return ServiceError("internal error")
    return None


def _finish(
    done: asyncio.Future[None],
    lines: asyncio.Queue[ProgressLine | None],
    error: EmbeddError | None,
) -> None:
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
        done.exception()  # retrieved, so that asyncio logs nothing if the client is gone
    lines.put_nowait(None)


async def _next_line(
    lines: asyncio.Queue[ProgressLine | None],
    request: web.Request,
    resumes: bool,  # noqa: FBT001 - as in `follow`
) -> ProgressLine | None:
    while True:
        # Checked each time: without a stream nothing is written that could fail.
        if request.transport is None or request.transport.is_closing():
            raise ConnectionResetError("the client went away")
        if resumes and request.app[SHUTDOWN].has_begun:
            raise ShuttingDownError
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(lines.get(), POLL_INTERVAL)
