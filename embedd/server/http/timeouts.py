"""How long a client may make no progress."""

from dataclasses import dataclass

from aiohttp import web


@dataclass(slots=True, kw_only=True)
class Timeouts:
    """Seconds that a client may make no progress; ``math.inf`` is for ever.

    Args:
        head: From the first byte of a request to the end of its headers.
        body: Without a further byte of the body.
        write: Without reading a further byte of the answer.
    """

    head: float = 15.0
    body: float = 30.0
    write: float = 60.0

    def shorten(self, limit: float) -> None:
        """Make all of them at most *limit*, for waits that have begun too."""
        self.head = min(self.head, limit)
        self.body = min(self.body, limit)
        self.write = min(self.write, limit)


TIMEOUTS = web.AppKey("timeouts", Timeouts)
