"""Pooled vectors as they are answered: check, cut, normalise, quantise."""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from embedd.errors import EngineError
from embedd.types import DType, Quantized, RowNumbers, Vectors

Norms: TypeAlias = npt.NDArray[np.float32]  # (inputs,)

# Norms below it are inexact, because their squares lose digits in float32.
SAFE_NORM = 1e-15


@dataclass(frozen=True, slots=True)
class SharedRows:
    """Rows of *numbers*, of which some are there several times: *rows* has the number of each."""

    numbers: Vectors | Quantized
    rows: RowNumbers

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> Vectors | Quantized:
        chosen: Vectors | Quantized = self.numbers[self.rows[part]]
        return chosen


# Rows to be sliced: (inputs, dimensions).
Sliceable: TypeAlias = Vectors | Quantized | SharedRows


def finish(vectors: Vectors, *, dimensions: int | None, normalize: bool) -> Vectors:
    """Check, cut to the first *dimensions* columns, scale rows to length 1; in that order.

    Returns float32 of shape (inputs, dimensions); *dimensions* outside ``1 … width - 1``
    leave the width as it is.

    Raises:
        EngineError: A row has NaN or Inf, or norm 0 before or after the cut; ``index``
            is the first such row.
    """
    norms = row_norms(vectors)
    # The norms show whether a row needs a closer check, which is rare.
    exact = _are_all_exact(norms)
    if not exact:
        check_finite(vectors)
        check_not_zero(vectors, norms)
    if dimensions is not None and 0 < dimensions < vectors.shape[1]:
        vectors = vectors[:, :dimensions]
        norms = row_norms(vectors)
        exact = _are_all_exact(norms)
        if not exact:
            check_not_zero(vectors, norms)
    if not normalize:
        return np.ascontiguousarray(vectors)
    if exact:
        return vectors / norms[:, np.newaxis]
    return scale_to_unit_length(vectors, norms)


def row_norms(vectors: Vectors) -> Norms:
    """Return the Euclidean length of each row, shape (inputs,); inexact below `SAFE_NORM`."""
    # einsum sums in float32 without a temporary the size of the matrix.
    squares: Norms = np.einsum("ij,ij->i", vectors, vectors)
    return np.sqrt(squares)


def _are_exact(norms: Norms) -> npt.NDArray[np.bool_]:
    """Whether each norm is far from 0 and finite, so that it is exact; shape (inputs,)."""
    exact: npt.NDArray[np.bool_] = (norms > SAFE_NORM) & (norms < np.inf)
    return exact


def _are_all_exact(norms: Norms) -> bool:
    if len(norms) == 1:  # most requests
        return SAFE_NORM < norms.item() < math.inf
    return bool(_are_exact(norms).all())


def scale_to_unit_length(vectors: Vectors, norms: Norms) -> Vectors:
    """Divide each row by its norm, also where its squares over- or underflow in float32."""
    inexact = ~_are_exact(norms)
    if inexact.any():
        vectors = vectors.copy()
        vectors[inexact] /= np.abs(vectors[inexact]).max(axis=1, keepdims=True)
        norms = row_norms(vectors)
    return vectors / norms[:, np.newaxis]


def scale_to_p_norm(vectors: Vectors, p: int) -> Vectors:
    """Divide each row by its p-norm; *p* 0 scales its largest number to 32760, as llama.cpp."""
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    if p == 0:
        scaled: Vectors = vectors / largest * np.float32(32760)
        return scaled
    # Relative to the largest number, because high powers of small numbers underflow.
    relative = (vectors / largest).astype(np.float64)
    norms = (np.abs(relative) ** p).sum(axis=1, keepdims=True) ** (1 / p)
    return np.asarray(relative / norms, np.float32)


def check_finite(vectors: Vectors) -> None:
    """Raise `EngineError` with the index of the first row that has NaN or Inf."""
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        index = int(bad.argmax())
        raise EngineError(f"embedding contains NaN or Inf values (input {index})", index=index)


def check_not_zero(vectors: Vectors, norms: Norms) -> None:
    """Raise `EngineError` with the index of the first row of zeros."""
    # The norm of very small numbers underflows to 0: look at the row itself.
    for index in np.flatnonzero(norms == 0).tolist():
        if not vectors[index].any():
            raise EngineError(f"embedding has zero norm (input {index})", index=index)


def quantize(vectors: Vectors, dtype: DType, int8_range: float | None = None) -> Quantized:
    """Quantise the rows to *dtype*, which is not float.

    ``int8`` scales to -127 … 127 and rounds; ``uint8`` is that plus 128. ``ubinary`` packs one
    bit per number, 1 if it is above 0, the first number in the highest bit, the last byte
    padded with zeros; ``binary`` is each of its bytes less 128. The shape is
    (inputs, dimensions), or (inputs, bytes) for bits.

    Args:
        int8_range: The number that becomes 127, as larger ones do; None: each row's largest.
    """
    if dtype in (DType.BINARY, DType.UBINARY):
        packed = np.packbits(vectors > 0, axis=1)
        # In two's complement, to subtract 128 is to flip the highest bit.
        return packed if dtype is DType.UBINARY else (packed ^ 0x80).view(np.int8)
    steps = _to_steps(vectors, int8_range)
    return steps if dtype is DType.INT8 else (steps.view(np.uint8) ^ 0x80)


def _to_steps(vectors: Vectors, int8_range: float | None) -> npt.NDArray[np.int8]:
    if int8_range is None:
        largest = np.abs(vectors).max(axis=1, keepdims=True)
        # A row of zeros stays zero, and the scale of numbers below 1e-36 does not overflow.
        scale = np.float32(127) / np.maximum(largest, np.finfo(np.float32).tiny * 128)
    else:
        scale = np.float32(127) / np.float32(int8_range)
    with np.errstate(over="ignore"):  # infinite numbers are clipped too
        steps: Vectors = np.rint(vectors * scale)
    np.clip(steps, -127, 127, out=steps)
    return steps.astype(np.int8)
