"""Positions and windows are exact in every precision, at every length that a model admits."""

from pathlib import Path

import numpy as np
import pytest

from embedd.engine.backends import OPENVINO_BF16, OPENVINO_F32, Backend
from embedd.engine.spec import ModelSpec
from embedd.types import Pooling, Vectors
from tests.contract.conftest import make_spec
from tests.needs import require_bf16, require_openvino
from tests.tiny_families import write_tiny_family
from tests.unit.engine.openvino.test_families import distances, make_sequences

require_openvino()
from embedd.engine.openvino.engine import OpenVinoEngine

CONTEXT = 1024
# Rounding weights to bf16 moves the worst token of these by 1.2e-4; positions that are rounded
# to bf16 too moved it by 1e-2.
TOLERANCE = 4e-4
WINDOW = {"attention.sliding_window": 512, "attention.sliding_window_pattern": 100}


def encode_tokens(spec: ModelSpec, backend: Backend) -> Vectors:
    engine = OpenVinoEngine.load(spec, backend, threads=1)
    try:
        return np.concatenate(
            [engine.encode(make_sequences([n]), Pooling.NONE) for n in (100, 300, CONTEXT)]
        )
    finally:
        engine.close()


@pytest.mark.parametrize(("family", "keys"), [("nomic-bert", {}), ("modern-bert", WINDOW)])
def test_late_tokens_are_as_exact_in_bf16_as_early_ones(
    family: str, keys: dict[str, int], tmp_path: Path
) -> None:
    require_bf16()
    path = write_tiny_family(tmp_path / "tiny.gguf", family, keys=keys, context=CONTEXT)
    spec = make_spec(path, Pooling.MEAN, context=CONTEXT)
    exact, rounded = (encode_tokens(spec, one) for one in (OPENVINO_F32, OPENVINO_BF16))
    assert 1e-6 < distances(rounded, exact).max() <= TOLERANCE
