"""Inputs that end or hang the worker that computes them, remembered until the server stops."""

from collections import OrderedDict
from hashlib import blake2b

from embedd.types import Pooling, TokenIds

MAX_REMEMBERED = 10_000


class Quarantine:
    """Inputs of one model that are refused because they ended or hung a worker.

    An input is added only after it failed alone: as the one sequence that its worker was
    computing. At most `MAX_REMEMBERED` are kept; the oldest are dropped first.
    """

    def __init__(self) -> None:
        self._reasons: OrderedDict[bytes, str] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._reasons)

    def add(self, ids: TokenIds, pooling: Pooling | None, reason: str) -> None:
        """Refuse *ids* with *pooling* from now on; *reason* becomes the error message."""
        self._reasons[_digest(ids, pooling)] = reason
        if len(self._reasons) > MAX_REMEMBERED:
            self._reasons.popitem(last=False)

    def find(self, ids: TokenIds, pooling: Pooling | None) -> str | None:
        """Return the reason why *ids* with *pooling* is refused, or None."""
        return self._reasons.get(_digest(ids, pooling))


def _digest(ids: TokenIds, pooling: Pooling | None) -> bytes:
    # An input may have thousands of tokens: 16 bytes stand for it.
    return blake2b(ids.tobytes() + (pooling or "").encode(), digest_size=16).digest()
