"""The share of a client in the bytes of bodies: laws of the counting."""

from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.errors import OverloadedError
from embedd.server.http.in_flight import BytesInFlight

LIMIT = 100
Steps = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 60)), max_size=30)


@given(steps=Steps)
def test_an_address_holds_no_more_than_half_unless_it_has_one_body_alone(
    steps: list[tuple[str, int]],
) -> None:
    budget, held, bodies = BytesInFlight(LIMIT), Counter[str](), Counter[str]()
    for address, size in steps:
        try:
            budget.add(address, size, size)
        except OverloadedError:
            budget.remove(address, size)
            continue
        held[address] += size
        bodies[address] += 1
        assert held[address] <= LIMIT // 2 or bodies[address] == 1
        assert held.total() <= LIMIT or bodies.total() == 1


@given(steps=Steps)
def test_what_was_refused_or_has_ended_leaves_nothing_behind(steps: list[tuple[str, int]]) -> None:
    budget = BytesInFlight(LIMIT)
    for address, size in steps:
        with suppress(OverloadedError):
            budget.add(address, size, size)
    for address, size in steps:
        budget.remove(address, size)
    budget.add("a", LIMIT // 2, LIMIT // 2)
    budget.add("b", LIMIT // 2, LIMIT // 2)


def test_a_body_may_be_no_larger_than_what_it_leaves_free() -> None:
    budget = BytesInFlight(LIMIT)
    budget.add("a", 20, 20)
    with pytest.raises(OverloadedError, match=r"from your address .* its share is 50"):
        budget.add("a", 20, 20)
    budget.remove("a", 20)
    budget.add("a", 15, 15)


def test_all_addresses_together_hold_no_more_than_the_limit() -> None:
    budget = BytesInFlight(LIMIT)
    budget.add("a", 50, 50)
    budget.add("b", 50, 50)
    with pytest.raises(OverloadedError, match=r"the limit is 100 .EMBEDD_MAX_BODY_IN_FLIGHT."):
        budget.add("c", 1, 1)
