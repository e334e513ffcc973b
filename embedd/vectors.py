"""What is done to pooled vectors before they leave: check, cut, normalise."""

import numpy as np
import numpy.typing as npt

from embedd.errors import EngineError
from embedd.types import Vectors


def finish(vectors: Vectors, *, dimensions: int | None, normalize: bool) -> Vectors:
    """Check, cut to the first *dimensions* columns, scale rows to length 1; in that order.

    *dimensions* outside ``1 … width - 1`` leaves the width as it is. All in float32;
    shape (inputs, dimensions).

    Raises:
        EngineError: A row has NaN or Inf, or norm 0 before or after the cut; ``index``
            is the first such row.
    """
    check_finite(vectors)
    norms = row_norms(vectors)
    check_norms(norms)
    if dimensions is not None and 0 < dimensions < vectors.shape[1]:
        vectors = vectors[:, :dimensions]
        norms = row_norms(vectors)
        check_norms(norms)
    if not normalize:
        return np.ascontiguousarray(vectors)
    return vectors / norms[:, np.newaxis]


def row_norms(vectors: Vectors) -> npt.NDArray[np.float32]:
    """Euclidean length of each row, shape (inputs,)."""
    # einsum sums in float32 without a temporary the size of the matrix.
    squares: npt.NDArray[np.float32] = np.einsum("ij,ij->i", vectors, vectors)
    return np.sqrt(squares)


def check_finite(vectors: Vectors) -> None:
    """Raise `EngineError` naming the first row that has NaN or Inf."""
    # One pass without a mask as large as the matrix: a sum is finite only if all are,
    # short of overflow, which the slow look below tells apart.
    with np.errstate(all="ignore"):
        suspicious = not np.isfinite(vectors.sum())
    if not suspicious:
        return
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        index = int(bad.argmax())
        raise EngineError(f"embedding contains NaN or Inf values (input {index})", index=index)


def check_norms(norms: npt.NDArray[np.float32]) -> None:
    """Raise `EngineError` naming the first row whose norm is 0 or not finite."""
    bad = ~(norms > 0)
    if bad.any():
        index = int(bad.argmax())
        raise EngineError(f"embedding has zero norm (input {index})", index=index)
