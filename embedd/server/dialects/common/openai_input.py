"""The field ``input`` as OpenAI has it: texts, token ids, both mixed, objects with a text."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

from embedd.choices import TokenIdChoice
from embedd.errors import (
    EmptyInputError,
    InvalidInputError,
    InvalidTokenIdError,
    TooManyInputsError,
    UnsupportedValueError,
)
from embedd.ollama_api import ChunkField
from embedd.server.dialects.base import Policy
from embedd.server.dialects.common.error_text import FOREIGN_IDS, NO_IDS
from embedd.server.http.large_json import Numbers
from embedd.types import ClientIds

FIELD: Final = "input"
LARGEST: Final = 2**63 - 1
KINDS: Final = {
    str: "a string",
    bool: "a bool",
    int: "a number",
    float: "a number",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


class EmbedBody(msgspec.Struct):
    """Fields of every request with OpenAI's ``input``."""

    model: str | None = None
    input: Any = None
    dimensions: int | None = None
    encoding_format: str | None = None
    chunk: ChunkField = None
    keep_alive: Any = None
    options: dict[str, Any] | None = None


def parse_inputs(
    value: object, policy: Policy, *, from_openai: bool = False
) -> Sequence[str | ClientIds]:
    """The inputs in *value*, a field of a body; the empty text is an input.

    Args:
        from_openai: As in `check_ids`.

    Raises:
        EmptyInputError: There are no inputs.
        InvalidTokenIdError: Token ids that no model has, or that the policy refuses.
        InvalidInputError: An input is neither text nor token ids, or there are too many.
    """
    if isinstance(value, list) and value and not isinstance(value[0], int | float):
        check_count(value, policy.max_inputs)  # before they are converted
    inputs = _to_inputs(value)
    check_count(inputs, policy.max_inputs)
    check_ids(inputs, policy, from_openai=from_openai)
    return inputs


def check_inputs(
    inputs: Sequence[str | ClientIds], policy: Policy, field: str = FIELD
) -> Sequence[str | ClientIds]:
    """Return *inputs* if the policy allows their number and kinds.

    Raises:
        TooManyInputsError: There are more than `Policy.max_inputs`.
        InvalidTokenIdError: Token arrays are not accepted.
    """
    check_count(inputs, policy.max_inputs, field)
    check_ids(inputs, policy)
    return inputs


def check_ids(inputs: Sequence[object], policy: Policy, *, from_openai: bool = False) -> None:
    """Check that *inputs* are texts where the policy accepts no token ids.

    Args:
        from_openai: Whether clients of the route send ids of OpenAI's vocabularies.

    Raises:
        InvalidTokenIdError: One is not a text.
    """
    if policy.token_ids is TokenIdChoice.OWN or (
        policy.token_ids is TokenIdChoice.AUTO and not from_openai
    ):
        return
    if not all(isinstance(one, str) for one in inputs):
        raise InvalidTokenIdError(FOREIGN_IDS if policy.token_ids is TokenIdChoice.AUTO else NO_IDS)


def check_count(inputs: Sequence[object], limit: int, field: str = FIELD) -> None:
    """Check that there are at most *limit* inputs.

    Raises:
        TooManyInputsError: There are more.
    """
    if len(inputs) > limit:
        raise TooManyInputsError(len(inputs), limit=limit, field=field)


def _to_inputs(value: object) -> Sequence[str | ClientIds]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, np.ndarray):
        return [to_ids(value, 0, place="input[{}]")]
    if value is None or value == []:
        found = "is missing or null" if value is None else "is an empty array"
        raise EmptyInputError(
            f"invalid input: {FIELD} {found}: send a text, or an array of at least one",
            field=FIELD,
        )
    if not isinstance(value, list):
        raise InvalidInputError("invalid input type", field=FIELD)
    if {*map(type, value)} == {str}:
        return value
    if isinstance(value[0], int | float):
        return [to_ids(value, 0, place="input[{}]")]
    return [_to_input(one, index) for index, one in enumerate(value)]


def _to_input(value: object, index: int) -> str | ClientIds:
    match value:
        case str():
            return value
        case []:
            raise InvalidInputError(
                f"invalid input: input[{index}] is an empty token array", index=index, field=FIELD
            )
        case list() | np.ndarray():
            return to_ids(value, index, place=f"input[{index}][{{}}]")
        case {"text": str(text), **others} if not others:
            return text
        case dict() if value.keys() - {"text"}:
            raise UnsupportedValueError("images are not supported", index=index, field=FIELD)
        case _:
            raise _wrong_type(value, f"input[{index}]", index)


def parse_ids(field: str, value: object, index: int = 0) -> ClientIds:
    """One sequence of token ids, which may be empty; *index* is its place in the request.

    Raises:
        InvalidInputError: *value* is not a list of token ids.
    """
    if not isinstance(value, list | np.ndarray):
        raise InvalidInputError(f"{field} must be a list of token ids", field=field)
    return to_ids(value, index, place=f"{field}[{{}}]")


def to_ids(row: Sequence[object] | Numbers, index: int, *, place: str) -> ClientIds:
    """The token ids as sent; *place* names one of them in messages.

    Raises:
        InvalidTokenIdError: A number is not a token id.
        InvalidInputError: An element is not a number.
    """
    if isinstance(row, np.ndarray) and row.dtype == np.int64:
        return row.astype(np.int64, copy=False)
    if {*map(type, row)} != {int}:
        row = [_to_id(one, index, position, place) for position, one in enumerate(row)]
    try:
        return np.array(row, np.int64)
    except OverflowError:
        position = next(n for n, one in enumerate(row) if abs(int(str(one))) > LARGEST)
        raise _invalid_id(str(row[position]), index, position) from None


def _to_id(value: object, index: int, position: int, place: str) -> int:
    match value:
        case bool():
            raise _invalid_id(str(value).lower(), index, position)
        case int():
            return value
        case float() if value.is_integer():
            return int(value)
        case _:
            raise _wrong_type(value, place.format(position), index)


def _invalid_id(value: str, index: int, position: int) -> InvalidTokenIdError:
    return InvalidTokenIdError(
        f"{value} is not a token id", index=index, position=position, value=value
    )


def _wrong_type(value: object, place: str, index: int) -> InvalidInputError:
    return InvalidInputError(
        f"invalid input type: {place} is {KINDS[type(value)]}", index=index, field=FIELD
    )
