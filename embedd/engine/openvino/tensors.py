"""What a GGUF holds: settings and tensors, each asked for by name, none left over.

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

PIECE_NUMBERS = 1 << 20  # made at a time: some 20 MB while they are numbers of 32 bits
BEYOND_HALF = 65520.0  # what float16 rounds to infinity
NUMBERS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}

# Keys of the architecture that say nothing about how tokens become vectors.
INDIFFERENT = {
    "classifier.output_labels",
    "context_length",
    "normalize_embeddings",
    "pooling_type",
    "vocab_size",
}


class Gguf:
    """A GGUF whose parts are the files at *paths*, in order.

    Raises:
        ModelLoadError: A file cannot be used.
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

    def rows(self, name: str) -> int:
        """Rows of the matrix *name*.

        Raises:
            UnsuitableError: There is none.
        """
        shape = self._find(name)[2].shape
        return shape[1] if len(shape) > 1 else 1

    def take(self, name: str, *shape: int) -> Array:
        """The tensor *name*, whose shape must be *shape*; vectors always in float32.

        Raises:
            UnsuitableError: It is missing, has another shape, or a type that nobody can read.
        """
        path, start, tensor = self._find(name)
        # In the file's own order the length of a row comes first, and a last 1 may be left out.
        if tensor.shape != shape[::-1] and (*tensor.shape, 1) != shape[::-1]:
            raise UnsuitableError(f"tensor {name} has the shape {tensor.shape[::-1]}, not {shape}")
        self._used.add(name)
        array = _read(path, start + tensor.offset, tensor).reshape(shape)
        return array.astype(np.float32) if array.ndim == 1 else array

    def take_if_any(self, name: str, *shape: int) -> Array | None:
        """As `take`, or None where the file has no such tensor."""
        return self.take(name, *shape) if name in self else None

    def count(self, key: str, default: int | None = None) -> int:
        """The whole number ``<architecture>.<key>``.

        Raises:
            UnsuitableError: It is missing and has no default, or is no such number.
        """
        value = self._value(key, default)
        if type(value) is not int or value < 0:
            raise UnsuitableError(f"{self._prefix}{key} is {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """The finite number ``<architecture>.<key>``.

        Raises:
            UnsuitableError: It is missing and has no default, or is no such number.
        """
        value = self._value(key, default)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise UnsuitableError(f"{self._prefix}{key} is {value!r}")
        return float(value)

    def expect(self, key: str, *values: object) -> None:
        """The value of ``<architecture>.<key>``, if there is one, is one of these.

        Raises:
            UnsuitableError: It is not.
        """
        value = self._value(key, values[0])
        if value not in values:
            raise UnsuitableError(f"{self._prefix}{key} is {value!r}")

    def check_all_used(self) -> None:
        """Nothing of the file was passed over.

        Raises:
            UnsuitableError: A tensor or a key was.
        """
        metadata = [*self.facts.metadata, *self.facts.arrays]
        own = {key for key in metadata if key.startswith(self._prefix)}
        known = self._used | {self._prefix + key for key in INDIFFERENT}
        left = sorted((own | self._tensors.keys()) - known)
        if left:
            raise UnsuitableError(f"unknown to this engine: {', '.join(left[:3])}")

    def _find(self, name: str) -> tuple[Path, int, TensorFacts]:
        if name not in self._tensors:
            raise UnsuitableError(f"tensor {name} is missing")
        return self._tensors[name]

    def _value(self, key: str, default: object) -> object:
        self._used.add(self._prefix + key)
        return self.facts.metadata.get(self._prefix + key, default)


def _read(path: Path, offset: int, tensor: TensorFacts) -> Array:
    """The numbers of a tensor; a view of the mapped file where its type is numpy's."""
    elements = math.prod(tensor.shape)
    if tensor.type == "F32":
        return _map(path, offset, "<f4", elements)
    if tensor.type == "F16":
        return _map(path, offset, "<f2", elements)
    return _dequantize(path, offset, tensor, elements)


def _dequantize(path: Path, offset: int, tensor: TensorFacts, elements: int) -> Array:
    import gguf  # noqa: PLC0415 - takes a tenth of a second, which only these files need

    if tensor.type not in NUMBERS:
        raise UnsuitableError(f"tensor {tensor.name} has the {tensor.type}")
    number = NUMBERS[tensor.type]
    _, block, width = TENSOR_TYPES[number]
    kind = gguf.GGMLQuantizationType(number)
    raw = _map(path, offset, np.uint8, elements // block * width)
    # Rounding to 11 bits is nothing beside what quantising has cost; brain floats have 8.
    array: Array = np.empty(elements, np.float16)
    try:
        # The package goes row by row, and slowly: here a row is as long as memory allows.
        for start in range(0, elements, PIECE_NUMBERS):
            blocks = raw[start // block * width : (start + PIECE_NUMBERS) // block * width]
            exact = gguf.dequantize(blocks[np.newaxis], kind)[0]
            if not np.abs(exact).max() < BEYOND_HALF:
                raise UnsuitableError(f"tensor {tensor.name} has numbers beyond a float16")
            array[start : start + len(exact)] = exact
    except (NotImplementedError, ValueError) as error:
        raise UnsuitableError(f"tensor {tensor.name} has the type {tensor.type}") from error
    return array


def _map(path: Path, offset: int, kind: npt.DTypeLike, count: int) -> npt.NDArray[Any]:
    """The file's own bytes. OpenVINO takes only what could be written to: a private mapping."""
    return np.memmap(path, kind, "c", offset, (count,)).view(np.ndarray)
