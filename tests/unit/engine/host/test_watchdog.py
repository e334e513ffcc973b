"""The watchdog: a call that takes too long is stopped, a worker that ignores that is ended."""

import pytest

from embedd.engine.host.watchdog import (
    MIN_TIMEOUT,
    SLOWEST_TOKENIZER,
    STOP_TIMEOUT,
    TIMEOUT_FACTOR,
    TOKENIZER_TIMEOUT,
    Watchdog,
)
from embedd.metrics import DeathReason

STEP = 1.0  # seconds between two checks


class Watching:
    """A watchdog, and the worker that it watches."""

    def __init__(self) -> None:
        self.begun: set[int] = set()
        self.aborted: list[int] = []
        self.ends: list[tuple[DeathReason, str]] = []
        self.dog = Watchdog(
            has_begun=self.begun.__contains__,
            end=lambda reason, cause: self.ends.append((reason, cause)),
        )

    def begin(self, id_: int, tokens: int = 100) -> None:
        """Send a batch, which begins at once."""
        self.dog.watch_batch(id_, tokens, lambda: self.aborted.append(id_))
        self.begun.add(id_)
        self.dog.check(STEP, idle=False)

    def wait(self, seconds: float, *, idle: bool = False) -> None:
        for _ in range(int(seconds / STEP)):
            self.dog.check(STEP, idle=idle)


@pytest.fixture
def watching() -> Watching:
    return Watching()


def test_a_batch_that_takes_too_long_is_stopped_and_then_the_worker_ended(
    watching: Watching,
) -> None:
    watching.begin(1)
    watching.wait(MIN_TIMEOUT - STEP)
    assert watching.aborted == []
    watching.wait(STEP)
    assert (watching.aborted, watching.ends) == ([1], [])
    watching.wait(STOP_TIMEOUT)
    cause = "it did not stop a batch that took too long"
    assert (watching.aborted, watching.ends) == ([1], [(DeathReason.STUCK, cause)])
    assert watching.dog.culprits == {1}
    watching.wait(10)
    assert len(watching.ends) == 1


def test_a_worker_that_stops_the_batch_is_not_ended(watching: Watching) -> None:
    watching.begin(1)
    watching.wait(MIN_TIMEOUT)
    assert watching.aborted == [1]
    watching.dog.forget(1)
    watching.wait(10)
    assert watching.ends == []


def test_waiting_for_a_place_is_not_computing(watching: Watching) -> None:
    watching.dog.watch_batch(1, 100, lambda: watching.aborted.append(1))
    watching.wait(100)
    assert watching.aborted == []


def test_a_worker_that_used_no_processor_is_not_stuck_but_stopped(watching: Watching) -> None:
    watching.begin(1)
    watching.wait(1)
    watching.wait(MIN_TIMEOUT - 1, idle=True)
    call = watching.dog.find(1)
    assert call is not None
    assert (watching.aborted, call.is_external) == ([1], True)
    watching.wait(STOP_TIMEOUT, idle=True)
    assert [reason for reason, _ in watching.ends] == [DeathReason.STOPPED]


def test_a_batch_beside_the_one_that_hangs_is_no_culprit(watching: Watching) -> None:
    watching.begin(1)
    watching.wait(MIN_TIMEOUT)
    watching.begin(2)
    watching.wait(STOP_TIMEOUT)
    assert watching.dog.culprits == {1}


def test_batches_that_hang_together_are_culprits_together(watching: Watching) -> None:
    for id_ in (1, 2):
        watching.dog.watch_batch(id_, 100, lambda: None)
        watching.begun.add(id_)
    watching.wait(MIN_TIMEOUT + STOP_TIMEOUT + STEP)
    assert watching.dog.culprits == {1, 2}


def test_a_slow_model_has_more_time(watching: Watching) -> None:
    """By the self-test at first, then by what its batches really took."""
    watching.dog.learn(1.0, 0.05)
    assert watching.dog.timeout(1000) == pytest.approx(TIMEOUT_FACTOR * 50)
    for _ in range(100):
        watching.dog.learn(1000, 10.0)
    assert watching.dog.timeout(1000) == pytest.approx(TIMEOUT_FACTOR * 10, rel=0.01)
    assert watching.dog.timeout(1) == MIN_TIMEOUT
    watching.begin(1, 1000)
    watching.wait(TIMEOUT_FACTOR * 10 - 10)
    assert watching.aborted == []
    watching.wait(20)
    assert watching.aborted == [1]


def test_one_tiny_batch_that_stalled_says_little_of_large_ones(watching: Watching) -> None:
    watching.dog.learn(1000, 1.0)
    watching.dog.learn(8, 0.5)
    assert watching.dog.timeout(1000) < TIMEOUT_FACTOR * 2


@pytest.mark.parametrize("size", [1, 10**6])
def test_a_tokenizer_call_has_the_more_time_the_longer_its_text_is(
    size: int, watching: Watching
) -> None:
    limit = max(TOKENIZER_TIMEOUT, SLOWEST_TOKENIZER * size)
    watching.dog.watch_tokenizing(1, size, lambda: watching.aborted.append(1))
    watching.wait(100)
    watching.begun.add(1)
    watching.wait(limit)
    assert watching.aborted == []
    watching.wait(STEP)
    assert watching.aborted == [1]
    watching.wait(STOP_TIMEOUT)
    cause = "it did not stop a tokenizer call that took too long"
    assert watching.ends == [(DeathReason.STUCK, cause)]
