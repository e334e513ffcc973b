"""Stops a batch that takes far too long, and kills a worker that does not stop it."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger(__name__)

MIN_TIMEOUT = 5.0  # seconds that every batch may take
TIMEOUT_FACTOR = 20.0  # times the seconds that its tokens should take
INTERVAL = 1.0  # seconds between two checks
STOP_TIMEOUT = 2.0  # seconds between the order to stop and SIGKILL
DECAY = 0.9  # share of a measurement that is left when the next one comes


@dataclass(slots=True, eq=False)
class _Batch:
    """A batch that was sent to the worker; times by the event loop's clock, or None."""

    tokens: int
    begun: float | None = None
    aborted: float | None = None


class Watchdog:
    """Watches the batches of one worker.

    A batch may take twenty times what its tokens should, at least five seconds, counted from
    when it began to compute.

    Args:
        has_begun: Whether the worker computes the batch with this id.
        abort: Tells the worker to stop it.
        kill: Ends the worker process.
        loop: Gives the time and runs the checks; the running event loop if None.

    Attributes:
        killed: Whether it has ended the worker.
    """

    def __init__(
        self,
        *,
        has_begun: Callable[[int], bool],
        abort: Callable[[int], None],
        kill: Callable[[], None],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._has_begun = has_begun
        self._abort = abort
        self._kill = kill
        self._loop = loop or asyncio.get_running_loop()
        self._batches: dict[int, _Batch] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tokens = 0.0
        self._seconds = 0.0
        self.killed = False

    def learn(self, tokens: float, seconds: float) -> None:
        """Take into account that so many tokens took so long."""
        self._tokens = DECAY * self._tokens + tokens
        self._seconds = DECAY * self._seconds + seconds

    def timeout(self, tokens: int) -> float:
        """Seconds that a batch of so many tokens may take."""
        rate = self._seconds / self._tokens if self._tokens else 0.0
        return max(MIN_TIMEOUT, TIMEOUT_FACTOR * rate * tokens)

    def watch(self, id_: int, tokens: int) -> None:
        """Watch a batch that is being sent."""
        self._batches[id_] = _Batch(tokens)
        if self._timer is None:
            self._timer = self._loop.call_later(INTERVAL, self._check_all)

    def forget(self, id_: int) -> None:
        """Stop watching a batch: it is answered, or its caller left."""
        self._batches.pop(id_, None)

    def close(self) -> None:
        """Stop watching: the worker has ended."""
        self._batches.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _check_all(self) -> None:
        for id_, batch in self._batches.items():
            self._check(id_, batch, self._loop.time())
        # Without batches there is nothing to check: the next one starts the timer again.
        self._timer = self._loop.call_later(INTERVAL, self._check_all) if self._batches else None

    def _check(self, id_: int, batch: _Batch, now: float) -> None:
        if batch.begun is None:
            batch.begun = now if self._has_begun(id_) else None
        elif batch.aborted is None:
            if now - batch.begun >= self.timeout(batch.tokens):
                log.warning("batch takes too long", extra={"tokens": batch.tokens})
                batch.aborted = now
                self._abort(id_)
        elif now - batch.aborted >= STOP_TIMEOUT and not self.killed:
            self.killed = True
            self._kill()
