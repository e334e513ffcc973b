"""Stops a call that takes far too long, and ends a worker that does not stop it."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from embedd.metrics import DeathReason

log = logging.getLogger(__name__)

MIN_TIMEOUT = 5.0  # seconds that every batch may take
TIMEOUT_FACTOR = 20.0  # times the seconds that its tokens should take
TOKENIZER_TIMEOUT = 30.0  # seconds that every tokenizer call may take
SLOWEST_TOKENIZER = 1e-4  # seconds for each character or token, of which an ordinary one takes 1 %
STOP_TIMEOUT = 2.0  # seconds between the order to stop and SIGKILL
DECAY = 0.9  # share of a measurement that is left when the next one comes


@dataclass(slots=True, eq=False, kw_only=True)
class Watched:
    """A call that was sent to the worker.

    Args:
        what: It does, for messages.
        limit: Returns the seconds that it may take.
        stop: Asks the worker to stop it.

    Attributes:
        seconds: Since it began, as far as they were checked.
        idle: Of them those in which the worker used no processor.
        stopped: The seconds when it was asked to stop; None before.
    """

    what: str
    limit: Callable[[], float]
    stop: Callable[[], None]
    has_begun: bool = False
    seconds: float = 0.0
    idle: float = 0.0
    stopped: float | None = None

    @property
    def is_external(self) -> bool:
        """Whether the worker was stopped from outside for most of the time."""
        return 2 * self.idle > self.seconds


class Watchdog:
    """Watches the batches and tokenizer calls of one worker.

    A batch may take twenty times what its tokens should, at least five seconds, counted from
    when it began to compute.

    Args:
        has_begun: Whether the worker works on the call with this id.
        end: Ends the worker process, for a reason and a cause in words.

    Attributes:
        culprits: The calls for which it has ended the worker.
    """

    def __init__(
        self, *, has_begun: Callable[[int], bool], end: Callable[[DeathReason, str], None]
    ) -> None:
        self._has_begun = has_begun
        self._end = end
        self._calls: dict[int, Watched] = {}
        self._tokens = 0.0
        self._seconds = 0.0
        self.culprits: frozenset[int] = frozenset()

    def learn(self, tokens: float, seconds: float) -> None:
        """Take into account that so many tokens took so long."""
        self._tokens = DECAY * self._tokens + tokens
        self._seconds = DECAY * self._seconds + seconds

    def timeout(self, tokens: int) -> float:
        """Seconds that a batch of so many tokens may take."""
        rate = self._seconds / self._tokens if self._tokens else 0.0
        return max(MIN_TIMEOUT, TIMEOUT_FACTOR * rate * tokens)

    def watch_batch(self, id_: int, tokens: int, stop: Callable[[], None]) -> None:
        """Watch a batch that is being sent."""
        self._calls[id_] = Watched(what="a batch", limit=lambda: self.timeout(tokens), stop=stop)

    def watch_tokenizing(self, id_: int, size: int, stop: Callable[[], None]) -> None:
        """Watch a tokenizer call, of so many characters or tokens, that is being sent."""
        limit = max(TOKENIZER_TIMEOUT, SLOWEST_TOKENIZER * size)
        self._calls[id_] = Watched(what="a tokenizer call", limit=lambda: limit, stop=stop)

    def find(self, id_: int) -> Watched | None:
        """Return the call *id_*, if it is watched."""
        return self._calls.get(id_)

    def forget(self, id_: int) -> None:
        """Stop watching a call: it is answered, or its caller left."""
        self._calls.pop(id_, None)

    def check(self, seconds: float, *, idle: bool) -> None:
        """Look at all calls, *seconds* after the last time.

        Args:
            idle: Whether the worker used no processor since then.
        """
        for id_, call in self._calls.items():
            self._check(id_, call, seconds, idle=idle)
        stopped = {id_: call for id_, call in self._calls.items() if call.stopped is not None}
        for call in stopped.values():
            if call.seconds - (call.stopped or 0.0) >= STOP_TIMEOUT and not self.culprits:
                self.culprits = frozenset(stopped)
                reason = DeathReason.STOPPED if call.is_external else DeathReason.STUCK
                self._end(reason, f"it did not stop {call.what} that took too long")

    def _check(self, id_: int, call: Watched, seconds: float, *, idle: bool) -> None:
        if not call.has_begun:
            call.has_begun = self._has_begun(id_)
            return
        call.seconds += seconds
        call.idle += seconds * idle
        if call.stopped is None and call.seconds >= call.limit():
            log.warning("call takes too long", extra={"call": call.what})
            call.stopped = call.seconds
            call.stop()
