"""Test doubles: small, readable, in the place of slow or real things."""

import heapq
import itertools
from collections.abc import Callable


class Timer:
    """A timer of `Clock`."""

    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """Time that a test moves by hand; keeps `embedd.scheduler.residents.Clock`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, Timer, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> Timer:
        timer = Timer()
        entry = (self.now + delay, next(self._order), timer, lambda: callback(*args))
        heapq.heappush(self._timers, entry)
        return timer

    def advance(self, seconds: float) -> None:
        """Move on and fire what is due, in order."""
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            self.now, _, timer, callback = heapq.heappop(self._timers)
            if not timer.cancelled:
                callback()
        self.now = end
