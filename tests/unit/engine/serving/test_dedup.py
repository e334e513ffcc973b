"""Equal sequences are computed once: within a request, beside others, and later."""

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from embedd.cache import VectorCache, make_fingerprint
from embedd.engine.serving import dedup as module
from embedd.engine.serving.dedup import MAX_JOINABLE_SEQUENCES, Deduplicator, Source
from embedd.errors import EngineError
from embedd.types import ComputedBy, EmbedResult, Timings, TokenIds, Vector, Vectors, VectorSource
from tests.fakes import settle
from tests.unit.engine.fake_worker import expected_vectors, to_ids

CACHE, JOINED, EQUAL = VectorSource
A, B, C = to_ids(1), to_ids(2, 2), to_ids(3, 3, 3)


FIRST, FALLBACK = ComputedBy("openvino", "openvino-bf16"), ComputedBy("llama", "llama")


def make_source(present: ComputedBy = FIRST) -> Source:
    return Source(present=present, fingerprint=lambda by: make_fingerprint(*by))


SOURCE = make_source()


class Queue:
    """Computes what it is asked, when it may, and remembers it."""

    def __init__(self) -> None:
        self.by = FIRST
        self.asked: list[list[int]] = []
        self.may_compute = asyncio.Event()
        self.may_compute.set()
        self.error: EngineError | None = None

    async def compute(self, sequences: Sequence[TokenIds]) -> EmbedResult:
        self.asked.append([int(ids[0]) for ids in sequences])
        await self.may_compute.wait()
        if self.error is not None:
            raise self.error
        return EmbedResult(
            vectors=expected_vectors(sequences),
            computed_by=[self.by] * len(sequences),
            tokens=list(map(len, sequences)),
            timings=Timings(queue=1.0, compute=2.0),
        )


async def embed(dedup: Deduplicator, queue: Queue, *sequences: TokenIds) -> EmbedResult:
    outcome = await dedup.embed(sequences, SOURCE, queue.compute)
    vectors = outcome.vectors if outcome.rows is None else outcome.vectors[outcome.rows]
    assert np.array_equal(vectors, expected_vectors(sequences))
    return outcome


async def test_a_text_that_occurs_twice_in_a_request_is_computed_once() -> None:
    queue = Queue()
    outcome = await embed(Deduplicator(VectorCache(0)), queue, A, B, A, A)
    assert queue.asked == [[1, 2]]
    assert outcome.reused == {CACHE: 0, JOINED: 0, EQUAL: 2}
    assert (outcome.timings.queue, outcome.timings.compute) == (1.0, 2.0)


async def test_a_text_of_an_earlier_request_is_not_computed_again() -> None:
    queue, dedup = Queue(), Deduplicator(VectorCache(1 << 20))
    await embed(dedup, queue, A, B)
    outcome = await embed(dedup, queue, B, C)
    assert queue.asked == [[1, 2], [3]]
    assert outcome.reused == {CACHE: 1, JOINED: 0, EQUAL: 0}
    assert (await embed(dedup, queue, A, B, C)).timings.compute == 0.0
    assert len(queue.asked) == 2


async def test_without_a_cache_it_is_computed_again() -> None:
    queue, dedup = Queue(), Deduplicator(VectorCache(0))
    await embed(dedup, queue, A)
    await embed(dedup, queue, A)
    assert queue.asked == [[1], [1]]


async def test_requests_for_one_text_at_the_same_time_share_the_work() -> None:
    queue, dedup = Queue(), Deduplicator(VectorCache(0))
    queue.may_compute.clear()
    both = asyncio.gather(embed(dedup, queue, A), embed(dedup, queue, A, B))
    await asyncio.sleep(0)
    queue.may_compute.set()
    first, second = await both
    assert queue.asked == [[1], [2]]
    assert not first.reused
    assert second.reused == {CACHE: 0, JOINED: 1, EQUAL: 0}


async def test_a_short_request_does_not_wait_for_a_large_one() -> None:
    queue, dedup = Queue(), Deduplicator(VectorCache(0))
    queue.may_compute.clear()
    large = [to_ids(n) for n in range(MAX_JOINABLE_SEQUENCES + 1)]
    both = asyncio.gather(embed(dedup, queue, *large), embed(dedup, queue, large[0]))
    await asyncio.sleep(0)
    queue.may_compute.set()
    await both
    assert queue.asked[1] == [0]


async def test_a_joined_request_computes_its_own_when_the_other_one_leaves() -> None:
    queue, dedup = Queue(), Deduplicator(VectorCache(0))
    queue.may_compute.clear()
    first = asyncio.create_task(embed(dedup, queue, A))
    await asyncio.sleep(0)
    second = asyncio.create_task(embed(dedup, queue, A))
    await asyncio.sleep(0)
    first.cancel()
    queue.may_compute.set()
    assert (await second).reused == {CACHE: 0, JOINED: 0, EQUAL: 0}
    assert queue.asked == [[1], [1]]


