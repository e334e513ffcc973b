"""The vector cache: its limit, its order, and that a hit is the stored vector."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedd.cache import OVERHEAD, VectorCache, make_fingerprint, make_key
from embedd.types import TokenIds, Vector

VECTOR = np.array([1, 2], np.float32)
MODEL = make_fingerprint("model")


def to_ids(*ids: int) -> TokenIds:
    return np.array(ids, np.int32)


def size_of(count: int) -> int:
    """Bytes of so many entries with one token each."""
    return count * (len(MODEL) + 4 + VECTOR.nbytes + OVERHEAD)


def test_what_was_put_is_found_until_it_is_the_least_recently_used() -> None:
    cache = VectorCache(size_of(2))
    first, second, third = (make_key(MODEL, to_ids(n)) for n in (1, 2, 3))
    cache.put(first, VECTOR)
    cache.put(second, VECTOR)
    assert cache.get(first) is not None
    cache.put(third, VECTOR)
    assert cache.get(second) is None
    assert cache.get(first) is not None
    assert cache.get(third) is not None
    assert (cache.hits, cache.misses) == (3, 1)


def test_models_poolings_and_backends_do_not_share_vectors() -> None:
    cache = VectorCache(1 << 20)
    cache.put(make_key(make_fingerprint("a", "llama"), to_ids(1)), VECTOR)
    assert cache.get(make_key(make_fingerprint("a", "llama-no-repack"), to_ids(1))) is None


def test_a_vector_is_kept_as_it_was() -> None:
    batch = np.ones((4, 2), np.float32)
    cache, key = VectorCache(1 << 20), make_key(MODEL, to_ids(1))
    cache.put(key, batch[0])
    batch[:] = 9
    kept = cache.get(key)
    assert kept is not None
    assert kept.tolist() == [1, 1]
    assert kept.base is None, "the whole batch would stay in memory"


def test_a_cache_of_zero_bytes_stores_nothing() -> None:
    cache, key = VectorCache(0), make_key(MODEL, to_ids(1))
    cache.put(key, VECTOR)
    assert cache.get(key) is None
    assert len(cache) == 0


@given(puts=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 40))), limit=st.integers(0, 4000))
def test_a_cache_never_takes_more_bytes_than_its_limit(
    puts: list[tuple[int, int]], limit: int
) -> None:
    cache = VectorCache(limit)
    last: dict[int, Vector] = {}
    for number, width in puts:
        vector = np.full(width, number, np.float32)
        cache.put(make_key(MODEL, to_ids(number)), vector)
        last[number] = vector
        assert cache.size <= limit
    found = {number: cache.get(make_key(MODEL, to_ids(number))) for number in last}
    kept = [vector for vector in found.values() if vector is not None]
    assert cache.size == sum(len(MODEL) + 4 + vector.nbytes + OVERHEAD for vector in kept)
    assert all(vector is None or vector[0] == number for number, vector in found.items())
