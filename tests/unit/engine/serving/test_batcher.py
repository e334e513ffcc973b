"""The choice of the next batch: within its limits, fair, and never nothing."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedd.engine.padding import is_alike, round_length
from embedd.engine.serving.batcher import PATIENCE, Batcher, Waiting, choose_lane
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
        batcher.add(request, max_tokens=8)
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
    batcher.add(query, max_tokens=8)
    batch = batcher.take_batch(max_tokens=8, max_sequences=8)
    assert batch.items[0] == (query, 0)
    assert batch.urgent


def test_a_large_request_is_not_urgent() -> None:
    batcher = fill(make("large", [4] * 100))
    urgent = [batcher.take_batch(max_tokens=8, max_sequences=8).urgent for _ in range(3)]
    assert urgent == [False, False, False]


def test_bulk_goes_on_however_many_short_queries_come() -> None:
    batcher = fill(make("large", [8] * 100))
    batcher.take_batch(max_tokens=8, max_sequences=8)
    bulk = 0
    for turn in range(20):
        batcher.add(make(f"query {turn}", [8]), max_tokens=8)
        batch = batcher.take_batch(max_tokens=8, max_sequences=8)
        bulk += batch.items[0][0].name == "large"
    assert bulk == 5


def test_requests_of_like_size_are_computed_first_come_first_served() -> None:
    batcher = fill(make("a", [4] * 50), make("b", [4] * 50))
    names = [request.name for batch in drain(batcher, 8, 8) for request, _ in batch]
    assert names == ["a"] * 50 + ["b"] * 50


@pytest.mark.parametrize(
    ("tokens", "sequences", "is_bulk", "lane"),
    [
        (8, 2, False, 0),
        (9, 2, False, 1),
        (9, 1, False, 0),
        (128, 2, False, 1),
        (129, 2, False, 2),
        (2049, 9, False, 3),
        (1, 1, True, 4),
    ],
)
def test_the_lane_is_that_of_the_size(
    tokens: int, sequences: int, is_bulk: bool, lane: int
) -> None:
    assert lane == choose_lane(tokens=tokens, sequences=sequences, is_bulk=is_bulk, max_tokens=8)


def test_no_lane_starves_and_the_first_has_more_than_half() -> None:
    sizes = [1, 16, 256, 400]
    batcher = fill(*(make(f"{lane}", [8] * size) for lane, size in enumerate(sizes)))
    yielding = make("4", [8] * 100)
    yielding.is_bulk = True
    batcher.add(yielding, max_tokens=8)
    names = []
    for _ in range(100):
        batcher.add(make("0", [8]), max_tokens=8)
        [(request, _row)] = batcher.take_batch(max_tokens=8, max_sequences=8).items
        names.append(request.name)
    assert set(names) == {"0", "1", "2", "3", "4"}
    assert names.count("0") > 50
    assert names.index("4") <= 2 * PATIENCE[4]


@settings(max_examples=60)
@given(sizes=st.lists(st.tuples(st.integers(1, 600), st.booleans()), max_size=12))
def test_what_is_expected_ahead_of_a_request_is_what_is_computed_before_it(
    sizes: list[tuple[int, bool]],
) -> None:
    """In batches of one sequence: at most one turn of each other lane more or less."""
    batcher: Batcher[Request] = Batcher()
    for size, is_bulk in sizes:
        one = make("before", [8] * size)
        one.is_bulk = is_bulk
        batcher.add(one, max_tokens=8)
    new = make("new", [8, 8])
    expected = batcher.count_ahead(1, 8)
    batcher.add(new, max_tokens=8)
    ahead = 0
    while (batch := batcher.take_batch(max_tokens=8, max_sequences=8)).items[0][0] is not new:
        ahead += batch.tokens
    assert abs(ahead - expected) <= 8 * 2 * len(PATIENCE)


def test_late_requests_are_removed_instead_of_taken() -> None:
    late, kept = make("late", [4]), make("kept", [4])
    batcher = fill(late, kept)
    batch = batcher.take_batch(
        max_tokens=8, max_sequences=8, is_late=lambda one: isinstance(one, Request) and one is late
    )
    assert (batch.late, batch.items) == ([late], [(kept, 0)])
    assert batcher.tokens == 0


def test_a_short_query_is_not_made_to_wait_for_bulk_in_its_own_batch() -> None:
    large, query = make("large", [2] * 50), make("query", [2])
    batcher = fill(large)
    batcher.take_batch(max_tokens=8, max_sequences=8)
    batcher.add(query, max_tokens=8)
    batch = batcher.take_batch(max_tokens=8, max_sequences=8)
    assert [request.name for request, _ in batch.items] == ["query"]


@pytest.mark.parametrize("count", [1, 3])
def test_tokens_are_counted_until_they_are_taken(count: int) -> None:
    batcher = fill(*(make(str(n), [3, 4]) for n in range(count)))
    assert batcher.tokens == 7 * count
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
    assert 1 - sum(lengths) / padded <= 0.08
    assert len(batches) <= 18


def test_padded_requests_of_like_size_are_computed_first_come_first_served() -> None:
    batcher = fill(make("a", [40] * 50), make("b", [40] * 50))
    names = [one.name for batch in drain_padded(batcher, 320, 8) for one, _ in batch]
    assert names == ["a"] * 50 + ["b"] * 50


def test_short_texts_share_a_padded_batch_whichever_comes_first() -> None:
    """The batch of a short text grows with one that is a little longer."""
    requests = [make(str(length), [length]) for length in (12, 16, 9, 13, 15)]
    [batch] = drain_padded(fill(*requests), 80, 8)
    assert [request.name for request, _ in batch] == ["12", "16", "9", "13", "15"]
    assert padded_cost(batch) == 80
