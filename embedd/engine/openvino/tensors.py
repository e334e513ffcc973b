"""Settings and tensors of a GGUF, read by name, with a check that none was left out.

A graph that does not use all of them would be another model than the file's.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from embedd.engine.protocol import UnsuitableError
from embedd.gguf.header import GgufFacts, TensorFacts, read_header_file
from embedd.gguf.types import TENSOR_TYPES

Array: TypeAlias = npt.NDArray[np.floating[Any]]  # float16 or float32

CHUNK = 1 << 20  # weights dequantised at a time: some 20 MB while they are float32
FLOAT16_OVERFLOW = 65520.0  # from here on float16 rounds to infinity
TYPE_NUMBERS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}

# Keys of the architecture that have no effect on how tokens become vectors.
IRRELEVANT_KEYS = {
    "classifier.output_labels",
    "context_length",
    "final_logit_softcapping",
    "normalize_embeddings",
    "pooling_type",
    "rope.scaling.finetuned",
    "vocab_size",
}
# The output layer of a language model, which no vector goes through.
IRRELEVANT_TENSORS = {"output.weight", "output.bias"}


class Gguf:
    """A GGUF, of one file or of several parts in order.

    Raises:
        ModelLoadError: The header of a file cannot be read.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        facts = [read_header_file(path) for path in paths]
        self.facts: GgufFacts = facts[0]
        self._prefix = f"{self.facts.architecture}."
        self._tensors = {
            tensor.name: (path, part.data_start, tensor)
            for path, part in zip(paths, facts, strict=True)
            for tensor in part.tensors
        }
        self._used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def count_rows(self, name: str) -> int:
        """Return the number of rows of the matrix *name*; a vector has one.

        Raises:
            UnsuitableError: The tensor is missing.
        """
        shape = self._find(name)[2].shape
        return shape[1] if len(shape) > 1 else 1

    def read(self, name: str, *shape: int) -> Array:
        """Return the tensor *name* as float16 or float32, one-dimensional ones as float32.

        Raises:
            UnsuitableError: The tensor is missing, has another shape, or an unsupported type.
        """
        path, start, tensor = self._find(name)
        # In the file's own order the length of a row comes first, and a last 1 may be left out.
        if tensor.shape != shape[::-1] and (*tensor.shape, 1) != shape[::-1]:
            raise UnsuitableError(f"tensor {name} has the shape {tensor.shape[::-1]}, not {shape}")
        self._used.add(name)
        array = _read(path, start + tensor.offset, tensor).reshape(shape)
        return array.astype(np.float32) if array.ndim == 1 else array

    def read_if_present(self, name: str, *shape: int) -> Array | None:
        """Return the tensor as `read` does, or None if the file does not have it."""
        return self.read(name, *shape) if name in self else None

    def integer(self, key: str, default: int | None = None) -> int:
        """Return the value of ``<architecture>.<key>``, an integer of 0 or more.

        Raises:
            UnsuitableError: The key is missing and has no default, or has another value.
        """
        value = self._value(key, default)
        if type(value) is not int or value < 0:
            raise UnsuitableError(f"{self._prefix}{key} is {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return the value of ``<architecture>.<key>``, a finite number.

        Raises:
            UnsuitableError: The key is missing and has no default, or has another value.
        """
        value = self._value(key, default)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise UnsuitableError(f"{self._prefix}{key} is {value!r}")
        return float(value)

    def boolean(self, key: str, *, default: bool) -> bool:
        """Return the value of ``<architecture>.<key>``, true or false.

        Raises:
            UnsuitableError: It has another value.
        """
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise UnsuitableError(f"{self._prefix}{key} is {value!r}")
        return value

    def text(self, key: str, default: str) -> str:
        """Return the value of ``<architecture>.<key>``, a text.

        Raises:
            UnsuitableError: It has another value.
        """
        value = self._value(key, default)
        if not isinstance(value, str):
            raise UnsuitableError(f"{self._prefix}{key} is {value!r}")
        return value

    def expect(self, key: str, *values: object) -> None:
        """Check that ``<architecture>.<key>`` is missing or has one of *values*.

        Raises:
            UnsuitableError: It has another value.
        """
        value = self._value(key, values[0])
        if value not in values:
            raise UnsuitableError(f"{self._prefix}{key} is {value!r}")

    def check_all_used(self) -> None:
        """Check that every tensor and every key of the architecture was read.

        Raises:
            UnsuitableError: Some were not: the graph would be another model than the file's.
        """
        metadata = [*self.facts.metadata, *self.facts.arrays]
        own = {key for key in metadata if key.startswith(self._prefix)}
        known = self._used | {self._prefix + key for key in IRRELEVANT_KEYS} | IRRELEVANT_TENSORS
        left = sorted((own | self._tensors.keys()) - known)
        if left:
            raise UnsuitableError(f"not supported by this engine: {', '.join(left[:3])}")

    def _find(self, name: str) -> tuple[Path, int, TensorFacts]:
        if name not in self._tensors:
            raise UnsuitableError(f"tensor {name} is missing")
        return self._tensors[name]

    def _value(self, key: str, default: object) -> object:
        self._used.add(self._prefix + key)
        return self.facts.metadata.get(self._prefix + key, default)


def _read(path: Path, offset: int, tensor: TensorFacts) -> Array:
    """Return the weights of a tensor; F32 and F16 as a view of the mapped file."""
    elements = math.prod(tensor.shape)
    if tensor.type == "F32":
        return _map(path, offset, "<f4", elements)
    if tensor.type == "F16":
        return _map(path, offset, "<f2", elements)
    return _dequantize(path, offset, tensor, elements)


def _dequantize(path: Path, offset: int, tensor: TensorFacts, elements: int) -> Array:
    import gguf  # noqa: PLC0415 - takes a tenth of a second, which only these files need

    if tensor.type not in TYPE_NUMBERS:
        raise UnsuitableError(f"tensor {tensor.name} has the {tensor.type}")
    number = TYPE_NUMBERS[tensor.type]
    _, block, width = TENSOR_TYPES[number]
    kind = gguf.GGMLQuantizationType(number)
    raw = _map(path, offset, np.uint8, elements // block * width)
    # Rounding to 11 bits is small beside the loss by quantising; bf16 has only 8.
    array: Array = np.empty(elements, np.float16)
    try:
        # The package works row by row, and slowly: here a row is as long as memory allows.
        for start in range(0, elements, CHUNK):
            blocks = raw[start // block * width : (start + CHUNK) // block * width]
            exact = gguf.dequantize(blocks[np.newaxis], kind)[0]
            if not np.abs(exact).max() < FLOAT16_OVERFLOW:
                raise UnsuitableError(f"tensor {tensor.name} has weights that overflow float16")
            array[start : start + len(exact)] = exact
    except (NotImplementedError, ValueError) as error:  # the package cannot read this type
        raise UnsuitableError(f"tensor {tensor.name} has the type {tensor.type}") from error
    return array


def _map(path: Path, offset: int, kind: npt.DTypeLike, count: int) -> npt.NDArray[Any]:
    """Map part of the file, copy-on-write: OpenVINO takes only writable memory."""
    return np.memmap(path, kind, "c", offset, (count,)).view(np.ndarray)
