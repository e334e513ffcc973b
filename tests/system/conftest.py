"""What all tests of the whole system need."""

import math

import pytest

from embedd.engine.tuning import background as tuner


@pytest.fixture(autouse=True)
def _no_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers in this process start no workers of their own to measure models."""
    monkeypatch.setattr(tuner, "IDLE", math.inf)
