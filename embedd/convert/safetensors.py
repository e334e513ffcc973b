"""Safetensors files: headers checked, tensors mapped into memory, never loaded whole.

The format: https://github.com/huggingface/safetensors#format. Eight bytes hold the length of a
JSON header, the raw tensors follow without gaps.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from embedd.convert.files import read_json_object
from embedd.errors import ConversionError

Floats: TypeAlias = npt.NDArray[Any]  # float32 or float16

MAX_HEADER_BYTES: Final = 100_000_000  # the reference implementation's limit
WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"

_STORED: Final[Mapping[str, str]] = {
    "BOOL": "|u1",
    "U8": "|u1",
    "I8": "|i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "F16": "<f2",
    "BF16": "<u2",
    "F32": "<f4",
    "F64": "<f8",
}
_FLOATS: Final = frozenset({"F16", "BF16", "F32"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor in a file: *offset* is in bytes from the file's beginning."""

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def read(self) -> Floats:
        """The values, as a view into the file; bfloat16 becomes a float32 copy.

        Raises:
            ConversionError: The tensor is not of a float type, or the file cannot be read.
        """
        if self.dtype not in _FLOATS:
            raise ConversionError(
                f"tensor {self.name!r} has type {self.dtype}: only F32, F16 and BF16 are converted"
            )
        if math.prod(self.shape) == 0:
            return np.empty(self.shape, np.float32)
        kind = _STORED[self.dtype]
        try:
            mapped = np.memmap(self.path, kind, mode="r", offset=self.offset, shape=self.shape)
        except (OSError, ValueError) as error:
            raise ConversionError(f"{self.path} cannot be read: {error}") from error
        array: Floats = np.asarray(mapped)
        if self.dtype == "BF16":
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array


def read_checkpoint_index(folder: Path) -> dict[str, StoredTensor]:
    """Name → tensor of ``model.safetensors``, or of all parts that its index names.

    Raises:
        ConversionError: There is no such file, it is damaged, or index and parts disagree.
    """
    if (folder / WEIGHTS).is_file():
        return read_index(folder / WEIGHTS)
    if not (folder / INDEX).is_file():
        raise ConversionError(
            f"{folder} holds neither {WEIGHTS} nor {INDEX}: "
            "save the checkpoint in the safetensors format"
        )
    weight_map = read_json_object(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(map(_is_file_name, weight_map.values())):
        raise ConversionError(f"{folder / INDEX} has no weight_map from tensors to file names")
    tensors: dict[str, StoredTensor] = {}
    for file in sorted(set(weight_map.values())):
        for name, tensor in read_index(folder / file).items():
            if weight_map.get(name) != file:
                raise ConversionError(f"{file} holds tensor {name!r}, which {INDEX} does not say")
            tensors[name] = tensor
    if missing := sorted(weight_map.keys() - tensors.keys()):
        raise ConversionError(f"{INDEX} names tensor {missing[0]!r}, which no part holds")
    return tensors


def read_index(path: Path) -> dict[str, StoredTensor]:
    """Name → tensor of one file; every offset is checked against the file's size.

    Raises:
        ConversionError: The file cannot be read or is damaged; says where.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > min(MAX_HEADER_BYTES, size - 8):
                raise ConversionError(
                    f"{path} is damaged: its header claims {length} bytes, the file has {size}",
                    limit=MAX_HEADER_BYTES,
                )
            text = stream.read(length)
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror or error}") from error
    tensors = [
        _to_tensor(name, entry, path=path, start=8 + length)
        for name, entry in _parse_header(text, path).items()
        if name != "__metadata__"
    ]
    _check_contiguous(tensors, start=8 + length, size=size, path=path)
    return {tensor.name: tensor for tensor in tensors}


def _is_file_name(value: object) -> bool:
    return isinstance(value, str) and value not in {"", ".", ".."} and Path(value).name == value


def _parse_header(text: bytes, path: Path) -> dict[str, object]:
    try:
        header = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{path} is damaged: its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise ConversionError(f"{path} is damaged: its header is not a JSON object")
    return header


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise ValueError("a name occurs twice")
    return unique


def _to_tensor(name: str, entry: object, *, path: Path, start: int) -> StoredTensor:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise ConversionError(f"{path} is damaged: the entry of tensor {name!r} is {entry!r}")
    if dtype not in _STORED:
        raise ConversionError(f"tensor {name!r} of {path} has the unknown type {dtype!r}")
    if not all(type(length) is int and length >= 0 for length in shape):
        raise ConversionError(f"{path} is damaged: tensor {name!r} has the shape {shape}")
    needed = math.prod(shape) * np.dtype(_STORED[dtype]).itemsize
    if begin < 0 or end - begin != needed:
        raise ConversionError(
            f"{path} is damaged: tensor {name!r} needs {needed} bytes, "
            f"its offsets are {begin} to {end}"
        )
    return StoredTensor(name=name, path=path, dtype=dtype, shape=tuple(shape), offset=start + begin)


def _check_contiguous(tensors: list[StoredTensor], *, start: int, size: int, path: Path) -> None:
    """Check that the tensors fill the file from *start* to *size* without gap or overlap."""
    end = start
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, math.prod(tensor.shape))):
        if tensor.offset != end:
            raise ConversionError(
                f"{path} is damaged: tensor {tensor.name!r} begins at byte {tensor.offset}, "
                f"the one before it ends at {end}"
            )
        end += math.prod(tensor.shape) * np.dtype(_STORED[tensor.dtype]).itemsize
    if end != size:
        raise ConversionError(
            f"{path} is damaged: its tensors end at byte {end}, the file at {size}"
        )
