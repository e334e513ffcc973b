"""Batches that are computed together, and the checks of every row before it leaves."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from embedd.engine.backends import LLAMA_BACKENDS
from embedd.engine.fake import FakeEngine
from embedd.engine.ipc import messages
from embedd.engine.protocol import Stop
from embedd.engine.spec import ModelSpec
from embedd.engine.worker.compute import encode_checked, encode_together
from embedd.engine.worker.connection import Answer
from embedd.engine.worker.dispatch import Batch
from embedd.errors import EngineError
from embedd.types import Pooling, TokenIds, Vectors

NAN, ZERO, GOOD = float("nan"), 0.0, 1.0


def make_spec(pooling: Pooling = Pooling.MEAN, *, context: int = 64) -> ModelSpec:
    return ModelSpec(
        name="",
        digest="",
        path=Path(),
        pooling=pooling,
        context_length=context,
        vocabulary=0,
        width=0,
        weights=0,
    )


class ScriptedEngine(FakeEngine):
    """Gives these values, one for each row of each call."""

    def __init__(self, *calls: Sequence[float], pooling: Pooling = Pooling.MEAN) -> None:
        super().__init__(make_spec(pooling), LLAMA_BACKENDS[0], batch_tokens=64)
        self.calls = list(calls)

    def encode(
        self,
        sequences: Sequence[TokenIds],
        pooling: Pooling | None = None,
        *,
        stop: Stop | None = None,
    ) -> Vectors:
        values = self.calls.pop(0)
        assert len(values) == len(sequences)
        return np.array([[value, value] for value in values], np.float32)


def check(engine: ScriptedEngine, pooling: Pooling | None = None) -> list[float]:
    sequences = [np.array([1], np.int32)] * len(engine.calls[0])
    rows = encode_checked(engine, sequences, pooling)
    return [float(row[0]) for row in rows]


def test_good_rows_are_computed_once() -> None:
    assert check(ScriptedEngine([GOOD, 2.0])) == [GOOD, 2.0]


def test_a_bad_row_is_computed_again_alone() -> None:
    assert check(ScriptedEngine([GOOD, NAN, ZERO], [5.0], [6.0])) == [GOOD, 5.0, 6.0]


@pytest.mark.parametrize(
    ("value", "fault"), [(NAN, "contains NaN or Inf values"), (ZERO, "has zero norm")]
)
def test_a_row_that_stays_bad_is_an_error_of_its_sequence(value: float, fault: str) -> None:
    with pytest.raises(EngineError, match=f"^embedding {fault}$") as caught:
        check(ScriptedEngine([GOOD, GOOD, value], [value]))
    assert caught.value.index == 2


def test_a_score_may_be_zero_but_not_nan() -> None:
    assert check(ScriptedEngine([ZERO, GOOD], pooling=Pooling.RANK)) == [ZERO, GOOD]
    with pytest.raises(EngineError, match="NaN"):
        check(ScriptedEngine([NAN], [NAN], pooling=Pooling.RANK))


def test_a_token_may_have_a_vector_of_zeros_but_not_nan() -> None:
    assert check(ScriptedEngine([ZERO, GOOD]), Pooling.NONE) == [ZERO, GOOD]
    with pytest.raises(EngineError, match="NaN"):
        check(ScriptedEngine([GOOD, NAN]), Pooling.NONE)


def make_batches(*lengths: list[int]) -> list[Batch]:
    return [
        (messages.Encode(id_, None, ones), np.ones(sum(ones), np.int32).tobytes())
        for id_, ones in enumerate(lengths, start=1)
    ]


def test_batches_that_are_computed_together_get_their_own_rows() -> None:
    engine = ScriptedEngine([1.0, 2.0, 3.0])
    answers = encode_together(engine, make_batches([1, 2], [1]), Stop())
    assert [(message.id, rows[:, 0].tolist()) for message, rows in read(answers)] == [
        (1, [1.0, 2.0]),
        (2, [3.0]),
    ]


def test_the_tokens_of_batches_stay_with_their_batch() -> None:
    batches = [
        (messages.Encode(id_, Pooling.NONE, [2, 1]), np.ones(3, np.int32).tobytes())
        for id_ in (1, 2)
    ]
    engine = FakeEngine(make_spec(), LLAMA_BACKENDS[0], batch_tokens=64)
    answers = encode_together(engine, batches, Stop())
    assert [len(rows) for _, rows in read(answers)] == [3, 3]


def test_a_fault_is_found_in_the_batch_that_has_it() -> None:
    engine = ScriptedEngine([1.0, NAN, 3.0], [NAN], [1.0, NAN], [NAN], [3.0])
    bad, good = encode_together(engine, make_batches([1, 1], [1]), Stop())
    assert bad[0] == messages.Failed(1, "embedding contains NaN or Inf values", index=1)
    assert isinstance(good[0], messages.Computed)
    assert good[0].id == 2


def test_batches_that_are_stopped_together_say_so() -> None:
    engine = FakeEngine(make_spec(), LLAMA_BACKENDS[0], batch_tokens=64)
    stop = Stop()
    stop.set()
    answers = encode_together(engine, make_batches([1], [1]), stop)
    text, fault = "computing took too long and was stopped", messages.Fault.STOPPED
    assert answers == [(messages.Failed(id_, text, fault), None) for id_ in (1, 2)]


def read(answers: list[Answer]) -> list[tuple[messages.Computed, Vectors]]:
    found = []
    for message, rows in answers:
        assert isinstance(message, messages.Computed)
        assert rows is not None
        found.append((message, rows.astype(np.float32)))
    return found
