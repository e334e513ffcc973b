"""The log's warning that inputs are cut: clients seldom look at the header that says so."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from embedd.types import Truncated

log = logging.getLogger(__name__)

INTERVAL: Final = 60.0  # seconds between two warnings about a model


@dataclass(slots=True)
class _Count:
    """What was cut of a model's inputs since the last warning, and when the next is due."""

    due: float = 0.0
    requests: int = 0
    inputs: int = 0


class TruncationLog:
    """Warns of inputs that were cut, of each model at most once in `INTERVAL` seconds.

    Args:
        clock: Seconds, from any start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: dict[str, _Count] = {}

    def note(self, model: str, truncated: Sequence[Truncated]) -> None:
        """Count the inputs of a request that were cut, at least one; warn if that is due."""
        count = self._counts.setdefault(model, _Count(due=self._clock()))
        count.requests += 1
        count.inputs += len(truncated)
        if self._clock() < count.due:
            return
        first = truncated[0]
        log.warning(
            "inputs were cut: embed them in chunks, or send shorter ones",
            extra={
                "model": model,
                "inputs": count.inputs,
                "requests": count.requests,
                "tokens": first.tokens,
                "kept": first.kept,
            },
        )
        self._counts[model] = _Count(due=self._clock() + INTERVAL)
