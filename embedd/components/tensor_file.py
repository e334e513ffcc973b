"""The tensors of a GGUF or a safetensors file, and what they say of it."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, cast

from embedd.components.safetensors_header import LENGTH_BYTES, read_safetensors
from embedd.errors import ModelLoadError
from embedd.exhaustion import to_file_error
from embedd.gguf.header import TensorFacts, read_header
from embedd.gguf.reader import Scalar, open_regular

GGUF: Final = "gguf"
SAFETENSORS: Final = "safetensors"
# A zip archive or a pickle: what torch.save writes.
_PICKLES: Final = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04")
_INTEGERS: Final = {"I8", "I16", "I32", "I64", "U8", "BOOL"}  # never the type of the weights


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFile:
    """A file of tensors.

    Args:
        format: ``gguf`` or ``safetensors``.
        metadata: Scalars of a GGUF's header.
    """

    format: str
    tensors: tuple[TensorFacts, ...]
    metadata: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor by its name, row length first."""
        return {tensor.name: tensor.shape for tensor in self.tensors}

    @property
    def parameter_count(self) -> int:
        """Number of elements in all tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)


def weight_type(files: Iterable[TensorFile]) -> str:
    """The type of most weights: ``Q4_0``, ``F16`` …; empty if there are none."""
    elements: Counter[str] = Counter()
    for tensor in (tensor for file in files for tensor in file.tensors):
        if tensor.type not in _INTEGERS:
            elements[tensor.type] += math.prod(tensor.shape)
    return elements.most_common(1)[0][0] if elements else ""


def read_tensor_file(path: Path) -> TensorFile:
    """Read the header of the file at *path*.

    Raises:
        ModelLoadError: It cannot be read, or is neither; names the file.
    """
    try:
        with open_regular(path) as stream:
            return read_tensors(stream, size=path.stat().st_size)
    except OSError as error:
        what = f"{path} cannot be read"
        raise (
            to_file_error(error, what) or ModelLoadError(f"{what}: {error.strerror or error}")
        ) from error
    except ModelLoadError as error:
        raise ModelLoadError(f"{path}: {error}") from error


def read_tensors(stream: BinaryIO, *, size: int | None = None) -> TensorFile:
    """Read the header of a GGUF or safetensors file at the beginning of *stream*.

    Args:
        stream: Needs only a blocking ``read``, and no ``seek``.
        size: Bytes of the whole file, if known.

    Raises:
        ModelLoadError: It is neither, or it is damaged.
    """
    start = _take(stream, LENGTH_BYTES)
    if start.startswith(b"GGUF"):
        facts = read_header(_resume(start, stream), size=size, of_image_model=True)
        return TensorFile(format=GGUF, tensors=facts.tensors, metadata=facts.metadata)
    if start.startswith(_PICKLES):
        raise ModelLoadError(
            "not a GGUF file or safetensors file, but a pickle, as torch writes them (.ckpt, .pt, "
            ".bin): reading one can run code; use the model's safetensors or GGUF file"
        )
    rest = _resume(start[LENGTH_BYTES:], stream)
    tensors = read_safetensors(start[:LENGTH_BYTES], rest, size=size)
    return TensorFile(format=SAFETENSORS, tensors=tensors)


def _resume(start: bytes, stream: BinaryIO) -> BinaryIO:
    return cast("BinaryIO", _Resumed(start, stream))


class _Resumed:
    """A stream whose first bytes were read already."""

    def __init__(self, start: bytes, stream: BinaryIO) -> None:
        self._start = start
        self._stream = stream

    def read(self, size: int) -> bytes:
        """The bytes that were read already, then those of the stream."""
        start, self._start = self._start, b""
        return start or self._stream.read(size)


def _take(stream: BinaryIO, count: int) -> bytes:
    """At least *count* bytes, unless the stream ends; some streams give more than asked."""
    data = b""
    while len(data) < count and (piece := stream.read(count - len(data))):
        data += piece
    return data
