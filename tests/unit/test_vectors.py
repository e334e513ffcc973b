"""Finished vectors: checked, cut, checked again, scaled; errors name the bad row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from embedd.errors import EngineError
from embedd.types import Vectors
from embedd.vectors import finish, scale_to_p_norm

LARGEST = float(np.finfo(np.float32).max)
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)

COMPONENTS = st.floats(-LARGEST, LARGEST, width=32)
MATRICES = st.tuples(st.integers(0, 4), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=COMPONENTS)
)


def to_vectors(*rows: list[float]) -> Vectors:
    return np.array(rows, np.float32)


@given(vectors=MATRICES, dimensions=st.none() | st.integers(-2, 8))
def test_every_row_is_a_unit_vector_in_the_direction_of_its_head(
    vectors: Vectors, dimensions: int | None
) -> None:
    """For all finite numbers: also where their squares overflow or vanish in float32."""
    width = vectors.shape[1]
    kept = dimensions if dimensions is not None and 0 < dimensions < width else width
    exact = vectors[:, :kept].astype(np.float64)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    if not vectors.any(axis=1).all() or not norms.all():
        with pytest.raises(EngineError, match="zero norm"):
            finish(vectors, dimensions=dimensions, normalize=True)
        return
    finished = finish(vectors, dimensions=dimensions, normalize=True)
    assert finished.dtype == np.float32
    assert np.allclose(finished, exact / norms, atol=1e-6)


@given(vectors=MATRICES.filter(lambda one: bool(one.any(axis=1).all())))
def test_without_normalizing_the_numbers_stay_as_the_model_computed_them(vectors: Vectors) -> None:
    assert np.array_equal(finish(vectors, dimensions=None, normalize=False), vectors)


def test_a_cut_matrix_is_contiguous() -> None:
    finished = finish(to_vectors([3, 4, 5], [1, 2, 3]), dimensions=2, normalize=False)
    assert finished.flags.c_contiguous
    assert finished.tolist() == [[3, 4], [1, 2]]


@pytest.mark.parametrize("dimensions", [None, 0, -1, 2, 4096])
def test_dimensions_out_of_range_leave_the_width(dimensions: int | None) -> None:
    assert finish(to_vectors([3, 4]), dimensions=dimensions, normalize=True).shape == (1, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_row_that_is_not_finite_is_named(bad: float) -> None:
    vectors = to_vectors([1, 2], [3, 4], [5, bad], [bad, bad])
    with pytest.raises(
        EngineError, match=r"^embedding contains NaN or Inf values \(input 2\)$"
    ) as (caught):
        finish(vectors, dimensions=None, normalize=False)
    assert caught.value.index == 2


def test_the_full_vector_is_checked_before_it_is_cut() -> None:
    with pytest.raises(EngineError, match="NaN"):
        finish(to_vectors([1, np.nan]), dimensions=1, normalize=True)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    ("row", "dimensions"), [([0.0, 0.0], None), ([0.0, 1.0], 1)], ids=["whole", "after the cut"]
)
def test_the_first_row_of_zeros_is_named(
    row: list[float], dimensions: int | None, normalize: bool
) -> None:
    vectors = to_vectors([1, 2], row, row)
    with pytest.raises(EngineError, match=r"^embedding has zero norm \(input 1\)$") as caught:
        finish(vectors, dimensions=dimensions, normalize=normalize)
    assert caught.value.index == 1


@pytest.mark.parametrize("size", [LARGEST, 1e20, 1e-30, SMALLEST])
def test_very_large_and_very_small_numbers_are_normalised(size: float) -> None:
    """Their sum or their squares overflow or vanish, they themselves do not."""
    vectors = to_vectors([size, size], [3, 4])
    expected = to_vectors([0.5**0.5, 0.5**0.5], [0.6, 0.8])
    assert np.allclose(finish(vectors, dimensions=None, normalize=True), expected)
    assert np.array_equal(finish(vectors, dimensions=None, normalize=False), vectors)


def test_the_callers_matrix_is_not_changed() -> None:
    vectors = to_vectors([1e20, 1e20], [3, 4])
    before = vectors.copy()
    finish(vectors, dimensions=None, normalize=True)
    assert np.array_equal(vectors, before)


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0, [24570, -32760]),
        (1, [3 / 7, -4 / 7]),
        (2, [0.6, -0.8]),
        (3, [3 / 91 ** (1 / 3), -4 / 91 ** (1 / 3)]),
        (5000, [0.75, -1]),
    ],
)
def test_a_vector_is_scaled_to_any_norm(p: int, expected: list[float]) -> None:
    vectors = np.array([[3, -4], [3e-30, -4e-30]], np.float32)
    assert scale_to_p_norm(vectors, p) == pytest.approx(np.array([expected, expected]), rel=1e-5)
    assert scale_to_p_norm(vectors, p).dtype == np.float32
