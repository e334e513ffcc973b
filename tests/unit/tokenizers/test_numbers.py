"""Arrays of ids that become one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.tokenizers import numbers
from embedd.tokenizers.numbers import Joiner

Parts = st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5), max_size=8)


@pytest.mark.parametrize("few", [0, 3, 1 << 16])
@given(parts=Parts)
def test_arrays_are_joined_in_order(few: int, parts: list[list[int]]) -> None:
    joiner = Joiner(*(np.array(part, np.int32) for part in parts[:1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numbers, "FEW", few)
        for part in parts[1:]:
            joiner.add(np.array(part, np.int32))
        joined = joiner.join()
    assert joined.dtype == np.int32
    assert joined.tolist() == [one for part in parts for one in part]


def test_what_is_joined_from_many_is_in_memory_once() -> None:
    joiner = Joiner()
    for number in range(100):
        joiner.add(np.full(numbers.FEW, number, np.int32))
        assert sum(part.size for part in joiner._parts) <= numbers.FEW
    assert len(joiner.join()) == 100 * numbers.FEW


def test_places_become_flat() -> None:
    joiner = Joiner(np.array([[1, 2], [3, 4]], np.int32))
    assert joiner.join().tolist() == [1, 2, 3, 4]
