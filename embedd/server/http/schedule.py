"""The headers with which a client says until when, and how urgently, it wants its answer."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from embedd.errors import DeadlineError, InvalidInputError
from embedd.types import Priority, Schedule

TIMEOUT_HEADER: Final = "X-Request-Timeout"
PRIORITY_HEADER: Final = "X-Embedd-Priority"


def read_schedule(request: web.Request, *, arrived: float, timeout: float) -> Schedule:
    """Return the schedule that the headers of *request* ask for.

    Args:
        arrived: When it came, by ``time.perf_counter``.
        timeout: Seconds for a request that sets none, ``math.inf`` for ever.

    Raises:
        InvalidInputError: A header has a value that is not valid.
    """
    priority = request.headers.get(PRIORITY_HEADER, Priority.INTERACTIVE).strip().lower()
    if priority not in tuple(Priority):
        raise InvalidInputError(
            f"{PRIORITY_HEADER} must be one of {', '.join(Priority)}, got {priority[:40]!r}"
        )
    text = request.headers.get(TIMEOUT_HEADER)
    seconds = timeout if text is None else _parse_seconds(text)
    deadline = None if math.isinf(seconds) else arrived + seconds
    return Schedule(deadline=deadline, priority=Priority(priority))


@asynccontextmanager
async def open_schedule(
    request: web.Request,
    *,
    arrived: float,
    timeout: float,  # noqa: ASYNC109 - the default of a header
) -> AsyncIterator[Schedule]:
    """Yield what `read_schedule` returns, and end the block at its deadline.

    Raises:
        DeadlineError: The deadline passed.
        InvalidInputError: A header has a value that is not valid.
    """
    schedule = read_schedule(request, arrived=arrived, timeout=timeout)
    left = None if schedule.deadline is None else schedule.deadline - time.perf_counter()
    limit = asyncio.timeout(left)
    try:
        async with limit:
            yield schedule
    except TimeoutError:
        if limit.expired():
            raise DeadlineError from None
        raise


def _parse_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidInputError(
            f"{TIMEOUT_HEADER} must be a number of seconds above 0, got {text[:40]!r}"
        )
    return seconds
