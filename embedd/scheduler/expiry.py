"""Expiry: a model that stays idle for its keep_alive is unloaded."""

import asyncio
import math
from collections.abc import Callable
from typing import Final, Protocol

RESOLUTION: Final = 0.01  # seconds by which a timer may end too early


class Clock(Protocol):
    """Time in seconds and timers; an event loop is one."""

    def time(self) -> float:
        """Return the present time."""
        ...

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: object
    ) -> asyncio.TimerHandle:
        """Call *callback* after *delay* seconds, unless the timer is cancelled before."""
        ...


class Expiry:
    """The keep_alive of one loaded model.

    A timer that runs goes on while the model is used, and is set anew when it has run out: a
    request neither makes one nor cancels one.

    Attributes:
        keep_alive: Seconds that the model may be idle, ``math.inf`` for ever. A new value
            counts from the next `start`.
    """

    def __init__(self, keep_alive: float) -> None:
        self.keep_alive = keep_alive
        self._timer: asyncio.TimerHandle | None = None
        self._ends = 0.0  # of the timer
        self._idle_since: float | None = None  # None while it is used

    def start(self, clock: Clock, expire: Callable[[], object]) -> None:
        """The model is idle from now on: call *expire* after `keep_alive` seconds."""
        self._idle_since = clock.time()
        if self._timer is None or self._idle_since + self.keep_alive < self._ends:
            self._set_timer(clock, self.keep_alive, expire)

    def hold(self) -> None:
        """The model is used: it does not expire before `start` is called again."""
        self._idle_since = None

    def stop(self) -> None:
        """The model is being unloaded."""
        self._idle_since = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def seconds_left(self, clock: Clock) -> float:
        """Return the seconds until it expires, `keep_alive` while it is in use."""
        if self._idle_since is None:
            return self.keep_alive
        return self._idle_since + self.keep_alive - clock.time()

    def _set_timer(self, clock: Clock, seconds: float, expire: Callable[[], object]) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not math.isinf(seconds):
            self._ends = clock.time() + seconds
            self._timer = clock.call_later(seconds, self._look, clock, expire)

    def _look(self, clock: Clock, expire: Callable[[], object]) -> None:
        self._timer = None
        if self._idle_since is None:
            return
        left = self.seconds_left(clock)
        if left > RESOLUTION:
            self._set_timer(clock, left, expire)
        else:
            expire()
