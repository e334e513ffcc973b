"""Computes equal sequences once: within a request, beside others, and later."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import numpy as np

from embedd.cache import CacheKey, VectorCache, make_key
from embedd.engine.serving.queue import Outcome
from embedd.errors import EngineError
from embedd.metrics import VectorSource
from embedd.types import TokenIds, Vector

Compute = Callable[[Sequence[TokenIds]], Awaitable[Outcome]]

# A request joins what another computes only if that one is this small: it must not wait
# for the end of a large one.
JOINED_SEQUENCES = 8


class Reuse:
    """Stands before a model's queue and asks it only for what nobody knows.

    Args:
        cache: Of vectors computed before; shared by all models.
    """

    def __init__(self, cache: VectorCache) -> None:
        self._cache = cache
        self._under_way: dict[CacheKey, asyncio.Future[Vector]] = {}

    async def embed(self, sequences: Sequence[TokenIds], maker: bytes, compute: Compute) -> Outcome:
        """Vectors of *sequences*, computed by *compute* where they must be.

        Args:
            maker: What vectors depend on besides the ids; see `embedd.cache.make_maker`.

        Raises:
            EmbeddError: Of *compute*; ``index`` counts in *sequences*.
        """
        keys = [make_key(maker, ids) for ids in sequences]
        rows: dict[CacheKey, int] = {}
        for row, key in enumerate(keys):
            rows.setdefault(key, row)
        vectors = {key: known for key in rows if (known := self._cache.get(key)) is not None}
        cached = len(vectors)
        joined = {
            key: self._under_way[key]
            for key in rows
            if key not in vectors and key in self._under_way
        }
        missing = {key: row for key, row in rows.items() if key not in vectors | joined}
        joinable = len(missing) <= JOINED_SEQUENCES
        outcome = await self._compute(sequences, missing, vectors, compute, joinable=joinable)
        if outcome is not None and len(missing) == len(keys):
            return outcome
        left_over = await _join(joined, vectors)
        retried = {key: rows[key] for key in left_over}
        # Many may be left by one: each computes for himself, none waits for another again.
        again = await self._compute(sequences, retried, vectors, compute, joinable=False)
        outcomes = [one for one in (outcome, again) if one is not None]
        return Outcome(
            vectors=np.stack([vectors[key] for key in keys]),
            queue=sum(one.queue for one in outcomes),
            compute=sum(one.compute for one in outcomes),
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
    ) -> Outcome | None:
        """Compute *rows* into *vectors* and the cache; others may wait for it if *joinable*."""
        if not rows:
            return None
        loop = asyncio.get_running_loop()
        futures: dict[CacheKey, asyncio.Future[Vector]] = {
            key: loop.create_future() for key in (rows if joinable else ())
        }
        self._under_way.update(futures)
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
                del self._under_way[key]
                future.cancel()  # of no effect on those with a result
        return outcome


async def _join(
    joined: Mapping[CacheKey, asyncio.Future[Vector]], vectors: dict[CacheKey, Vector]
) -> list[CacheKey]:
    """Wait for what others compute; the keys that they failed or left."""
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
    """*error* about the n-th computed sequence, as one about the request's own input."""
    if error.index is None or rows[error.index] == error.index:
        return error
    row = rows[error.index]
    text = str(error).replace(f"(input {error.index})", f"(input {row})")
    return EngineError(text, index=row)
