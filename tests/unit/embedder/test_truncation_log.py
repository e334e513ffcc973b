"""The warning that inputs are cut: one a minute for each model, with all that was cut."""

import pytest

from embedd.embedder.truncation_log import INTERVAL, TruncationLog
from embedd.types import Truncated
from tests.fakes import Clock

CUT = [Truncated(index=1, tokens=602, kept=256), Truncated(index=3, tokens=300, kept=256)]


def test_a_model_whose_inputs_are_cut_has_one_warning_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    truncations = TruncationLog(clock.time)
    for _ in range(3):
        truncations.note("a", CUT)
    truncations.note("b", CUT[:1])
    clock.now += INTERVAL
    truncations.note("a", CUT[:1])
    facts = [
        (one.__dict__["model"], one.__dict__["requests"], one.__dict__["inputs"])
        for one in caplog.records
    ]
    assert facts == [("a", 1, 2), ("b", 1, 1), ("a", 3, 5)]
    assert {one.levelname for one in caplog.records} == {"WARNING"}
    assert (caplog.records[0].__dict__["tokens"], caplog.records[0].__dict__["kept"]) == (602, 256)
