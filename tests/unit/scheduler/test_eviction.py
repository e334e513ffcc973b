"""Which models are unloaded: enough, not more, the idle before the busy."""

from hypothesis import given
from hypothesis import strategies as st

from embedd.scheduler.eviction import choose_victims
from embedd.scheduler.expiry import Expiry
from embedd.scheduler.records import Resident
from tests.fakes import FakeModel
from tests.unit.scheduler.clients import make_spec

MODEL = FakeModel(make_spec("any"))
RESIDENTS = st.lists(
    st.builds(
        Resident,
        spec=st.builds(make_spec, st.text("abc", min_size=1, max_size=2)),
        model=st.just(MODEL),
        size=st.integers(1, 50),
        expiry=st.builds(Expiry, st.sampled_from([0.0, 60.0, 300.0, float("inf")])),
        users=st.integers(0, 2),
    ),
    max_size=8,
)
PLACES, SIZES = st.integers(-2, 3), st.integers(-50, 200)


def frees(victims: list[Resident], places: int, size: int) -> bool:
    return len(victims) >= places and sum(one.size for one in victims) >= size


@given(residents=RESIDENTS, places=PLACES, size=SIZES)
def test_idle_victims_are_enough_and_not_one_more(
    residents: list[Resident], places: int, size: int
) -> None:
    victims = choose_victims(residents, places=places, size=size)
    idle = [one for one in residents if not one.users]
    if not frees(idle, places, size):
        return
    assert not any(victim.users for victim in victims)
    assert frees(victims, places, size)
    assert not victims or not frees(victims[:-1], places, size)


@given(residents=RESIDENTS, places=PLACES, size=SIZES)
def test_a_victim_has_no_longer_keep_alive_than_a_model_that_stays(
    residents: list[Resident], places: int, size: int
) -> None:
    victims = choose_victims(residents, places=places, size=size)
    for victim in victims:
        for other in residents:
            if other not in victims and bool(other.users) == bool(victim.users):
                of_other = (other.expiry.keep_alive, str(other.spec.path))
                assert (victim.expiry.keep_alive, str(victim.spec.path)) <= of_other


@given(residents=RESIDENTS, places=PLACES, size=SIZES)
def test_one_busy_model_is_drained_if_no_idle_one_helps(
    residents: list[Resident], places: int, size: int
) -> None:
    victims = choose_victims(residents, places=places, size=size)
    busy = [victim for victim in victims if victim.users]
    assert len(busy) <= 1
    if busy:
        assert victims == busy
        assert all(one.users for one in residents)
    if residents and (places > 0 or size > 0):
        assert victims
