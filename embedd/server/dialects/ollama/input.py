"""The field ``input`` of Ollama: a text, texts, a sequence of token ids, or sequences."""

from collections.abc import Sequence

import msgspec
import numpy as np

from embedd.errors import InvalidInputError
from embedd.server.http.bodies import parse_leniently
from embedd.types import ClientIds

_text = msgspec.json.Decoder(str)
_texts = msgspec.json.Decoder(list[str])
_ids = msgspec.json.Decoder(list[int])
_id_lists = msgspec.json.Decoder(list[list[int]])


def parse_inputs(raw: bytes) -> Sequence[str | ClientIds]:
    """Return the inputs in the JSON text *raw*; none for an empty text or list.

    Raises:
        InvalidInputError: ``invalid input type``.
    """
    try:
        return _parse_strictly(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _to_inputs(parse_leniently(raw))


def _parse_strictly(raw: bytes) -> Sequence[str | ClientIds]:
    # The first two characters choose the decoder: msgspec has no union of list types.
    start = raw.lstrip()
    if start[:1] == b'"':
        return _to_inputs(_text.decode(raw))
    if start[:1] != b"[":
        raise InvalidInputError("invalid input type")
    match start[1:].lstrip()[:1]:
        case b"]":
            return []
        case b'"':
            return _texts.decode(raw)
        case b"[":
            return [_to_ids(ids) for ids in _id_lists.decode(raw)]
        case _:
            return [_to_ids(_ids.decode(raw))]


def _to_inputs(value: object) -> Sequence[str | ClientIds]:
    """The inputs that the typed decoders reject: ids may be floats without a fraction."""
    if isinstance(value, str):
        return [value] if value else []
    if not isinstance(value, list):
        raise InvalidInputError("invalid input type")
    if all(isinstance(one, str) for one in value):
        return value
    rows = value if isinstance(value[0], list) else [value]
    return [_to_ids([_to_id(one) for one in row] if isinstance(row, list) else []) for row in rows]


def _to_id(value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise InvalidInputError("invalid input type")


def _to_ids(ids: list[int]) -> ClientIds:
    if not ids:
        raise InvalidInputError("invalid input type")
    try:
        return np.array(ids, np.int64)
    except OverflowError:
        raise InvalidInputError("invalid input type") from None
