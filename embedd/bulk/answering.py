"""Answers to the requests of a file: several computed ahead, tried again, written in order."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from embedd.bulk.compute import BUSY_PATIENCE, FIRST_DELAY, LAST_DELAY, PATIENCE
from embedd.bulk.requests import NumberedLine
from embedd.errors import (
    DeadlineError,
    EmbeddError,
    OverloadedError,
    ShuttingDownError,
    UnavailableError,
)

IN_FLIGHT: Final = 128  # requests
# Bytes of the requests in flight, of which each comma may be an input with a vector of its own.
MOST_WEIGHT: Final = 512 << 10
COMMA: Final = 64
L = TypeVar("L")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The answer to a request; *body* is JSON."""

    status: int
    request_id: str
    body: bytes
    tokens: int = 0

    @property
    def is_good(self) -> bool:
        """Whether the request succeeded."""
        return self.status == 200


class Answer(Protocol):
    """Answers requests."""

    async def compute(self, url: str, body: bytes) -> Answered:
        """Return the answer.

        Raises:
            EmbeddError: As the endpoint.
        """
        ...

    def refuse(self, error: EmbeddError) -> Answered:
        """Return the answer to a request that failed with *error*."""
        ...


async def answer_in_order(
    requests: Iterable[NumberedLine],
    answer: Callable[[NumberedLine], Awaitable[L]],
    write: Callable[[L], Awaitable[None]],
) -> None:
    """Write what *answer* returns for each request, in order; a bounded number is in flight."""
    window: deque[tuple[asyncio.Future[L], int]] = deque()
    weight = 0
    try:
        for one in requests:
            own = len(one.body) + COMMA * one.body.count(b",")
            while window and (len(window) == IN_FLIGHT or weight + own > MOST_WEIGHT):
                weight -= window[0][1]
                await write(await window[0][0])
                window.popleft()
            weight += own
            window.append((asyncio.ensure_future(answer(one)), own))
        while window:
            await write(await window[0][0])
            window.popleft()
    finally:
        for task, _ in window:
            task.cancel()
        await asyncio.gather(*(task for task, _ in window), return_exceptions=True)


async def answer_patiently(
    answer: Answer,
    url: str,
    body: bytes,
    *,
    check: Callable[[], object] = lambda: None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Answered:
    """Return the answer to a request, tried again while it cannot be computed now.

    Args:
        check: Called before each try; what it raises ends them.

    Raises:
        ShuttingDownError: What computes is ending.
    """
    waited, delay = 0.0, FIRST_DELAY
    while True:
        check()
        try:
            return await answer.compute(url, body)
        except ShuttingDownError:
            raise
        except UnavailableError as error:
            patience = BUSY_PATIENCE if isinstance(error, OverloadedError) else PATIENCE
            if isinstance(error, DeadlineError) or waited > patience:
                return answer.refuse(error)
        except EmbeddError as error:
            return answer.refuse(error)
        await sleep(delay)
        waited += delay
        delay = min(2 * delay, LAST_DELAY)
