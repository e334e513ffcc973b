"""Expiry: a model that stays idle for its keep_alive is unloaded."""

import asyncio
import math
from collections.abc import Callable
from typing import Protocol


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

    Attributes:
        keep_alive: Seconds that the model may be idle, ``math.inf`` for ever. A new value
            counts from the next `start`.
    """

    def __init__(self, keep_alive: float) -> None:
        self.keep_alive = keep_alive
        self._timer: asyncio.TimerHandle | None = None
        self._idle_since = 0.0

    def start(self, clock: Clock, expire: Callable[[], object]) -> None:
        """The model is idle from now on: call *expire* after `keep_alive` seconds."""
        self._idle_since = clock.time()
        if not math.isinf(self.keep_alive):
            self._timer = clock.call_later(self.keep_alive, expire)

    def stop(self) -> None:
        """The model is used again, or being unloaded."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def seconds_left(self, clock: Clock) -> float:
        """Return the seconds until it expires, `keep_alive` while it is in use."""
        if self._timer is None:
            return self.keep_alive
        return self._idle_since + self.keep_alive - clock.time()
