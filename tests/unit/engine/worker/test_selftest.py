"""The self-test: what a model must compute before it is announced."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from embedd.engine.backends import LLAMA_BACKENDS
from embedd.engine.fake import FakeEngine
from embedd.engine.protocol import Stop
from embedd.engine.worker.selftest import SHORT, run_self_test
from embedd.errors import EngineError
from embedd.types import Pooling, TokenIds, Vectors
from tests.unit.engine.worker.test_compute import NAN, ScriptedEngine, make_spec


def test_the_self_test_computes_a_sentence_and_a_packed_batch() -> None:
    """A llama.cpp that is wrong for this CPU survives small batches."""
    sizes: list[int] = []

    class Recording(FakeEngine):
        def encode(
            self,
            sequences: Sequence[TokenIds],
            pooling: Pooling | None = None,
            *,
            stop: Stop | None = None,
        ) -> Vectors:
            sizes.append(len(sequences))
            return super().encode(sequences, pooling)

    engine = Recording(make_spec(context=8), LLAMA_BACKENDS[0], batch_tokens=64)
    vector, seconds_per_token = run_self_test(engine)
    assert sizes == [1, 8]
    assert vector.shape == (1, engine.info.width)
    assert seconds_per_token > 0


def test_the_batch_is_shorter_where_a_full_one_was_tested_before() -> None:
    sizes = []

    class Recording(FakeEngine):
        def encode(
            self,
            sequences: Sequence[TokenIds],
            pooling: Pooling | None = None,
            *,
            stop: Stop | None = None,
        ) -> Vectors:
            sizes.append(sum(map(len, sequences)))
            return np.ones((len(sequences), 8), np.float32)

    engine = Recording(make_spec(context=32), LLAMA_BACKENDS[0], batch_tokens=1024)
    engine.info = replace(engine.info, max_sequences=64)
    for full in (True, False):
        run_self_test(engine, full=full)
    _, whole, _, short = sizes
    assert SHORT - 32 < short <= SHORT < whole <= 1024


def test_the_self_test_fails_on_bad_vectors() -> None:
    with pytest.raises(EngineError, match="NaN"):
        run_self_test(ScriptedEngine([NAN], [NAN]))
