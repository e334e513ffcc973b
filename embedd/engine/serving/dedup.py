"""Deduplication: each distinct sequence is computed once, within and across requests."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from embedd.cache import CacheKey, VectorCache, make_key
from embedd.errors import EngineError
from embedd.types import (
    ComputedBy,
    EmbedResult,
    RowNumbers,
    Timings,
    TokenIds,
    Vector,
    Vectors,
    VectorSource,
)

Compute = Callable[[Sequence[TokenIds]], Awaitable[EmbedResult]]
_Computed: TypeAlias = tuple[Vector, ComputedBy]

# A request waits for a sequence that another request is computing only if that request
# computes at most this many: it must not wait until a large one is finished.
MAX_JOINABLE_SEQUENCES = 8


# Sequences that are compared on the event loop, in a millisecond: more are in a thread.
QUICK_SEQUENCES = 1000
AT_A_TIME = 500  # vectors that are looked up or stored between turns of the event loop


@dataclass(frozen=True, slots=True, kw_only=True)
class Distinct:
    """The distinct sequences of a request.

    Args:
        rows: Their keys, each with the number of the first sequence that has it, in order.
        numbers: For each sequence the number of its key in *rows*; None if all are distinct.
    """

    rows: Mapping[CacheKey, int]
    numbers: RowNumbers | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What is expected to compute a request.

    Args:
        present: What computes the model now; a fallback may replace it.
        fingerprint: Returns what vectors depend on besides the ids, see `make_fingerprint`.
    """

    present: ComputedBy
    fingerprint: Callable[[ComputedBy], bytes]


# Vectors that are known, that are being computed, and rows to compute.
_LookedUp: TypeAlias = tuple[
    dict[CacheKey, _Computed], dict[CacheKey, asyncio.Future[_Computed]], dict[CacheKey, int]
]


class Deduplicator:
    """Pass only new sequences on to a model's queue.

    The others are equal to a sequence of the same request, in the cache, or being computed
    for another request.

    Args:
        cache: Vectors computed earlier; shared by all models.
    """

    def __init__(self, cache: VectorCache) -> None:
        self._cache = cache
        self._in_flight: dict[CacheKey, asyncio.Future[_Computed]] = {}

    async def embed(
        self,
        sequences: Sequence[TokenIds],
        source: Source,
        compute: Compute,
        *,
        yields: bool = False,
    ) -> EmbedResult:
        """Return the vectors of *sequences*; *compute* is called with the new ones only.

        Args:
            yields: Whether *compute* lets other requests pass: those do not wait for it then.

        Raises:
            EmbeddError: Raised by *compute*; ``index`` is a position in *sequences*.
        """
        fingerprint = source.fingerprint(source.present)
        if len(sequences) == 1:  # most requests
            key = make_key(fingerprint, sequences[0])
            if key not in self._in_flight:
                return await self._embed_one(key, sequences, source, compute, yields=yields)
        distinct = await _find_distinct_apart(sequences, fingerprint)
        rows = distinct.rows
        vectors, joined, missing = await self._look_up(rows, source.present)
        cached = len(vectors)
        joinable = len(missing) <= MAX_JOINABLE_SEQUENCES and not yields
        work = functools.partial(self._compute, sequences, vectors, source, compute)
        outcome = await work(missing, joinable=joinable) if missing else None
        if outcome is not None and len(missing) == len(sequences):
            return outcome
        left_over = await _join(joined, vectors)
        retried = {key: rows[key] for key in left_over}
        # One request that failed may leave many waiting: each of them computes for itself now
        # and waits for no other request again.
        again = await work(retried, joinable=False) if retried else None
        outcomes = [one for one in (outcome, again) if one is not None]
        return EmbedResult(
            vectors=(
                outcome.vectors
                if outcome is not None and len(missing) == len(rows)
                else await _stack_apart([vectors[key][0] for key in rows])
            ),
            computed_by=[vectors[key][1] for key in rows],
            rows=distinct.numbers,
            tokens=list(map(len, sequences)),
            timings=Timings(
                queue=sum(one.timings.queue for one in outcomes),
                compute=sum(one.timings.compute for one in outcomes),
            ),
            reused={
                VectorSource.CACHE: cached,
                VectorSource.JOINED: len(joined) - len(retried),
                VectorSource.EQUAL: len(sequences) - len(rows),
            },
        )

    async def _embed_one(
        self,
        key: CacheKey,
        sequences: Sequence[TokenIds],
        source: Source,
        compute: Compute,
        *,
        yields: bool,
    ) -> EmbedResult:
        """As `embed`, of one sequence with this *key*, which is not being computed."""
        known = self._cache.get(key)
        if known is None:
            return await self._compute(
                sequences, {}, source, compute, {key: 0}, joinable=not yields
            )
        return EmbedResult(
            vectors=known[np.newaxis],
            computed_by=[source.present],
            tokens=[len(sequences[0])],
            timings=Timings(),
            reused={VectorSource.CACHE: 1},
        )

    async def _look_up(self, rows: Mapping[CacheKey, int], present: ComputedBy) -> _LookedUp:
        """Find which of *rows* are in the cache, are being computed, and are missing.

        Meanwhile other requests are answered: what they compute by then is computed twice.
        """
        vectors: dict[CacheKey, _Computed] = {}
        joined: dict[CacheKey, asyncio.Future[_Computed]] = {}
        missing: dict[CacheKey, int] = {}
        for number, (key, row) in enumerate(rows.items()):
            if number % AT_A_TIME == AT_A_TIME - 1:
                await asyncio.sleep(0)
            if (known := self._cache.get(key)) is not None:
                vectors[key] = (known, present)
            elif key in self._in_flight:
                joined[key] = self._in_flight[key]
            else:
                missing[key] = row
        return vectors, joined, missing

    async def _compute(
        self,
        sequences: Sequence[TokenIds],
        vectors: dict[CacheKey, _Computed],
        source: Source,
        compute: Compute,
        rows: Mapping[CacheKey, int],
        *,
        joinable: bool,
    ) -> EmbedResult:
        """Compute *rows*, of which there is one, and add the results to *vectors* and the cache.

        If *joinable*, other requests may wait for these results.
        """
        loop = asyncio.get_running_loop()
        futures: dict[CacheKey, asyncio.Future[_Computed]] = {
            key: loop.create_future() for key in (rows if joinable else ())
        }
        self._in_flight.update(futures)
        try:
            outcome = await compute([sequences[row] for row in rows.values()])
            computed = zip(rows, outcome.vectors, outcome.computed_by, strict=True)
            for number, (key, vector, by) in enumerate(computed):
                if number % AT_A_TIME == AT_A_TIME - 1:
                    await asyncio.sleep(0)
                vectors[key] = (vector, by)
                self._cache.put(_find_key(key, by, sequences[rows[key]], source), vector)
                if key in futures:
                    futures[key].set_result((vector, by))
        except EngineError as error:
            raise _renumbered(error, list(rows.values())) from error
        finally:
            for key, future in futures.items():
                del self._in_flight[key]
                future.cancel()  # no effect on futures that have a result
        return outcome


