"""The watchdog: who takes far too long is stopped, who is deaf is ended, nobody else."""

import pytest

from embedd.engine.host.watchdog import LEAST, LOOK, OBEDIENCE, TIMES, Watchdog
from tests.fakes import Clock


class Kennel:
    """A watchdog, the worker that it watches, and a clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.begun: set[int] = set()
        self.aborted: list[int] = []
        self.kills = 0
        self.dog = Watchdog(
            has_begun=self.begun.__contains__,
            abort=self.aborted.append,
            kill=self._kill,
            clock=self.clock,
        )

    def _kill(self) -> None:
        self.kills += 1

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds / LOOK)):
            self.clock.advance(LOOK)


@pytest.fixture
def kennel() -> Kennel:
    return Kennel()


def test_a_batch_that_takes_too_long_is_stopped_and_then_the_worker_ended(kennel: Kennel) -> None:
    kennel.dog.watch(1, 100)
    kennel.begun.add(1)
    kennel.wait(LEAST)
    assert kennel.aborted == []
    kennel.wait(LOOK)
    assert (kennel.aborted, kennel.kills) == ([1], 0)
    kennel.wait(OBEDIENCE)
    assert (kennel.aborted, kennel.kills) == ([1], 1)
    assert kennel.dog.bitten
    kennel.wait(10)
    assert kennel.kills == 1


def test_who_obeys_lives(kennel: Kennel) -> None:
    kennel.dog.watch(1, 100)
    kennel.begun.add(1)
    kennel.wait(LEAST + LOOK)
    assert kennel.aborted == [1]
    kennel.dog.forget(1)
    kennel.wait(10)
    assert not kennel.dog.bitten


def test_waiting_for_a_place_is_not_computing(kennel: Kennel) -> None:
    kennel.dog.watch(1, 100)
    kennel.wait(100)
    assert kennel.aborted == []


def test_a_slow_model_has_more_time(kennel: Kennel) -> None:
    """By the self-test at first, then by what its batches really took."""
    kennel.dog.learn(1.0, 0.05)
    assert kennel.dog.patience(1000) == pytest.approx(TIMES * 50)
    for _ in range(100):
        kennel.dog.learn(1000, 10.0)
    assert kennel.dog.patience(1000) == pytest.approx(TIMES * 10, rel=0.01)
    assert kennel.dog.patience(1) == LEAST
    kennel.dog.watch(1, 1000)
    kennel.begun.add(1)
    kennel.wait(TIMES * 10 - 10)
    assert kennel.aborted == []
    kennel.wait(20)
    assert kennel.aborted == [1]


def test_one_tiny_batch_that_stalled_says_little_of_large_ones(kennel: Kennel) -> None:
    kennel.dog.learn(1000, 1.0)
    kennel.dog.learn(8, 0.5)
    assert kennel.dog.patience(1000) < TIMES * 2


def test_nothing_is_looked_at_when_nothing_computes(kennel: Kennel) -> None:
    kennel.dog.watch(1, 1)
    kennel.dog.forget(1)
    kennel.wait(2)
    assert kennel.dog._timer is None
    kennel.dog.watch(2, 1)
    kennel.begun.add(2)
    kennel.wait(LEAST + 2)
    assert kennel.aborted == [2]
    kennel.dog.close()
    kennel.wait(10)
    assert kennel.kills == 0
