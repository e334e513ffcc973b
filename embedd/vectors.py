"""What is done to pooled vectors before they leave: check, cut, normalise, quantise."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from embedd.errors import EngineError
from embedd.types import DType, Quantized, Vectors

Norms: TypeAlias = npt.NDArray[np.float32]  # (inputs,)

# Below, and where a norm overflows, squares in float32 have lost their digits.
SAFE_NORM = 1e-15


def finish(vectors: Vectors, *, dimensions: int | None, normalize: bool) -> Vectors:
    """Check, cut to the first *dimensions* columns, scale rows to length 1; in that order.

    *dimensions* outside ``1 … width - 1`` leaves the width as it is. All in float32;
    shape (inputs, dimensions).

    Raises:
        EngineError: A row has NaN or Inf, or norm 0 before or after the cut; ``index``
            is the first such row.
    """
    norms = row_norms(vectors)
    # Nearly always: sums of squares tell that all is well, and one look is enough.
    if not _are_ordinary(norms).all():
        check_finite(vectors)
        check_not_zero(vectors, norms)
    if dimensions is not None and 0 < dimensions < vectors.shape[1]:
        vectors = vectors[:, :dimensions]
        norms = row_norms(vectors)
        check_not_zero(vectors, norms)
    if not normalize:
        return np.ascontiguousarray(vectors)
    return scale_to_unit_length(vectors, norms)


def row_norms(vectors: Vectors) -> Norms:
    """Euclidean length of each row, shape (inputs,); see `SAFE_NORM` for its limits."""
    # einsum sums in float32 without a temporary the size of the matrix.
    squares: Norms = np.einsum("ij,ij->i", vectors, vectors)
    return np.sqrt(squares)


def _are_ordinary(norms: Norms) -> npt.NDArray[np.bool_]:
    """Which are far from 0, finite, and so exact; shape (inputs,)."""
    ordinary: npt.NDArray[np.bool_] = (norms > SAFE_NORM) & (norms < np.inf)
    return ordinary


def scale_to_unit_length(vectors: Vectors, norms: Norms) -> Vectors:
    """Each row divided by its norm, also where float32 cannot hold the squares."""
    odd = ~_are_ordinary(norms)
    if odd.any():
        vectors = vectors.copy()
        vectors[odd] /= np.abs(vectors[odd]).max(axis=1, keepdims=True)
        norms = row_norms(vectors)
    return vectors / norms[:, np.newaxis]


def scale_to_p_norm(vectors: Vectors, p: int) -> Vectors:
    """Each row divided by its p-norm; 0 makes its largest number 32760, as llama.cpp does."""
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    if p == 0:
        scaled: Vectors = vectors / largest * np.float32(32760)
        return scaled
    # High powers of small numbers are 0: of shares of the largest they are not.
    shares = (vectors / largest).astype(np.float64)
    norms = (np.abs(shares) ** p).sum(axis=1, keepdims=True) ** (1 / p)
    return np.asarray(shares / norms, np.float32)


def check_finite(vectors: Vectors) -> None:
    """Raise `EngineError` naming the first row that has NaN or Inf."""
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        index = int(bad.argmax())
        raise EngineError(f"embedding contains NaN or Inf values (input {index})", index=index)


def check_not_zero(vectors: Vectors, norms: Norms) -> None:
    """Raise `EngineError` naming the first row of zeros."""
    # The norm of very small numbers is 0 in float32: only the row itself is proof.
    for index in np.flatnonzero(norms == 0).tolist():
        if not vectors[index].any():
            raise EngineError(f"embedding has zero norm (input {index})", index=index)


def quantize(vectors: Vectors, dtype: DType, int8_range: float | None = None) -> Quantized:
    """The rows as *dtype*, which is not float; shape (inputs, dimensions) or, in bits, its eighth.

    ``int8`` is the nearest of -127 … 127 steps, ``uint8`` that plus 128; a bit is 1 where
    the number is above 0, the first number the highest bit, the last byte filled up with
    zeros; ``binary`` is the byte of ``ubinary`` less 128.

    Args:
        int8_range: What becomes 127, larger numbers too; None is each row's largest.
    """
    if dtype in (DType.BINARY, DType.UBINARY):
        packed = np.packbits(vectors > 0, axis=1)
        # Offset binary: in two's complement that is the highest bit turned over.
        return packed if dtype is DType.UBINARY else (packed ^ 0x80).view(np.int8)
    steps = _to_steps(vectors, int8_range)
    return steps if dtype is DType.INT8 else (steps.view(np.uint8) ^ 0x80)


def _to_steps(vectors: Vectors, int8_range: float | None) -> npt.NDArray[np.int8]:
    if int8_range is None:
        largest = np.abs(vectors).max(axis=1, keepdims=True)
        # A row of zeros stays one; of numbers below 1e-36 the scale would overflow.
        scale = np.float32(127) / np.maximum(largest, np.finfo(np.float32).tiny * 128)
    else:
        scale = np.float32(127) / np.float32(int8_range)
    with np.errstate(over="ignore"):  # infinite is beyond the range like any other
        steps: Vectors = np.rint(vectors * scale)
    np.clip(steps, -127, 127, out=steps)
    return steps.astype(np.int8)
