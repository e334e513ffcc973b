"""A model expires when it was idle for its keep_alive, and not while it is used."""

import math

import pytest

from embedd.scheduler.expiry import Expiry
from tests.fakes import Clock


async def test_an_idle_model_expires_after_its_keep_alive() -> None:
    clock, expired = Clock(), []
    expiry = Expiry(60.0)
    expiry.start(clock, lambda: expired.append(clock.time()))
    clock.advance(59.0)
    assert (expired, expiry.seconds_left(clock)) == ([], 1.0)
    clock.advance(1.0)
    assert expired == [clock.time()]


async def test_a_model_in_use_does_not_expire() -> None:
    clock, expired = Clock(), []
    expiry = Expiry(60.0)
    expiry.start(clock, lambda: expired.append(clock.time()))
    expiry.hold()
    clock.advance(600.0)
    assert (expired, expiry.seconds_left(clock)) == ([], 60.0)


async def test_an_endless_keep_alive_starts_no_timer() -> None:
    clock, expired = Clock(), []
    expiry = Expiry(math.inf)
    expiry.start(clock, lambda: expired.append(clock.time()))
    clock.advance(1e9)
    assert (expired, expiry.seconds_left(clock)) == ([], math.inf)


@pytest.mark.parametrize("later", [60.0, 5.0, 100.0])
async def test_a_model_that_was_used_again_stays_for_the_whole_time_after_it(later: float) -> None:
    clock, expired = Clock(), list[float]()
    expiry = Expiry(60.0)
    expiry.start(clock, lambda: expired.append(clock.time()))
    clock.advance(20)
    expiry.hold()
    expiry.keep_alive = later
    clock.advance(10)
    expiry.start(clock, lambda: expired.append(clock.time()))
    begun = clock.time()
    clock.advance(500)
    assert expired == [begun + later]


async def test_a_model_in_use_when_the_timer_ends_expires_after_its_use() -> None:
    clock, expired = Clock(), list[float]()
    expiry = Expiry(60.0)
    expiry.start(clock, lambda: expired.append(clock.time()))
    expiry.hold()
    clock.advance(100)
    expiry.start(clock, lambda: expired.append(clock.time()))
    begun = clock.time()
    clock.advance(500)
    assert expired == [begun + 60.0]


async def test_requests_one_after_the_other_share_a_timer() -> None:
    clock = Clock()
    expiry = Expiry(60.0)
    for _ in range(5):
        clock.advance(1)
        expiry.start(clock, lambda: None)
        expiry.hold()
    assert clock.count_timers() == 1


async def test_a_model_that_is_unloaded_has_no_timer() -> None:
    clock, expired = Clock(), list[float]()
    expiry = Expiry(60.0)
    expiry.start(clock, lambda: expired.append(clock.time()))
    expiry.stop()
    clock.advance(500)
    assert expired == []
