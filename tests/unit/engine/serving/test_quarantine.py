"""Inputs at fault are remembered, each for its pooling, and not without end."""

from embedd.engine.serving.quarantine import MAX_REMEMBERED, Quarantine
from embedd.types import Pooling
from tests.unit.engine.fake_worker import to_ids


def test_an_input_is_found_by_its_tokens_and_pooling() -> None:
    known = Quarantine()
    assert not known
    known.add(to_ids(1, 2), None, "kills")
    assert known
    assert known.find(to_ids(1, 2), None) == "kills"
    assert known.find(to_ids(1, 2), Pooling.NONE) is None
    assert known.find(to_ids(2, 1), None) is None


def test_the_oldest_is_forgotten_first() -> None:
    known = Quarantine()
    for number in range(MAX_REMEMBERED + 1):
        known.add(to_ids(number), None, "kills")
    assert known.find(to_ids(0), None) is None
    assert known.find(to_ids(1), None) == "kills"
