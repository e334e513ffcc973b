"""Notices a batch that takes far too long: has it stopped, or ends a worker that is deaf."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

log = logging.getLogger(__name__)

LEAST = 5.0  # seconds that every batch may take
TIMES = 20.0  # what it should take, by what others took
LOOK = 1.0  # seconds between looks at what computes
OBEDIENCE = 2.0  # seconds between the order to stop and SIGKILL
MEMORY = 0.9  # share that a measurement keeps when the next one comes


class Timer(Protocol):
    """A call that can be prevented."""

    def cancel(self) -> None:
        """Do not call."""
        ...


class Clock(Protocol):
    """Time in seconds, and calls later; an event loop is one."""

    def time(self) -> float:
        """Now."""
        ...

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """Call after *delay* seconds."""
        ...


@dataclass(slots=True, eq=False)
class _Batch:
    """A batch that was sent to the worker; times by the event loop's clock."""

    tokens: int
    begun: float | None = None
    warned: float | None = None


class Watchdog:
    """Watches the batches of one worker.

    A batch may take twenty times what its tokens should, at least five seconds, counted from
    when it began to compute.

    Args:
        has_begun: Whether the worker computes the batch with this id.
        abort: Has the worker stop it.
        kill: Ends the worker, which did not.

    Attributes:
        bitten: The worker was ended.
    """

    def __init__(
        self,
        *,
        has_begun: Callable[[int], bool],
        abort: Callable[[int], None],
        kill: Callable[[], None],
        clock: Clock | None = None,
    ) -> None:
        self._has_begun = has_begun
        self._abort = abort
        self._kill = kill
        self._clock = clock or asyncio.get_running_loop()
        self._batches: dict[int, _Batch] = {}
        self._timer: Timer | None = None
        self._tokens = 0.0
        self._seconds = 0.0
        self.bitten = False

    def learn(self, tokens: float, seconds: float) -> None:
        """So many tokens took so long."""
        self._tokens = MEMORY * self._tokens + tokens
        self._seconds = MEMORY * self._seconds + seconds

    def patience(self, tokens: int) -> float:
        """Seconds that a batch of so many tokens may take."""
        rate = self._seconds / self._tokens if self._tokens else 0.0
        return max(LEAST, TIMES * rate * tokens)

    def watch(self, id_: int, tokens: int) -> None:
        """The batch is sent."""
        self._batches[id_] = _Batch(tokens)
        if self._timer is None:
            self._timer = self._clock.call_later(LOOK, self._look)

    def forget(self, id_: int) -> None:
        """The batch is answered, or nobody waits for it."""
        self._batches.pop(id_, None)

    def close(self) -> None:
        """The worker is no more."""
        self._batches.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        for id_, batch in self._batches.items():
            self._judge(id_, batch, self._clock.time())
        # Nothing to watch: the next batch starts the timer again.
        self._timer = self._clock.call_later(LOOK, self._look) if self._batches else None

    def _judge(self, id_: int, batch: _Batch, now: float) -> None:
        if batch.begun is None:
            batch.begun = now if self._has_begun(id_) else None
        elif batch.warned is None:
            if now - batch.begun >= self.patience(batch.tokens):
                log.warning("batch takes too long", extra={"tokens": batch.tokens})
                batch.warned = now
                self._abort(id_)
        elif now - batch.warned >= OBEDIENCE and not self.bitten:
            self.bitten = True
            self._kill()
