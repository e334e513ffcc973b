"""Inputs that end or hang the worker that computes them, remembered until the server stops."""

from collections import OrderedDict
from hashlib import blake2b

from embedd.engine.host.errors import StuckError, WorkerDiedError
from embedd.errors import EngineError
from embedd.types import Pooling, TokenIds

MAX_REMEMBERED = 10_000


class Quarantine:
    """Inputs of one model that are refused because they ended or hung a worker.

    The queue halves a batch that failed until the input at fault is alone, and isolates that
    one. At most `MAX_REMEMBERED` are kept; the oldest are dropped first.
    """

    def __init__(self) -> None:
        self._reasons: OrderedDict[bytes, str] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._reasons)

    def isolate(self, ids: TokenIds, pooling: Pooling | None, error: EngineError) -> None:
        """Refuse *ids* with *pooling* from now on, if *error* can only be this input's fault.

        Args:
            error: Of a batch that held nothing but this input; its text becomes the message of
                the refusals.
        """
        if not _is_fault_of_input(error):
            return
        self._reasons[_digest(ids, pooling)] = str(error)
        if len(self._reasons) > MAX_REMEMBERED:
            self._reasons.popitem(last=False)

    def find(self, ids: TokenIds, pooling: Pooling | None) -> str | None:
        """Return the reason why *ids* with *pooling* is refused, or None."""
        return self._reasons.get(_digest(ids, pooling))


def _digest(ids: TokenIds, pooling: Pooling | None) -> bytes:
    # An input may have thousands of tokens: 16 bytes stand for it.
    return blake2b(ids.tobytes() + (pooling or "").encode(), digest_size=16).digest()


def _is_fault_of_input(error: EngineError) -> bool:
    """Return whether *error*, of a batch of one input, can only be that input's fault.

    It may not be if another batch was being computed when the worker died, or memory ran out.
    """
    if isinstance(error, WorkerDiedError):
        return error.alone and not error.is_out_of_memory
    return isinstance(error, StuckError)
