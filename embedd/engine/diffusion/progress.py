"""What the library's one progress callback means: it counts steps, and later tiles."""

from embedd.engine.image_protocol import Report
from embedd.images import Phase


class Steps:
    """Finds the steps of a picture among the calls, and reports each once and in order.

    The callback is called for the steps ``(0, n) … (n, n)``, by some methods twice for the
    first, and afterwards for the tiles that are decoded.
    """

    def __init__(self, steps: int, report: Report) -> None:
        self._steps = steps
        self._report = report
        self._done = -1

    def take(self, step: int, total: int) -> None:
        """The library has called with these numbers."""
        if self._done == self._steps:
            self._report(Phase.DECODING, self._steps)
        elif total == self._steps and step == self._done + 1:
            self._done = step
            self._report(Phase.SAMPLING, step)
            if step == self._steps:
                self._report(Phase.DECODING, step)
