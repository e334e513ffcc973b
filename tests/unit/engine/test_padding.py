"""Engines that pad: which sequences are computed together, and what a batch costs."""

from hypothesis import given
from hypothesis import strategies as st

from embedd.engine.padding import group_alike, is_alike, measure_cost, round_length

LENGTHS = st.lists(st.integers(1, 2000), min_size=1, max_size=60)


@given(length=st.integers(1, 8192))
def test_few_shapes_hold_all_lengths(length: int) -> None:
    assert length <= round_length(length) < length + 32
    assert len({round_length(one) for one in range(1, 513)}) == 48


@given(length=st.integers(1, 8192))
def test_a_sequence_alone_gets_little_padding(length: int) -> None:
    assert round_length(length) - length <= max(3, length / 8)


@given(lengths=LENGTHS)
def test_every_row_is_in_one_group_with_its_like(lengths: list[int]) -> None:
    groups = group_alike(lengths)
    assert sorted(row for rows in groups for row in rows) == list(range(len(lengths)))
    for rows in groups:
        longest = lengths[rows[0]]
        assert all(is_alike(lengths[row], longest) for row in rows)
        assert max(lengths[row] for row in rows) == longest


@given(lengths=LENGTHS)
def test_groups_cost_no_more_than_all_together(lengths: list[int]) -> None:
    groups = group_alike(lengths)
    parts = sum(measure_cost([lengths[row] for row in rows], padded=True) for rows in groups)
    assert sum(lengths) <= parts <= measure_cost(lengths, padded=True)
    assert measure_cost(lengths, padded=False) == sum(lengths)
