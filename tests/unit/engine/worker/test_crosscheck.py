"""An engine that does not compute what llama.cpp computes is refused."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedd.engine.backends import LLAMA_BACKENDS, OPENVINO_F32
from embedd.engine.fake import FAKE_BACKENDS, FakeEngine
from embedd.engine.ipc.messages import Load
from embedd.engine.protocol import Stop, UnsuitableError
from embedd.engine.spec import ModelSpec
from embedd.engine.worker import crosscheck
from embedd.engine.worker.crosscheck import (
    EXACT_TOLERANCE,
    QUANTISED_TOLERANCE,
    check_agreement,
    choose_tolerance,
    measure_distance,
)
from embedd.types import Pooling, TokenIds, Vectors
from tests.unit.engine.fake_worker import SPEC

LONG = replace(SPEC, context_length=512, path=Path(__file__), exact=True)
LOAD = Load(spec=LONG, backend=OPENVINO_F32, crosscheck=True)


class Shifted(FakeEngine):
    """Computes vectors that are a share *off* of their length beside the right ones."""

    off = 0.0
    together_only = False

    def encode(
        self,
        sequences: Sequence[TokenIds],
        pooling: Pooling | None = None,
        *,
        stop: Stop | None = None,
    ) -> Vectors:
        vectors = super().encode(sequences, pooling)
        if self.together_only and len(sequences) == 1:
            return vectors
        wrong = np.roll(vectors, 1, axis=1) * self.off
        return vectors + wrong.astype(np.float32)


def make_engine(off: float, *, spec: ModelSpec = LONG, together_only: bool = False) -> Shifted:
    engine = Shifted.load(spec, FAKE_BACKENDS[0], threads=1, batch_tokens=512)
    engine.off, engine.together_only = off, together_only
    return engine


def make_reference(spec: ModelSpec = LONG) -> FakeEngine:
    return FakeEngine.load(spec, FAKE_BACKENDS[0], threads=1, batch_tokens=512)


def test_the_same_vectors_are_at_no_distance() -> None:
    assert measure_distance(make_engine(0), make_reference()) < 1e-6


@pytest.mark.parametrize("off", [0.05, 0.4])
def test_the_distance_is_one_less_the_cosine_of_the_worst(off: float) -> None:
    """A vector with another beside it, nearly at a right angle: 1 - 1 / sqrt(1 + off²)."""
    found = measure_distance(make_engine(off), make_reference())
    assert found == pytest.approx(1 - 1 / np.sqrt(1 + off**2), rel=0.9)


def test_a_fault_of_batches_alone_is_seen() -> None:
    assert measure_distance(make_engine(0.4, together_only=True), make_reference()) > 0.02


def test_scores_are_compared_as_they_are() -> None:
    """The cosine of two numbers is 1, whatever they are."""
    spec = replace(LONG, pooling=Pooling.RANK)
    assert (
        measure_distance(make_engine(0.4, spec=spec), make_reference(spec))
        > 10 * QUANTISED_TOLERANCE
    )
    assert measure_distance(make_engine(0, spec=spec), make_reference(spec)) < 1e-6


def test_an_error_of_scores_counts_like_one_of_vectors() -> None:
    """Half the square of its share of the largest score, as 1 - cosine of a vector's share."""
    spec = replace(LONG, pooling=Pooling.RANK)
    near, far = (
        measure_distance(make_engine(off, spec=spec), make_reference(spec)) for off in (0.01, 0.02)
    )
    assert far == pytest.approx(4 * near, rel=0.01)
    assert far < EXACT_TOLERANCE * 2


def test_quantised_weights_may_differ_more() -> None:
    assert choose_tolerance(replace(SPEC, exact=True)) == EXACT_TOLERANCE
    assert choose_tolerance(replace(SPEC, exact=False)) == QUANTISED_TOLERANCE


@pytest.mark.parametrize(("off", "refused"), [(0.4, True), (0.001, False)])
def test_an_engine_that_is_too_far_off_is_refused(
    monkeypatch: pytest.MonkeyPatch, *, off: float, refused: bool
) -> None:
    asked: list[Load] = []

    def open_reference(load: Load, _: object) -> FakeEngine:
        asked.append(load)
        return make_reference()

    monkeypatch.setattr(crosscheck, "open_engine", open_reference)
    if refused:
        with pytest.raises(UnsuitableError, match=r"does not agree with llama\.cpp") as caught:
            check_agreement(make_engine(off), LOAD)
        assert "1e-04 is allowed" in str(caught.value)
    else:
        assert (check_agreement(make_engine(off), LOAD) or 1) < 1e-4
    assert [load.backend.engine for load in asked] == ["llama"]


@pytest.mark.parametrize(
    "load",
    [
        Load(spec=LONG, backend=OPENVINO_F32),
        *(Load(spec=LONG, backend=backend, crosscheck=True) for backend in LLAMA_BACKENDS),
    ],
    ids=lambda load: load.backend.name,
)
def test_llama_is_not_loaded_to_compare_it_with_itself_or_unasked(
    monkeypatch: pytest.MonkeyPatch, load: Load
) -> None:
    monkeypatch.setattr(crosscheck, "open_engine", None)
    assert check_agreement(make_engine(0), load) is None
