"""The choice of the next batch: within its limits, from the front, and never nothing."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.engine.batching import choose_batch

LENGTHS = st.lists(st.integers(1, 600), max_size=60)


@given(lengths=LENGTHS, max_tokens=st.integers(1, 512), max_sequences=st.integers(1, 32))
def test_a_batch_keeps_its_limits_and_cannot_be_longer(
    lengths: list[int], max_tokens: int, max_sequences: int
) -> None:
    count = choose_batch(lengths, max_tokens=max_tokens, max_sequences=max_sequences)
    assert count <= max_sequences
    assert count <= 1 or sum(lengths[:count]) <= max_tokens
    if count < len(lengths):
        one_more = sum(lengths[: count + 1]) > max_tokens or count == max_sequences
        assert one_more, "the batch could have been longer"


@given(
    lengths=LENGTHS.filter(bool), max_tokens=st.integers(1, 512), max_sequences=st.integers(1, 32)
)
def test_whatever_waits_gets_its_turn(
    lengths: list[int], max_tokens: int, max_sequences: int
) -> None:
    """At least one sequence is taken each time: after so many batches nothing is left."""
    left = lengths
    for _ in range(len(lengths)):
        left = left[choose_batch(left, max_tokens=max_tokens, max_sequences=max_sequences) :]
    assert left == []


@pytest.mark.parametrize(
    ("lengths", "count"),
    [([], 0), ([900], 1), ([900, 1], 1), ([1, 900, 1], 1), ([4, 4, 1], 2), ([1, 1, 1, 1], 3)],
    ids=["nothing waits", "long", "long goes alone", "none overtakes", "full", "many"],
)
def test_batches_of_eight_tokens_and_three_sequences(lengths: list[int], count: int) -> None:
    assert choose_batch(lengths, max_tokens=8, max_sequences=3) == count


def test_an_endless_queue_is_looked_at_no_further_than_needed() -> None:
    assert choose_batch(itertools.repeat(1), max_tokens=512, max_sequences=32) == 32
