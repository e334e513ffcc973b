"""The arrays of a GGUF, which `embedd.gguf.header` skips: vocabulary, merges, scores."""

from pathlib import Path

from embedd.errors import ModelLoadError
from embedd.gguf.header import read_preamble
from embedd.gguf.reader import MAX_KEY_BYTES, Array, Reader
from embedd.gguf.types import ARRAY


def read_arrays(path: Path) -> dict[str, Array]:
    """Keys with array values → their elements, in the order of the file; no empty arrays.

    Raises:
        ModelLoadError: The file cannot be read, is not a GGUF, or is beyond a limit.
    """
    arrays: dict[str, Array] = {}
    try:
        with path.open("rb") as stream:
            source = Reader(stream)
            _, _, pair_count = read_preamble(source)
            for _ in range(pair_count):
                key = source.text(MAX_KEY_BYTES, "bytes in a key")
                number = source.u32()
                if number != ARRAY:
                    source.scalar(number, key)
                elif elements := source.elements(*source.array_head(key), key):
                    arrays[key] = elements
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror or error}") from error
    except ModelLoadError as error:
        raise ModelLoadError(f"{path}: {error}") from error
    return arrays
