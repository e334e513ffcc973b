"""The field ``input`` of Ollama's shape: one text, texts, one id sequence, id sequences."""

from collections.abc import Sequence

import msgspec
import numpy as np

from embedd.errors import InvalidInputError
from embedd.types import ClientIds

_text = msgspec.json.Decoder(str)
_texts = msgspec.json.Decoder(list[str])
_ids = msgspec.json.Decoder(list[int])
_id_lists = msgspec.json.Decoder(list[list[int]])
_anything = msgspec.json.Decoder()


def parse_inputs(raw: bytes) -> Sequence[str | ClientIds]:
    """The inputs in JSON text *raw*, the empty text and the empty list being none.

    Raises:
        InvalidInputError: ``invalid input type``.
    """
    compact = raw.lstrip()
    try:
        if compact[:1] == b'"':
            text = _text.decode(raw)
            return [text] if text else []
        second = compact[1:].lstrip()[:1]
        if compact[:1] != b"[":
            raise InvalidInputError("invalid input type")
        if second == b"]":
            return []
        if second == b'"':
            return _texts.decode(raw)
        if second == b"[":
            return [_to_ids(ids) for ids in _id_lists.decode(raw)]
        return [_to_ids(_ids.decode(raw))]
    except msgspec.DecodeError:
        return _parse_floats(raw)


def _parse_floats(raw: bytes) -> Sequence[ClientIds]:
    """Ids that a client wrote as floats without fraction."""
    value = _anything.decode(raw)
    rows = value if isinstance(value[0], list) else [value]
    return [_to_ids([_to_id(one) for one in row] if isinstance(row, list) else []) for row in rows]


def _to_id(value: object) -> int:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not isinstance(value, int | float) or not whole:
        raise InvalidInputError("invalid input type")
    return int(value)


def _to_ids(ids: list[int]) -> ClientIds:
    if not ids:
        raise InvalidInputError("invalid input type")
    try:
        return np.array(ids, np.int64)
    except OverflowError:
        raise InvalidInputError("invalid input type") from None
