"""A cache of vectors that evicts the least recently used."""

import functools
from collections import OrderedDict
from hashlib import blake2b
from typing import TypeAlias

from embedd.types import TokenIds, Vector

# Bytes that Python needs for an entry besides key and vector.
OVERHEAD = 250

# What a vector depends on: 16 bytes for the model as it computes, then the token ids, which
# include those of a prefix. Plain bytes because 20,000 sequences may be looked up at a time.
CacheKey: TypeAlias = bytes


@functools.lru_cache(64)
def make_fingerprint(*facts: str) -> bytes:
    """Return 16 bytes for a model as it computes: digest, engine, backend, pooling."""
    return blake2b("\0".join(facts).encode(), digest_size=16).digest()


def make_key(fingerprint: bytes, ids: TokenIds) -> CacheKey:
    """Return the key of the sequence *ids*; see `make_fingerprint`."""
    return fingerprint + ids.tobytes()


class VectorCache:
    """A cache of at most *max_bytes* of pooled vectors, as the model computed them.

    They are cut, normalised and quantised after the cache, so that one entry serves all such
    variants of a request. Not thread-safe. ``max_bytes=0`` disables the cache.
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
        """Bytes in use."""
        return self._bytes

    def get(self, key: CacheKey) -> Vector | None:
        """Return the vector, which must not be modified, or None."""
        vector = self._entries.get(key)
        if vector is None:
            self.misses += 1
            return None
        self.hits += 1
        self._entries.move_to_end(key)
        return vector

    def put(self, key: CacheKey, vector: Vector) -> None:
        """Store a copy of *vector*: a view would keep its whole batch in memory."""
        size = _size(key, vector)
        if size > self._max_bytes:
            return
        if (old := self._entries.pop(key, None)) is not None:
            self._bytes -= _size(key, old)
        self._entries[key] = vector.copy()
        self._bytes += size
        while self._bytes > self._max_bytes:
            oldest, evicted = self._entries.popitem(last=False)
            self._bytes -= _size(oldest, evicted)


def _size(key: CacheKey, vector: Vector) -> int:
    return len(key) + vector.nbytes + OVERHEAD
