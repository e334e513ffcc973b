"""Quantised vectors: worked examples, and properties of all of them."""

import base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.types import DType, Vectors
from embedd.vectors import finish, quantize

X = [0.1, -0.2, 0.3, 0, 0.5, -0.6, 0.7, -0.8]
Y = [0.3, -0.1, 0, 0.2, -0.4, 0.5, -0.6, 0.7, 0.1, -0.9, 0.8, 0.05]

numbers = st.floats(-(2.0**100), 2.0**100, width=32)
rows = st.lists(numbers, min_size=1, max_size=40).map(lambda row: np.array([row], np.float32))


def vectors(*row: float) -> Vectors:
    return np.array([row], np.float32)


@pytest.mark.parametrize(
    ("row", "dtype", "int8_range", "expected", "packed"),
    [
        (X, DType.INT8, None, [16, -32, 48, 0, 79, -95, 111, -127], "EOAwAE+hb4E="),
        (X, DType.UINT8, None, [144, 96, 176, 128, 207, 33, 239, 1], "kGCwgM8h7wE="),
        (X, DType.INT8, 0.5, [25, -51, 76, 0, 127, -127, 127, -127], None),
        (X, DType.UBINARY, None, [170], "qg=="),
        (X, DType.BINARY, None, [42], "Kg=="),
        (Y, DType.UBINARY, None, [149, 176], None),
        (Y, DType.BINARY, None, [21, 48], None),
        ([0.0] * 8, DType.INT8, None, [0] * 8, None),
        ([0.0] * 8, DType.UINT8, None, [128] * 8, None),
        ([0.0] * 8, DType.BINARY, None, [-128], None),
    ],
)
def test_the_worked_examples_are_exact(
    row: list[float],
    dtype: DType,
    int8_range: float | None,
    expected: list[int],
    packed: str | None,
) -> None:
    result = quantize(vectors(*row), dtype, int8_range)
    assert result.tolist() == [expected]
    assert packed is None or base64.b64encode(result.tobytes()).decode() == packed


def test_signed_kinds_are_int8_and_unsigned_ones_uint8() -> None:
    kinds = {dtype: quantize(vectors(1, 2), dtype).dtype for dtype in DType if dtype != "float"}
    assert kinds == {
        DType.INT8: np.int8,
        DType.UINT8: np.uint8,
        DType.BINARY: np.int8,
        DType.UBINARY: np.uint8,
    }


def test_halves_are_rounded_to_the_even_neighbour() -> None:
    halves = vectors(0.5, 1.5, 2.5, -0.5, -1.5, 127)
    assert quantize(halves, DType.INT8).tolist() == [[0, 2, 2, 0, -2, 127]]


def test_every_row_has_a_scale_of_its_own_unless_the_model_has_one() -> None:
    pair = np.array([[1, 0.5], [0.1, 0.05]], np.float32)
    assert quantize(pair, DType.INT8).tolist() == [[127, 64], [127, 64]]
    assert quantize(pair, DType.INT8, 1.0).tolist() == [[127, 64], [13, 6]]


@given(rows, st.none() | st.floats(2.0**-10, 2.0**10, width=32))
def test_int8_never_is_minus_128_and_keeps_the_sign(row: Vectors, limit: float | None) -> None:
    steps = quantize(row, DType.INT8, limit)
    assert steps.min() >= -127
    assert (steps * np.sign(row) >= 0).all()
    unsigned = quantize(row, DType.UINT8, limit)
    assert (unsigned.astype(int) == steps.astype(int) + 128).all()


@given(rows)
def test_bits_tell_which_numbers_are_positive(row: Vectors) -> None:
    packed = quantize(row, DType.UBINARY)
    assert packed.shape[1] == -(-row.shape[1] // 8)
    bits = np.unpackbits(packed.view(np.uint8), axis=1)
    assert (bits[:, : row.shape[1]] == (row > 0)).all()
    assert not bits[:, row.shape[1] :].any()
    assert (quantize(row, DType.BINARY).astype(int) == packed.astype(int) - 128).all()


def test_numbers_too_small_for_a_scale_become_zeros() -> None:
    assert quantize(vectors(1e-44, 0), DType.INT8).tolist() == [[0, 0]]


def test_a_cut_vector_is_normalised_again() -> None:
    cut = finish(vectors(0.48, 0.36, 0.8), dimensions=2, normalize=True)
    assert cut.tolist() == [pytest.approx([0.8, 0.6])]
