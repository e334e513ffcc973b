"""Inputs at fault are remembered, each for its pooling, and not without end."""

import pytest

from embedd.engine.host.errors import StuckError, WorkerDiedError
from embedd.engine.serving.quarantine import LIFETIME, MAX_REMEMBERED, Quarantine
from embedd.errors import EngineError
from embedd.metrics import DeathReason
from embedd.types import Pooling
from tests.unit.engine.fake_worker import to_ids

KILLED = WorkerDiedError("kills", alone=True)


def test_an_input_is_found_by_its_tokens_and_pooling() -> None:
    known = Quarantine()
    assert not known
    known.isolate(to_ids(1, 2), None, KILLED)
    assert known
    assert known.find(to_ids(1, 2), None) == "kills"
    assert known.find(to_ids(1, 2), Pooling.NONE) is None
    assert known.find(to_ids(2, 1), None) is None


def test_the_oldest_is_forgotten_first() -> None:
    known = Quarantine()
    for number in range(MAX_REMEMBERED + 1):
        known.isolate(to_ids(number), None, KILLED)
    assert known.find(to_ids(0), None) is None
    assert known.find(to_ids(1), None) == "kills"


@pytest.mark.parametrize(
    ("error", "is_isolated"),
    [
        (KILLED, True),
        (StuckError("hangs"), True),
        (WorkerDiedError("kills", alone=False), False),
        (WorkerDiedError("kills", DeathReason.MEMORY, alone=True), False),
        (EngineError("embedding has zero norm"), False),
    ],
)
def test_only_an_error_that_must_be_the_inputs_fault_isolates_it(
    error: EngineError, is_isolated: bool
) -> None:
    known = Quarantine()
    known.isolate(to_ids(1, 2), None, error)
    assert bool(known) is is_isolated


def test_a_death_with_a_cause_from_outside_isolates_no_input() -> None:
    known = Quarantine()
    error = WorkerDiedError("SIGKILL", DeathReason.KILLED, alone=True)
    known.isolate(to_ids(1, 2), None, error)
    assert not known


def test_a_mark_ends_after_its_lifetime() -> None:
    times = [1000.0]
    known = Quarantine(now=lambda: times[0])
    known.isolate(to_ids(1), None, KILLED)
    times[0] += LIFETIME / 2
    known.isolate(to_ids(2), None, KILLED)
    times[0] += LIFETIME / 2 - 1
    assert known.find(to_ids(1), None) == "kills"
    times[0] += 1
    assert known.find(to_ids(1), None) is None
    assert known.find(to_ids(2), None) == "kills"
    times[0] += LIFETIME
    assert known.find(to_ids(2), None) is None
    assert not known
