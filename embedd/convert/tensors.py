"""The tensors of a checkpoint: an index over its safetensors files, values mapped from disk.

The package `safetensors` opens each file and checks it. Values are mapped here and not read
with the package: its NumPy interface copies them, and it has no bfloat16.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from embedd.convert.files import read_json_object
from embedd.errors import ConversionError

Floats: TypeAlias = npt.NDArray[Any]  # float32 or float16

WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"

# Type in the file → NumPy's; bfloat16 is the upper half of a float32
_FLOATS: Final[Mapping[str, str]] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_WIDTHS: Final[Mapping[str, int]] = {"F32": 4, "F16": 2, "BF16": 2}  # others are never read


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor in a file: *offset* is in bytes from the file's beginning."""

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def skip_rows(self, count: int) -> "StoredTensor":
        """The same tensor without its first *count* rows."""
        if not count:
            return self
        rows, *columns = self.shape
        size = math.prod(columns) * _WIDTHS.get(self.dtype, 0)
        return replace(self, shape=(rows - count, *columns), offset=self.offset + count * size)

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
        kind = _FLOATS[self.dtype]
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
                raise ConversionError(f"{file} holds tensor {name!r}, which {INDEX} does not list")
            tensors[name] = tensor
    if missing := sorted(weight_map.keys() - tensors.keys()):
        raise ConversionError(f"{INDEX} lists tensor {missing[0]!r}, which no part holds")
    return tensors


def read_index(path: Path) -> dict[str, StoredTensor]:
    """Name → tensor of one file, whose tensors fill it without gap or overlap.

    Raises:
        ConversionError: The file cannot be read or is damaged; names it.
    """
    try:
        with path.open("rb") as stream:
            # This checks all that is relied on below: the length of the header (at most
            # 100 MB), its JSON, and every shape and offset against the size of the file.
            with safe_open(path, framework="np"):
                pass
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise ConversionError(f"{path} is damaged: {reason}") from error
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror or error}") from error
    header.pop("__metadata__", None)
    return {
        name: StoredTensor(
            name=name,
            path=path,
            dtype=entry["dtype"],
            shape=tuple(entry["shape"]),
            offset=8 + length + entry["data_offsets"][0],
        )
        for name, entry in header.items()
    }


def _is_file_name(value: object) -> bool:
    return isinstance(value, str) and value not in {"", ".", ".."} and Path(value).name == value
