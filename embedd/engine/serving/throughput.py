"""How fast a model computes while more waits, as the base of expected waits."""

from typing import Final

START_RATE: Final = 1000.0  # tokens a second, assumed until something was measured
HALF_LIFE: Final = 2.0  # seconds of computing after which a measurement counts half
LONGEST_INTERVAL: Final = 4 * HALF_LIFE  # one slow batch does not outweigh all others for long
FRESH: Final = 10.0  # seconds for which a measurement can refuse work that nothing is ahead of


class Throughput:
    """Tokens a second of all replicas together, measured from one finished batch to the next.

    Only intervals in which something waited all the time count: then batches are as full as they
    can be, and a model with few requests is not taken for a slow one.
    """

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0
        self._since: float | None = None  # start of the interval; None if nothing waited then
        self._measured: float | None = None  # when the last interval ended

    @property
    def rate(self) -> float:
        """Tokens a second, `START_RATE` if it is not known."""
        return self._tokens / self._seconds if self._seconds > 0 else START_RATE

    def is_fresh(self, now: float) -> bool:
        """Whether the rate was measured a moment ago."""
        return self._measured is not None and now - self._measured <= FRESH

    def finished(self, tokens: int, now: float, *, waits: bool) -> None:
        """Count a batch of *tokens*, which ends an interval and starts the next one.

        Args:
            waits: Whether anything waits for a batch now.
        """
        if self._since is not None and now > self._since:
            seconds = min(now - self._since, LONGEST_INTERVAL)
            kept = 0.5 ** (seconds / HALF_LIFE)
            self._tokens = kept * self._tokens + tokens
            self._seconds = kept * self._seconds + seconds
            self._measured = now
        self._since = now if waits else None

    def started(self, now: float) -> None:
        """Start an interval unless one runs: a batch was sent and more waits."""
        if self._since is None:
            self._since = now

    def interrupt(self) -> None:
        """Forget the present interval: the worker is replaced in it."""
        self._since = None
