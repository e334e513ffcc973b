"""What a model costs: more weights, words or context never cost less."""

import os
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from embedd.choices import EngineChoice, Precision
from embedd.engine.tokenizer_place import TokenizerPlace, TokenizerVerdict
from embedd.scheduler.memory import estimate_bytes, measure_bytes
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


MINILM = replace(
    make_spec("m", 91 << 20), vocabulary=30_522, width=384, elements=22_600_000, exact=True
)


def test_an_engine_that_copies_matrices_is_planned_for() -> None:
    matrices = 4 * (MINILM.elements - MINILM.vocabulary * MINILM.width)
    assert estimate_bytes(MINILM, with_openvino=True) > 2 * matrices + MINILM.weights
    deeper = replace(MINILM, elements=2 * MINILM.elements, weights=2 * MINILM.weights)
    more = estimate_bytes(deeper, with_openvino=True) - estimate_bytes(MINILM, with_openvino=True)
    assert more >= 2 * 4 * MINILM.elements + MINILM.weights


def test_bf16_is_planned_with_half_of_what_is_packed() -> None:
    deep = replace(MINILM, elements=20 * MINILM.elements)
    matrices = 2 * (deep.elements - deep.vocabulary * deep.width)
    whole, half = (
        estimate_bytes(deep, with_openvino=True, precision=one)
        for one in (Precision.F32, Precision.BF16)
    )
    assert whole - half == 2 * matrices


def test_an_engine_is_planned_for_only_where_it_may_compute() -> None:
    plain = estimate_bytes(MINILM)
    assert estimate_bytes(MINILM, with_openvino=True) > plain
    pinned = replace(MINILM, engine=EngineChoice.LLAMA)
    assert estimate_bytes(pinned, with_openvino=True) == plain
    wanted = replace(MINILM, engine=EngineChoice.OPENVINO)
    assert estimate_bytes(wanted) == estimate_bytes(MINILM, with_openvino=True)


def test_a_quantised_table_of_tokens_is_planned_as_float16() -> None:
    """Twice the bytes of q8_0, and no copies of it: matrices alone are copied."""
    words = 4_000_000
    small = replace(MINILM, exact=False, weights=24 << 20)
    large = replace(
        small, vocabulary=small.vocabulary + words, elements=small.elements + words * small.width
    )
    more = estimate_bytes(large, with_openvino=True) - estimate_bytes(small, with_openvino=True)
    assert 2 * words * small.width < more < 3 * words * small.width + 4 * 512 * words


def test_a_tokenizer_costs_what_was_measured_wherever_it_lives() -> None:
    plain = estimate_bytes(MINILM)
    for place in (TokenizerPlace.SERVER, TokenizerPlace.WORKER):
        verdict = TokenizerVerdict(place=place, size=13 << 20)
        assert estimate_bytes(MINILM, tokenizer=verdict) == plain + (13 << 20)
    refused = TokenizerVerdict(place=TokenizerPlace.LLAMA, reason="they differ")
    assert estimate_bytes(MINILM, tokenizer=refused) == plain


def test_a_tokenizer_that_was_never_built_is_planned_as_the_largest_kind() -> None:
    """A unigram vocabulary of 250,000 tokens was measured to take 425 MB."""
    xlm = replace(MINILM, vocabulary=250_002)
    more = estimate_bytes(xlm, tokenizer=None) - estimate_bytes(xlm)
    assert 425e6 < more < 500e6


def test_the_first_load_maps_the_file_for_both_engines() -> None:
    words, width = 100_000, 4096
    table = replace(
        MINILM, vocabulary=words, width=width, elements=words * width, weights=2 * words * width
    )
    assert estimate_bytes(table, with_openvino=True) > 2 * table.weights > estimate_bytes(table)


@given(vocabulary=SIZES, width=SIZES, elements=SIZES, weights=SIZES)
def test_a_header_that_contradicts_itself_still_has_a_plan(
    vocabulary: int, width: int, elements: int, weights: int
) -> None:
    odd = replace(MINILM, vocabulary=vocabulary, width=width, elements=elements, weights=weights)
    assert estimate_bytes(odd, with_openvino=True) >= estimate_bytes(odd) > 0
