"""The arrays of a GGUF, which `gguf_header` skips: vocabulary, merges, scores.

Only for files that `gguf_header.read_header_file` has accepted: nothing is checked twice
but what bounds memory.
"""

import struct
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from embedd.errors import ModelLoadError
from embedd.gguf.header import MAX_ARRAY_LENGTH, MAX_HEADER_BYTES, Scalar

Array: TypeAlias = list[Scalar]

_STRING, _ARRAY = 8, 9
_CODES: Final = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}


def read_arrays(path: Path) -> dict[str, Array]:
    """Keys with array values → their elements, in the order of the file.

    Raises:
        ModelLoadError: The file cannot be read, or is another one than was checked.
    """
    try:
        with path.open("rb") as stream:
            stream.seek(16)  # magic, version, number of tensors
            pairs = _number(stream, "Q")
            return {key: value for key, value in (_pair(stream) for _ in range(pairs)) if value}
    except (OSError, struct.error, KeyError) as error:
        raise ModelLoadError(f"{path} cannot be read: {error}") from error


def _pair(stream: BinaryIO) -> tuple[str, Array]:
    """A key and its elements; none for a scalar."""
    key = _text(stream)
    kind = _number(stream, "I")
    if kind != _ARRAY:
        _elements(stream, kind, 1)
        return key, []
    return key, _elements(stream, _number(stream, "I"), _number(stream, "Q"))


def _elements(stream: BinaryIO, kind: int, count: int) -> Array:
    _check(count, MAX_ARRAY_LENGTH)
    if kind == _STRING:
        return [_text(stream) for _ in range(count)]
    packing = struct.Struct(f"<{count}{_CODES[kind]}")
    return list(packing.unpack(stream.read(packing.size)))


def _text(stream: BinaryIO) -> str:
    length = _number(stream, "Q")
    _check(length, MAX_HEADER_BYTES)
    return stream.read(length).decode(errors="replace")


def _number(stream: BinaryIO, code: str) -> int:
    packing = struct.Struct(f"<{code}")
    number: int = packing.unpack(stream.read(packing.size))[0]
    return number


def _check(number: int, limit: int) -> None:
    if number > limit:
        raise ModelLoadError(f"not a usable GGUF: {number} is beyond {limit}", limit=limit)
