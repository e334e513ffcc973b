"""The header of a safetensors file: names, shapes and types of its tensors, bounded.

The format: https://huggingface.co/docs/safetensors.
"""

import math
from typing import BinaryIO, Final

import msgspec

from embedd.errors import ModelLoadError
from embedd.gguf.header import MAX_ENTRIES, TensorFacts

LENGTH_BYTES: Final = 8  # the length of the header, before it
MAX_HEADER_BYTES: Final = 32 << 20  # of 2,600 tensors (SDXL): 300 KB
_METADATA: Final = "__metadata__"
# Name in the file → name as in a GGUF, bytes of an element
_TYPES: Final = {
    "F64": ("F64", 8), "F32": ("F32", 4), "F16": ("F16", 2), "BF16": ("BF16", 2),
    "F8_E4M3": ("F8_E4M3", 1), "F8_E5M2": ("F8_E5M2", 1), "I64": ("I64", 8), "I32": ("I32", 4),
    "I16": ("I16", 2), "I8": ("I8", 1), "U8": ("U8", 1), "BOOL": ("BOOL", 1),
}  # fmt: skip


class _Tensor(msgspec.Struct, frozen=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def read_safetensors(
    start: bytes, stream: BinaryIO, *, size: int | None = None
) -> tuple[TensorFacts, ...]:
    """Facts of the tensors of a safetensors file, shapes with the row length first.

    Args:
        start: The first `LENGTH_BYTES` bytes, which were read from *stream* already.
        size: Bytes of the whole file, if known; the data of all tensors must lie within.

    Raises:
        ModelLoadError: Not a safetensors file, truncated, or beyond a limit.
    """
    length = int.from_bytes(start, "little")
    if len(start) < LENGTH_BYTES or not 2 <= length <= MAX_HEADER_BYTES:
        raise ModelLoadError(
            f"not a GGUF file or safetensors file: it begins with {start!r} (a header of at most "
            f"{MAX_HEADER_BYTES} bytes is accepted)"
        )
    try:
        raw = msgspec.json.decode(_take(stream, length), type=dict[str, msgspec.Raw])
        raw.pop(_METADATA, None)
        entries = {name: msgspec.json.decode(one, type=_Tensor) for name, one in raw.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelLoadError(f"the header of the safetensors file is wrong: {error}") from error
    if len(entries) > MAX_ENTRIES:
        raise ModelLoadError(
            f"the safetensors file has {len(entries)} tensors, at most {MAX_ENTRIES} are accepted"
        )
    room = None if size is None else size - LENGTH_BYTES - length
    return tuple(_to_facts(name, one, room) for name, one in entries.items())


def _to_facts(name: str, tensor: _Tensor, room: int | None) -> TensorFacts:
    kind, width = _TYPES.get(tensor.dtype, (tensor.dtype, 0))
    begin, end = tensor.data_offsets
    elements = math.prod(tensor.shape)
    is_valid = 0 <= begin <= end and min(tensor.shape, default=0) >= 0
    if not is_valid or (width and end - begin != elements * width):
        raise ModelLoadError(
            f"tensor {name!r} of the safetensors file has shape {tensor.shape} and type "
            f"{tensor.dtype}, but its data are bytes {begin} to {end}"
        )
    if room is not None and end > room:
        raise ModelLoadError(
            f"the safetensors file is truncated: it has {room} bytes of data, "
            f"tensor {name!r} ends at byte {end}"
        )
    return TensorFacts(name=name, shape=tuple(reversed(tensor.shape)), type=kind, offset=begin)


def _take(stream: BinaryIO, length: int) -> bytes:
    pieces = []
    left = length
    while left:
        piece = stream.read(left)
        if not piece:
            raise ModelLoadError(
                f"the safetensors file is truncated: its header has {length} bytes, "
                f"{length - left} are there"
            )
        pieces.append(piece[:left])
        left -= len(pieces[-1])
    return b"".join(pieces)
