"""Whom to unload: enough, not more, the idle before the busy."""

from hypothesis import given
from hypothesis import strategies as st

from embedd.scheduler.eviction import Candidate, Need, choose_victims

CANDIDATES = st.lists(
    st.builds(
        Candidate,
        key=st.integers(),
        keep_alive=st.sampled_from([0.0, 60.0, 300.0, float("inf")]),
        order=st.text("abc", max_size=2),
        size=st.integers(1, 50),
        idle=st.booleans(),
    ),
    max_size=8,
)
NEEDS = st.builds(Need, places=st.integers(-2, 3), size=st.integers(-50, 200))


def frees(victims: list[Candidate], need: Need) -> bool:
    size = sum(one.size for one in victims)
    return len(victims) >= need.places and size >= need.size


@given(candidates=CANDIDATES, need=NEEDS)
def test_idle_victims_are_enough_and_not_one_more(candidates: list[Candidate], need: Need) -> None:
    victims = choose_victims(candidates, need)
    idle = [one for one in candidates if one.idle]
    if not frees(idle, need):
        return
    assert all(victim.idle for victim in victims)
    assert frees(victims, need)
    assert not victims or not frees(victims[:-1], need)


@given(candidates=CANDIDATES, need=NEEDS)
def test_who_goes_has_no_longer_keep_alive_than_who_stays(
    candidates: list[Candidate], need: Need
) -> None:
    victims = choose_victims(candidates, need)
    for victim in victims:
        for other in candidates:
            if other not in victims and other.idle == victim.idle:
                assert (victim.keep_alive, victim.order) <= (other.keep_alive, other.order)


@given(candidates=CANDIDATES, need=NEEDS)
def test_one_busy_model_is_drained_if_no_idle_one_helps(
    candidates: list[Candidate], need: Need
) -> None:
    victims = choose_victims(candidates, need)
    busy = [victim for victim in victims if not victim.idle]
    assert len(busy) <= 1
    if busy:
        assert victims == busy
        assert not any(one.idle for one in candidates)
    if candidates and not need.met:
        assert victims
