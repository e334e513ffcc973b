"""A model expires when it was idle for its keep_alive, and not while it is used."""

import math

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
    expiry.stop()
    clock.advance(600.0)
    assert (expired, expiry.seconds_left(clock)) == ([], 60.0)


async def test_an_endless_keep_alive_starts_no_timer() -> None:
    clock, expired = Clock(), []
    expiry = Expiry(math.inf)
    expiry.start(clock, lambda: expired.append(clock.time()))
    clock.advance(1e9)
    assert (expired, expiry.seconds_left(clock)) == ([], math.inf)
