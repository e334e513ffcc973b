"""Deduplication: each distinct sequence is computed once, within and across requests."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import numpy as np

from embedd.cache import CacheKey, VectorCache, make_key
from embedd.errors import EngineError
from embedd.types import EmbedResult, Timings, TokenIds, Vector, VectorSource

Compute = Callable[[Sequence[TokenIds]], Awaitable[EmbedResult]]

# A request waits for a sequence that another request is computing only if that request
# computes at most this many: it must not wait until a large one is finished.
MAX_JOINABLE_SEQUENCES = 8


class Deduplicator:
    """Pass only new sequences on to a model's queue.

    The others are equal to a sequence of the same request, in the cache, or being computed
    for another request.

    Args:
        cache: Vectors computed earlier; shared by all models.
    """

    def __init__(self, cache: VectorCache) -> None:
        self._cache = cache
        self._in_flight: dict[CacheKey, asyncio.Future[Vector]] = {}

    async def embed(
        self, sequences: Sequence[TokenIds], fingerprint: bytes, compute: Compute
    ) -> EmbedResult:
        """Return the vectors of *sequences*; *compute* is called with the new ones only.

        Args:
            fingerprint: What vectors depend on besides the ids, see `make_fingerprint`.

        Raises:
            EmbeddError: Raised by *compute*; ``index`` is a position in *sequences*.
        """
        keys = [make_key(fingerprint, ids) for ids in sequences]
        rows: dict[CacheKey, int] = {}
        for row, key in enumerate(keys):
            rows.setdefault(key, row)
        vectors = {key: known for key in rows if (known := self._cache.get(key)) is not None}
        cached = len(vectors)
        joined = {
            key: self._in_flight[key]
            for key in rows
            if key not in vectors and key in self._in_flight
        }
        missing = {key: row for key, row in rows.items() if key not in vectors | joined}
        joinable = len(missing) <= MAX_JOINABLE_SEQUENCES
        outcome = await self._compute(sequences, missing, vectors, compute, joinable=joinable)
        if outcome is not None and len(missing) == len(keys):
            return outcome
        left_over = await _join(joined, vectors)
        retried = {key: rows[key] for key in left_over}
        # One request that failed may leave many waiting: each of them computes for itself now
        # and waits for no other request again.
        again = await self._compute(sequences, retried, vectors, compute, joinable=False)
        outcomes = [one for one in (outcome, again) if one is not None]
        return EmbedResult(
            vectors=np.stack([vectors[key] for key in keys]),
            tokens=list(map(len, sequences)),
            timings=Timings(
                queue=sum(one.timings.queue for one in outcomes),
                compute=sum(one.timings.compute for one in outcomes),
            ),
            reused={
                VectorSource.CACHE: cached,
                VectorSource.JOINED: len(joined) - len(retried),
                VectorSource.EQUAL: len(keys) - len(rows),
            },
        )

    async def _compute(
        self,
        sequences: Sequence[TokenIds],
        rows: Mapping[CacheKey, int],
        vectors: dict[CacheKey, Vector],
        compute: Compute,
        *,
        joinable: bool,
    ) -> EmbedResult | None:
        """Compute *rows*, add the results to *vectors* and the cache; None without rows.

        If *joinable*, other requests may wait for these results.
        """
        if not rows:
            return None
        loop = asyncio.get_running_loop()
        futures: dict[CacheKey, asyncio.Future[Vector]] = {
            key: loop.create_future() for key in (rows if joinable else ())
        }
        self._in_flight.update(futures)
        try:
            outcome = await compute([sequences[row] for row in rows.values()])
            for key, vector in zip(rows, outcome.vectors, strict=True):
                vectors[key] = vector
                self._cache.put(key, vector)
                if key in futures:
                    futures[key].set_result(vector)
        except EngineError as error:
            raise _renumbered(error, list(rows.values())) from error
        finally:
            for key, future in futures.items():
                del self._in_flight[key]
                future.cancel()  # no effect on futures that have a result
        return outcome


async def _join(
    joined: Mapping[CacheKey, asyncio.Future[Vector]], vectors: dict[CacheKey, Vector]
) -> list[CacheKey]:
    """Wait for other requests' results; return the keys of those that failed or left."""
    if joined:
        await asyncio.wait(joined.values())
    left_over = []
    for key, future in joined.items():
        if future.cancelled():
            left_over.append(key)
        else:
            vectors[key] = future.result()
    return left_over


def _renumbered(error: EngineError, rows: Sequence[int]) -> EngineError:
    """Return *error* with the input's position in the request, not in the computed batch."""
    if error.index is None or rows[error.index] == error.index:
        return error
    row = rows[error.index]
    text = str(error).replace(f"(input {error.index})", f"(input {row})")
    return EngineError(text, index=row)
