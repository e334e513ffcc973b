"""Inputs that crash or hang the worker that computes them, remembered for some minutes."""

import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

from embedd.engine.host.errors import StuckError, WorkerDiedError
from embedd.errors import EngineError
from embedd.types import Pooling, TokenIds

MAX_REMEMBERED: Final = 10_000
LIFETIME: Final = 600.0  # seconds: a cause that has passed must not refuse an input for ever


class Quarantine:
    """Inputs of one loaded model that are refused because they crashed or hung a worker.

    The queue halves a batch that failed until the input at fault is alone, and isolates that
    one, for `LIFETIME` seconds. At most `MAX_REMEMBERED` are kept; the oldest are dropped first.

    Args:
        now: Time in seconds; tests move it by hand.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        # In order of isolation: (until when, why).
        self._marks: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._marks)

    def isolate(self, ids: TokenIds, pooling: Pooling | None, error: EngineError) -> None:
        """Refuse *ids* with *pooling* from now on, if *error* can only be this input's fault.

        Args:
            error: Of a batch that held nothing but this input; its text becomes the message of
                the refusals.
        """
        if not _is_fault_of_input(error):
            return
        digest = _digest(ids, pooling)
        self._marks.pop(digest, None)
        self._marks[digest] = (self._now() + LIFETIME, str(error))
        if len(self._marks) > MAX_REMEMBERED:
            self._marks.popitem(last=False)

    def find(self, ids: TokenIds, pooling: Pooling | None) -> str | None:
        """Return the reason why *ids* with *pooling* is refused, or None."""
        self._forget_old()
        mark = self._marks.get(_digest(ids, pooling))
        return None if mark is None else mark[1]

    def _forget_old(self) -> None:
        now = self._now()
        while self._marks and next(iter(self._marks.values()))[0] <= now:
            self._marks.popitem(last=False)


def _digest(ids: TokenIds, pooling: Pooling | None) -> bytes:
    # An input may have thousands of tokens: 16 bytes stand for it.
    return blake2b(ids.tobytes() + (pooling or "").encode(), digest_size=16).digest()


def _is_fault_of_input(error: EngineError) -> bool:
    """Return whether *error*, of a batch of one input, can only be that input's fault.

    It may not be if another batch was being computed when the worker died, if memory ran out, or
    if the cause came from outside the worker: then the worker was killed, or it used no processor.
    """
    if isinstance(error, WorkerDiedError):
        return error.alone and not error.is_out_of_memory and not error.is_external
    return isinstance(error, StuckError) and not error.is_external
