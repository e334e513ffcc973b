"""Long blocking work behind an HTTP answer: a thread of its own, a line for each step."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final, TypeAlias, TypeVar

from aiohttp import web

from embedd.errors import EmbeddError, ServiceError
from embedd.library import ReportProgress
from embedd.ollama_api import ProgressLine
from embedd.server.errors import MAX_REASON
from embedd.server.http.json_out import dump

log = logging.getLogger(__name__)

NDJSON: Final = "application/x-ndjson"
LOOK: Final = 0.5  # seconds between two looks whether the client is still there
# Lines that a slow reader may be behind: beyond it the bytes of a step are left out.
MOST_WAITING: Final = 256

Stop: TypeAlias = Callable[[], bool]
Work: TypeAlias = Callable[[ReportProgress, Stop], object]
Lines: TypeAlias = AsyncGenerator[ProgressLine, None]
T = TypeVar("T")


async def follow(request: web.Request, work: Work) -> Lines:
    """Do *work* in a thread; what it reports, until it is done.

    When the client leaves, or the generator is closed, *work* is asked to stop.

    Raises:
        ConnectionResetError: The client left.
        EmbeddError: What *work* raised.
    """
    # Not a thread of the pool: a pull takes hours, and requests need the pool.
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[ProgressLine | None] = asyncio.Queue()
    done: asyncio.Future[None] = loop.create_future()
    stopped = threading.Event()

    room = threading.Semaphore(MOST_WAITING)

    def report(line: ProgressLine) -> None:
        if line.total is None or room.acquire(blocking=False):
            loop.call_soon_threadsafe(lines.put_nowait, line)

    def run() -> None:
        error = _do(work, report, stopped.is_set)
        if not loop.is_closed():
            loop.call_soon_threadsafe(_finish, done, lines, error)

    threading.Thread(target=run, name=request.path, daemon=True).start()
    try:
        while (line := await _next_line(lines, request)) is not None:
            if line.total is not None:
                room.release()
            yield line
        await done
    finally:
        stopped.set()


async def answer_streamed(
    request: web.Request, lines: Lines, to_error: Callable[[EmbeddError], bytes]
) -> web.StreamResponse:
    """One JSON object a line; an error after the first is the last line.

    Raises:
        EmbeddError: Before there was a line: an ordinary answer can be given.
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
            log.warning("request failed", extra=facts)
            await response.write(to_error(error) + b"\n")
        await response.write_eof()
        return response


async def answer_whole(lines: Lines) -> web.Response:
    """The answer of ``"stream": false``: the last line alone.

    Raises:
        EmbeddError: What went wrong.
    """
    async with aclosing(lines):
        async for _ in lines:
            pass
    body = dump(ProgressLine(status="success"))
    return web.Response(body=body, headers={"Content-Type": "application/json"})


async def in_thread(function: Callable[..., T], *arguments: object) -> T:
    """As ``asyncio.to_thread``, but it has ended when this ends, cancelled or not.

    So nothing is written any more when the caller tidies up.
    """
    task = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _do(work: Work, report: ReportProgress, stop: Stop) -> EmbeddError | None:
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
        done.exception()  # seen: nobody may be there any more
    lines.put_nowait(None)


async def _next_line(
    lines: asyncio.Queue[ProgressLine | None], request: web.Request
) -> ProgressLine | None:
    while True:
        # Looked at each time: whoever wants no stream is written nothing that could fail.
        if request.transport is None or request.transport.is_closing():
            raise ConnectionResetError("the client went away")
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(lines.get(), LOOK)
