"""Vectors that were computed before, the least recently used forgotten first."""

from collections import OrderedDict
from hashlib import blake2b
from typing import TypeAlias

from embedd.types import TokenIds, Vector

# What Python keeps beside key and vector: two objects and the entry.
OVERHEAD = 250

# What a vector depends on: 16 bytes for who makes it, then the token ids. A prefix needs no
# place of its own, it is part of the ids. Plain bytes: of 20,000 sequences at once each is
# looked up several times.
CacheKey: TypeAlias = bytes


def make_maker(*facts: str) -> bytes:
    """A model as it computes: digest, engine, backend, pooling."""
    return blake2b("\0".join(facts).encode(), digest_size=16).digest()


def make_key(maker: bytes, ids: TokenIds) -> CacheKey:
    """The key of a sequence."""
    return maker + ids.tobytes()


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
    return len(key) + vector.nbytes + OVERHEAD
