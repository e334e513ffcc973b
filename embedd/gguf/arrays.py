"""The arrays of a GGUF, which `embedd.gguf.header` skips: vocabulary, merges, scores."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from embedd.errors import ModelLoadError
from embedd.exhaustion import to_file_error
from embedd.gguf.header import read_preamble
from embedd.gguf.reader import MAX_KEY_BYTES, Array, Reader, open_regular
from embedd.gguf.types import ARRAY, STRING


@dataclass(frozen=True, slots=True, kw_only=True)
class RawArrays:
    """Arrays of a GGUF as its bytes have them, by key.

    Args:
        strings: The elements of arrays of strings, which need not be UTF-8.
        numbers: All elements of the other arrays end to end, little-endian.
    """

    strings: dict[str, list[bytes]] = field(default_factory=dict)
    numbers: dict[str, bytes] = field(default_factory=dict)


def read_arrays(path: Path) -> dict[str, Array]:
    """Keys with array values → their elements, in the order of the file; no empty arrays.

    Raises:
        ModelLoadError: The file cannot be read, is not a GGUF, or is beyond a limit.
    """
    arrays: dict[str, Array] = {}

    def take(source: Reader, key: str) -> None:
        if elements := source.elements(*source.array_head(key), key):
            arrays[key] = elements

    _read(path, take)
    return arrays


def read_raw_arrays(path: Path, keys: Collection[str]) -> RawArrays:
    """The arrays of *keys* that the file has.

    Raises:
        ModelLoadError: As `read_arrays`.
    """
    arrays = RawArrays()

    def take(source: Reader, key: str) -> None:
        kind, length = source.array_head(key)
        if key not in keys:
            source.skip_elements(kind, length, key)
        elif kind == STRING:
            arrays.strings[key] = source.strings(length)
        else:
            arrays.numbers[key] = source.numbers(kind, length, key)

    _read(path, take)
    return arrays


def _read(path: Path, take_array: Callable[[Reader, str], None]) -> None:
    """Call *take_array* with the key of each array, where it is to be read or skipped."""
    try:
        with open_regular(path) as stream:
            source = Reader(stream)
            _, _, pair_count = read_preamble(source)
            for _ in range(pair_count):
                key = source.text(MAX_KEY_BYTES, "bytes in a key")
                number = source.u32()
                if number == ARRAY:
                    take_array(source, key)
                else:
                    source.scalar(number, key)
    except OSError as error:
        what = f"{path} cannot be read"
        raise (
            to_file_error(error, what) or ModelLoadError(f"{what}: {error.strerror or error}")
        ) from error
    except ModelLoadError as error:
        raise ModelLoadError(f"{path}: {error}") from error
