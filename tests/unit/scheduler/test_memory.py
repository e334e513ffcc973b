"""What a model costs: more weights, words or context never cost less."""

import os
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from embedd.scheduler.memory import estimate_bytes, measure_bytes
from embedd.types import EngineChoice
from tests.unit.scheduler.clients import make_spec

SIZES = st.integers(0, 1 << 34)


@given(a=SIZES, b=SIZES)
def test_more_weights_never_cost_less(a: int, b: int) -> None:
    small, large = sorted((a, b))
    assert estimate_bytes(make_spec("m", small)) <= estimate_bytes(make_spec("m", large))
    assert estimate_bytes(make_spec("m", large)) > large


def test_a_large_vocabulary_costs_its_output_rows() -> None:
    small, large = make_spec("m"), replace(make_spec("m"), vocabulary=251_000)
    assert estimate_bytes(large) - estimate_bytes(small) == 4 * 250_000 * 512


def test_a_process_is_measured_and_one_that_is_gone_has_nothing() -> None:
    assert measure_bytes(os.getpid()) > 1 << 20
    assert measure_bytes(2**22 + 1) == 0


def test_an_engine_that_copies_weights_is_planned_for() -> None:
    spec = replace(make_spec("m", 24 << 20), elements=22_600_000)
    copies = 2 * 4 * 22_600_000
    assert estimate_bytes(spec, with_openvino=True) > copies
    assert estimate_bytes(spec) < copies
    pinned = replace(spec, engine=EngineChoice.LLAMA)
    assert estimate_bytes(pinned, with_openvino=True) == estimate_bytes(spec)
    wanted = replace(spec, engine=EngineChoice.OPENVINO)
    assert estimate_bytes(wanted) == estimate_bytes(spec, with_openvino=True)
