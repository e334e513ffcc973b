"""The choice of the next batch: within its limits, fair, and never nothing."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedd.engine.padding import is_alike, round_length
from embedd.engine.serving.batcher import BULK_TURN, Batcher, Waiting
from embedd.types import Pooling


@dataclass(slots=True, eq=False, kw_only=True)
class Request(Waiting):
    """A request that tests can name."""

    name: str = ""


def make(name: str, lengths: Sequence[int]) -> Request:
    return Request(name=name, lengths=lengths, pooling=None)


REQUESTS = st.lists(
    st.builds(
        Request,
        lengths=st.lists(st.integers(1, 600), min_size=1, max_size=12),
        pooling=st.sampled_from([None, Pooling.NONE]),
    ),
    min_size=1,
    max_size=8,
)
TOKENS, SEQUENCES = st.integers(1, 512), st.integers(1, 32)


def fill(*requests: Request) -> Batcher[Request]:
    batcher: Batcher[Request] = Batcher()
    for request in requests:
        batcher.add(request)
    return batcher


def drain(
    batcher: Batcher[Request], max_tokens: int, max_sequences: int
) -> list[list[tuple[Request, int]]]:
    batches = []
    while batcher:
        batches.append(batcher.take_batch(max_tokens=max_tokens, max_sequences=max_sequences).items)
    return batches


@settings(max_examples=40)
@given(requests=REQUESTS, max_tokens=TOKENS, max_sequences=SEQUENCES)
def test_every_batch_keeps_its_limits(
    requests: list[Request], max_tokens: int, max_sequences: int
) -> None:
    """At most so many sequences and tokens; a longer sequence runs alone; poolings do not mix."""
    batches = drain(fill(*requests), max_tokens, max_sequences)
    assert batches
    for batch in batches:
        assert 1 <= len(batch) <= max_sequences
        assert len(batch) == 1 or sum(one.lengths[row] for one, row in batch) <= max_tokens
        assert len({one.pooling for one, _ in batch}) == 1


@settings(max_examples=40)
@given(requests=REQUESTS, max_tokens=TOKENS, max_sequences=SEQUENCES)
def test_every_sequence_is_taken_once_and_in_order(
    requests: list[Request], max_tokens: int, max_sequences: int
) -> None:
    batcher = fill(*requests)
    taken: dict[Request, list[int]] = {request: [] for request in requests}
    for batch in drain(batcher, max_tokens, max_sequences):
        for request, row in batch:
            taken[request].append(row)
    assert all(rows == list(range(len(request.lengths))) for request, rows in taken.items())
    assert batcher.tokens == 0


@settings(max_examples=40)
@given(requests=REQUESTS, gone=st.data(), max_tokens=TOKENS, max_sequences=SEQUENCES)
def test_a_request_that_leaves_is_forgotten_and_no_other(
    requests: list[Request], gone: st.DataObject, max_tokens: int, max_sequences: int
) -> None:
    batcher = fill(*requests)
    batcher.take_batch(max_tokens=max_tokens, max_sequences=max_sequences)
    leaving = gone.draw(st.sampled_from(requests))
    batcher.remove(leaving)
    batcher.remove(leaving)
    assert leaving not in list(batcher)
    left = drain(batcher, max_tokens, max_sequences)
    assert batcher.tokens == 0
    assert leaving not in {request for batch in left for request, _ in batch}


def test_a_short_query_passes_the_tail_of_a_large_request() -> None:
    large, query = make("large", [4] * 100), make("query", [4])
    batcher = fill(large)
    batcher.take_batch(max_tokens=8, max_sequences=8)
    batcher.add(query)
    batch = batcher.take_batch(max_tokens=8, max_sequences=8)
    assert batch.items[0] == (query, 0)
    assert batch.urgent


def test_the_tail_of_a_large_request_is_not_urgent() -> None:
    batcher = fill(make("large", [4] * 100))
    urgent = [batcher.take_batch(max_tokens=8, max_sequences=8).urgent for _ in range(3)]
    assert urgent == [True, False, False]


def test_bulk_goes_on_however_many_short_queries_come() -> None:
    batcher = fill(make("large", [8] * 100))
    batcher.take_batch(max_tokens=8, max_sequences=8)
    bulk = 0
    for turn in range(5 * BULK_TURN):
        batcher.add(make(f"query {turn}", [8]))
        batch = batcher.take_batch(max_tokens=8, max_sequences=8)
        bulk += batch.items[0][0].name == "large"
    assert bulk == 5


def test_large_requests_take_turns() -> None:
    batcher = fill(make("a", [4] * 50), make("b", [4] * 50))
    drained = [name for batch in drain(batcher, 8, 8)[4:20] for name in {r.name for r, _ in batch}]
    assert drained.count("a") == drained.count("b")


def test_a_short_query_is_not_made_to_wait_for_bulk_in_its_own_batch() -> None:
    large, query = make("large", [2] * 50), make("query", [2])
    batcher = fill(large)
    batcher.take_batch(max_tokens=8, max_sequences=8)
    batcher.add(query)
    batch = batcher.take_batch(max_tokens=8, max_sequences=8)
    assert [request.name for request, _ in batch.items] == ["query"]


@pytest.mark.parametrize("count", [1, 3])
def test_tokens_are_counted_until_they_are_taken(count: int) -> None:
    batcher = fill(*(make(str(n), [5, 6]) for n in range(count)))
    assert batcher.tokens == 11 * count
    assert batcher.is_urgent


def drain_padded(
    batcher: Batcher[Request], max_tokens: int, max_sequences: int
) -> list[list[tuple[Request, int]]]:
    batches = []
    while batcher:
        batch = batcher.take_batch(max_tokens=max_tokens, max_sequences=max_sequences, padded=True)
        batches.append(batch.items)
    return batches


def padded_cost(batch: Sequence[tuple[Request, int]]) -> int:
    return len(batch) * round_length(max(request.lengths[row] for request, row in batch))


@settings(max_examples=60)
@given(requests=REQUESTS, max_tokens=TOKENS, max_sequences=SEQUENCES)
def test_a_padded_batch_keeps_its_limits_padding_included(
    requests: list[Request], max_tokens: int, max_sequences: int
) -> None:
    batches = drain_padded(fill(*requests), max_tokens, max_sequences)
    assert batches
    for batch in batches:
        lengths = [request.lengths[row] for request, row in batch]
        assert 1 <= len(batch) <= max_sequences
        assert len(batch) == 1 or padded_cost(batch) <= max_tokens
        assert len({request.pooling for request, _ in batch}) == 1
        assert all(is_alike(length, max(lengths)) for length in lengths)


@settings(max_examples=60)
@given(requests=REQUESTS, max_tokens=TOKENS, max_sequences=SEQUENCES, packed=st.data())
def test_every_sequence_is_taken_once_also_when_padding_begins_or_ends(
    requests: list[Request], max_tokens: int, max_sequences: int, packed: st.DataObject
) -> None:
    """A worker that dies may be replaced by one whose engine does not pad."""
    batcher = fill(*requests)
    taken: list[tuple[Request, int]] = []
    while batcher:
        padded = packed.draw(st.booleans())
        batch = batcher.take_batch(
            max_tokens=max_tokens, max_sequences=max_sequences, padded=padded
        )
        assert batch.tokens == sum(one.lengths[row] for one, row in batch.items)
        taken += batch.items
    everything = [(one, row) for one in requests for row in range(len(one.lengths))]
    assert len(taken) == len(everything)
    assert set(taken) == set(everything)
    assert batcher.tokens == 0


def test_sixty_four_passages_of_mixed_lengths_waste_little_on_padding() -> None:
    """In the order of the request every batch would hold a long one: half would be padding."""
    pick = random.Random(3)
    lengths = [pick.randint(8, 256) for _ in range(64)]
    batches = drain_padded(fill(make("passages", lengths)), 1024, 128)
    padded = sum(map(padded_cost, batches))
    assert 1 - sum(lengths) / padded <= 0.12
    assert len(batches) <= 16


def test_every_request_has_its_turn_whatever_fits_together() -> None:
    """A short text among long ones that fill every batch between them."""
    short = make("short", [8])
    batcher = fill(make("a", [200] * 40), short, make("b", [200] * 40))
    first = batcher.take_batch(max_tokens=1024, max_sequences=128, padded=True)
    assert [request.name for request, _ in first.items] == ["a", "b", "a", "b"]
    second = batcher.take_batch(max_tokens=1024, max_sequences=128, padded=True)
    assert second.items == [(short, 0)]


def test_large_padded_requests_take_turns() -> None:
    batcher = fill(make("a", [40] * 50), make("b", [40] * 50))
    drained = [one.name for batch in drain_padded(batcher, 320, 8)[:10] for one, _ in batch]
    assert abs(drained.count("a") - drained.count("b")) <= 2
