"""Inputs that end the process which computes them, remembered for as long as the server runs."""

from collections import OrderedDict
from hashlib import blake2b

from embedd.types import Pooling, TokenIds

MAX_REMEMBERED = 10_000


class Poison:
    """Inputs of one model that were proved to be at fault: each alone, in a worker of its own."""

    def __init__(self) -> None:
        self._reasons: OrderedDict[bytes, str] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._reasons)

    def add(self, ids: TokenIds, pooling: Pooling | None, reason: str) -> None:
        """*reason* is what its next caller is told; the oldest are forgotten first."""
        self._reasons[_digest(ids, pooling)] = reason
        if len(self._reasons) > MAX_REMEMBERED:
            self._reasons.popitem(last=False)

    def find(self, ids: TokenIds, pooling: Pooling | None) -> str | None:
        """Why the input cannot be computed, or None."""
        return self._reasons.get(_digest(ids, pooling))


def _digest(ids: TokenIds, pooling: Pooling | None) -> bytes:
    # A digest, because an input may have thousands of tokens.
    return blake2b(ids.tobytes() + (pooling or "").encode(), digest_size=16).digest()
