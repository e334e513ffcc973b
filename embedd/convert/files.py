"""The JSON files of a checkpoint folder."""

import json
from pathlib import Path
from typing import Final

from embedd.errors import ConversionError

MAX_JSON_BYTES: Final = 64 << 20  # tokenizer.json of a large vocabulary takes 20 MB


def read_json(path: Path) -> object:
    """The value in the JSON file at *path*.

    Raises:
        ConversionError: The file is missing, too large, or not JSON; names it.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise ConversionError(
                f"{path} has {size} bytes, at most {MAX_JSON_BYTES} are read", limit=MAX_JSON_BYTES
            )
        data = path.read_bytes()
        value: object = json.loads(data)
        if b"\\ud" in data.lower():
            json.dumps(value, ensure_ascii=False).encode()  # halves of pairs have no encoding
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{path} is not JSON: {error}") from error
    return value


def read_json_object(path: Path) -> dict[str, object]:
    """As `read_json`, for a file that must hold an object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ConversionError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


def read_optional_object(path: Path) -> dict[str, object]:
    """As `read_json_object`; empty if there is no such file."""
    return read_json_object(path) if path.is_file() else {}
