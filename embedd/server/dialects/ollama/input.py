"""The field ``input`` of Ollama: a text, texts, a sequence of token ids, or sequences."""

from collections.abc import Sequence
from itertools import accumulate, chain, pairwise

import numpy as np

from embedd.errors import InvalidInputError
from embedd.server.dialects.common.openai_input import check_count
from embedd.types import ClientIds


def parse_inputs(value: object, max_inputs: int) -> Sequence[str | ClientIds]:
    """Return the inputs in *value*, a field of a body; none for an empty text or list.

    Raises:
        TooManyInputsError: There are more than *max_inputs*.
        InvalidInputError: ``invalid input type``.
    """
    if isinstance(value, str):
        return [value] if value else []
    if isinstance(value, np.ndarray):
        return _to_sequences([value])
    if not isinstance(value, list):
        raise _wrong_type()
    if not value:
        return []
    if isinstance(value[0], int | float):
        return _to_sequences([value])
    check_count(value, max_inputs)
    if {*map(type, value)} == {str}:
        return value
    return _to_sequences(value)


def _to_sequences(rows: Sequence[object]) -> Sequence[ClientIds]:
    """One sequence of ids for each row: ids may be floats without a fraction."""
    if {*map(type, rows)} == {list}:
        lists = [row for row in rows if isinstance(row, list)]
        ids = list(chain.from_iterable(lists))
        if {*map(type, ids)} == {int} and all(lists):
            # All at once: thousands of small arrays would take a tenth of a second.
            every = _to_array(ids)
            ends = accumulate(map(len, lists), initial=0)
            return [every[start:end] for start, end in pairwise(ends)]
    return [_to_ids(row) for row in rows]


def _to_ids(row: object) -> ClientIds:
    if isinstance(row, np.ndarray) and row.dtype == np.int64:
        return row
    if not isinstance(row, list | np.ndarray) or not len(row):
        raise _wrong_type()
    return _to_array([_to_id(one) for one in row])


def _to_id(value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _wrong_type()


def _to_array(ids: list[int]) -> ClientIds:
    try:
        return np.array(ids, np.int64)
    except OverflowError:
        raise _wrong_type() from None


def _wrong_type() -> InvalidInputError:
    return InvalidInputError("invalid input type")