def _find_key(key: CacheKey, by: ComputedBy, ids: TokenIds, source: Source) -> CacheKey:
    """Return the key of a vector: not the one it was looked up by if a fallback computed it."""
    return key if by == source.present else make_key(source.fingerprint(by), ids)


async def _find_distinct_apart(sequences: Sequence[TokenIds], fingerprint: bytes) -> Distinct:
    """As `_find_distinct`, of many sequences in a thread."""
    if len(sequences) <= QUICK_SEQUENCES:
        return _find_distinct(sequences, fingerprint)
    return await asyncio.to_thread(_find_distinct, sequences, fingerprint)


def _find_distinct(sequences: Sequence[TokenIds], fingerprint: bytes) -> Distinct:
    known: dict[CacheKey, int] = {}
    numbers: list[int] = []
    firsts: list[int] = []
    for row, ids in enumerate(sequences):
        number = known.setdefault(make_key(fingerprint, ids), len(firsts))
        if number == len(firsts):
            firsts.append(row)
        numbers.append(number)
    rows = dict(zip(known, firsts, strict=True))
    if len(rows) == len(sequences):
        return Distinct(rows=rows, numbers=None)
    return Distinct(rows=rows, numbers=np.array(numbers, np.int32))


async def _stack_apart(vectors: Sequence[Vector]) -> Vectors:
    """Return *vectors* as rows, in a thread if they are many."""
    if len(vectors) <= QUICK_SEQUENCES:
        return np.stack(vectors)
    return await asyncio.to_thread(_stack, vectors)


def _stack(vectors: Sequence[Vector]) -> Vectors:
    stacked = np.empty((len(vectors), len(vectors[0])), np.float32)
    for start in range(0, len(vectors), AT_A_TIME):  # a call holds the interpreter's lock
        part = vectors[start : start + AT_A_TIME]
        np.stack(part, out=stacked[start : start + len(part)])
    return stacked


async def _join(
    joined: Mapping[CacheKey, asyncio.Future[_Computed]], vectors: dict[CacheKey, _Computed]
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
