"""Vectors that were computed before, the least recently used forgotten first."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from embedd.types import TokenIds, Vector

# What Python keeps beside key and vector: two objects, the entry, the tuple.
OVERHEAD = 300


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What a vector depends on: the model as it computes, and the token ids.

    ``maker`` names digest, engine, rung and pooling. A prefix needs no place of its own:
    it is part of the ids.
    """

    maker: Hashable
    ids: bytes


def make_key(maker: Hashable, ids: TokenIds) -> CacheKey:
    """The key of a sequence."""
    return CacheKey(maker, ids.tobytes())


class VectorCache:
    """At most *max_bytes* of pooled vectors, before cutting, scaling and quantising.

    One entry so serves every variant of a request. Not for several threads. 0 turns the
    cache off.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[CacheKey, Vector] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """Bytes taken."""
        return self._bytes

    def get(self, key: CacheKey) -> Vector | None:
        """The vector, which must not be changed; None if it is not there."""
        vector = self._entries.get(key)
        if vector is None:
            self.misses += 1
            return None
        self.hits += 1
        self._entries.move_to_end(key)
        return vector

    def put(self, key: CacheKey, vector: Vector) -> None:
        """Remember a copy of *vector*: a view would keep its whole batch in memory."""
        size = _size(key, vector)
        if size > self._max_bytes:
            return
        if (old := self._entries.pop(key, None)) is not None:
            self._bytes -= _size(key, old)
        self._entries[key] = vector.copy()
        self._bytes += size
        while self._bytes > self._max_bytes:
            oldest, forgotten = self._entries.popitem(last=False)
            self._bytes -= _size(oldest, forgotten)


def _size(key: CacheKey, vector: Vector) -> int:
    return len(key.ids) + vector.nbytes + OVERHEAD