async def test_a_joined_request_does_not_inherit_a_failure() -> None:
    queue, dedup = Queue(), Deduplicator(VectorCache(0))
    queue.may_compute.clear()
    queue.error = EngineError("rubbish")
    first = asyncio.create_task(embed(dedup, queue, A))
    second = asyncio.create_task(embed(dedup, queue, A))
    await asyncio.sleep(0)
    queue.may_compute.set()
    with pytest.raises(EngineError):
        await first
    with pytest.raises(EngineError):
        await second
    assert queue.asked == [[1], [1]]


async def test_the_input_at_fault_is_named_as_the_request_counts() -> None:
    queue, dedup = Queue(), Deduplicator(VectorCache(1 << 20))
    await embed(dedup, queue, A)
    queue.error = EngineError("embedding has zero norm (input 1)", index=1)
    with pytest.raises(EngineError, match=r"\(input 3\)") as caught:
        await embed(dedup, queue, A, B, A, C)
    assert caught.value.index == 3


async def test_equal_sequences_share_one_row() -> None:
    queue = Queue()
    outcome = await Deduplicator(VectorCache(0)).embed([A, B, A] * 1000, SOURCE, queue.compute)
    assert outcome.vectors.shape == (2, 2)
    assert outcome.rows is not None
    assert outcome.rows.tolist() == [0, 1, 0] * 1000


async def test_many_sequences_are_looked_up_once_each() -> None:
    queue, cache = Queue(), VectorCache(1 << 24)
    dedup = Deduplicator(cache)
    sequences = [to_ids(number) for number in range(1, 3001)]
    await dedup.embed(sequences, SOURCE, queue.compute)
    before = cache.hits + cache.misses
    again = await dedup.embed([*sequences, B, B], SOURCE, queue.compute)
    assert cache.hits + cache.misses - before == 3001
    assert again.reused == {CACHE: 3000, JOINED: 0, EQUAL: 1}


async def test_the_vectors_of_a_fallback_are_kept_and_named_as_its_own() -> None:
    """One that took over while the request was computed: the cache was asked for the first."""
    queue, dedup = Queue(), Deduplicator(VectorCache(1 << 20))
    await embed(dedup, queue, A)
    queue.by = FALLBACK
    mixed = await embed(dedup, queue, A, B)
    assert mixed.computed_by == [FIRST, FALLBACK]
    assert queue.asked == [[1], [2]]
    await embed(dedup, queue, B)
    assert queue.asked == [[1], [2], [2]], "it is not a vector of the first backend"
    later = await dedup.embed([B, A], make_source(FALLBACK), queue.compute)
    assert queue.asked == [[1], [2], [2], [1]], "nor is the first one's a vector of the fallback"
    assert later.computed_by == [FALLBACK] * 2


async def test_a_request_that_waits_for_another_learns_what_computed_its_vector() -> None:
    queue, dedup = Queue(), Deduplicator(VectorCache(0))
    queue.by = FALLBACK
    queue.may_compute.clear()
    tasks = [asyncio.create_task(embed(dedup, queue, A)) for _ in range(2)]
    await settle()
    queue.may_compute.set()
    assert [(await task).computed_by for task in tasks] == [[FALLBACK]] * 2
    assert queue.asked == [[1]]


async def test_other_requests_have_their_turn_while_many_texts_are_looked_up_and_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "AT_A_TIME", 2)
    queue, dedup = Queue(), Deduplicator(VectorCache(1 << 20))
    texts = [to_ids(number) for number in range(20)]
    for sequences in (texts, texts, [*texts, *texts]):  # new, known, known and equal
        task = asyncio.create_task(embed(dedup, queue, *sequences))
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        await task
        assert turns >= len(texts) // 2
    assert len(queue.asked) == 1


async def test_many_known_vectors_become_one_array_in_a_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "AT_A_TIME", 3)
    monkeypatch.setattr(module, "QUICK_SEQUENCES", 4)
    threads, stack = set[int](), module._stack

    def watched(vectors: Sequence[Vector]) -> Vectors:
        threads.add(threading.get_ident())
        return stack(vectors)

    monkeypatch.setattr(module, "_stack", watched)
    queue, dedup = Queue(), Deduplicator(VectorCache(1 << 20))
    texts = [to_ids(number) for number in range(20)]
    await embed(dedup, queue, *texts)
    await embed(dedup, queue, *texts)
    assert threads
    assert threading.get_ident() not in threads
