"""The headers with which a client says until when, and how urgently, it wants its answer."""

import asyncio
import math
import time
from types import TracebackType
from typing import Final

from aiohttp import web

from embedd.errors import DeadlineError, InvalidInputError
from embedd.types import Priority, Schedule

TIMEOUT_HEADER: Final = "X-Request-Timeout"
PRIORITY_HEADER: Final = "X-Embedd-Priority"
AT_ONCE: Final = Schedule()


def read_schedule(request: web.Request, *, arrived: float, timeout: float) -> Schedule:
    """Return the schedule that the headers of *request* ask for.

    Args:
        arrived: When it came, by ``time.perf_counter``.
        timeout: Seconds for a request that sets none, ``math.inf`` for ever.

    Raises:
        InvalidInputError: A header has a value that is not valid.
    """
    headers = request.headers
    text, urgency = headers.get(TIMEOUT_HEADER), headers.get(PRIORITY_HEADER)
    if text is None and urgency is None and math.isinf(timeout):
        return AT_ONCE
    priority = (urgency or Priority.INTERACTIVE).strip().lower()
    if priority not in tuple(Priority):
        raise InvalidInputError(
            f"{PRIORITY_HEADER} must be one of {', '.join(Priority)}, got {priority[:40]!r}"
        )
    seconds = timeout if text is None else _parse_seconds(text)
    deadline = None if math.isinf(seconds) else arrived + seconds
    return Schedule(deadline=deadline, priority=Priority(priority))


class Deadline:
    """Ends a block (``async with``) at the deadline of *schedule*, if it has one.

    Raises:
        DeadlineError: The deadline passed.
    """

    __slots__ = ("_limit",)

    def __init__(self, schedule: Schedule) -> None:
        self._limit: asyncio.Timeout | None = None
        if schedule.deadline is not None:
            self._limit = asyncio.timeout(schedule.deadline - time.perf_counter())

    async def __aenter__(self) -> None:
        """Begin the block."""
        if self._limit is not None:
            await self._limit.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the block."""
        if self._limit is None:
            return
        try:
            await self._limit.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise DeadlineError from None


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
