"""The time that a run has left."""

import time
from collections.abc import Callable
from typing import Final

LEAST: Final = 5.0  # seconds that every stage may try


class Clock:
    """Counts *seconds* from now on.

    Args:
        now: The time in seconds.
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._start = now()
        self._seconds = seconds

    @property
    def passed(self) -> float:
        """Seconds since the start."""
        return self._now() - self._start

    @property
    def left(self) -> float:
        """Seconds to the end, never less than none."""
        return max(0.0, self._seconds - self.passed)

    def limit(self, seconds: float) -> float:
        """Return the seconds that a step of at most *seconds* may take."""
        return max(LEAST, min(seconds, self.left))

    def say(self, text: str) -> None:
        """Print *text* with the time."""
        print(f"[{self.passed:6.1f} s] {text}", flush=True)
