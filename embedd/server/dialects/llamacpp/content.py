"""The field ``content`` of llama.cpp's server: texts, token ids, or both in one sequence."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from embedd.choices import TokenIdChoice
from embedd.errors import EmptyInputError, InvalidInputError, InvalidTokenIdError
from embedd.server.dialects.base import Policy
from embedd.server.dialects.common.error_text import NO_IDS
from embedd.server.dialects.common.openai_input import check_count, to_ids
from embedd.types import ClientIds, Input

FIELD = "content"


def parse_content(value: object, policy: Policy) -> Sequence[Input]:
    """Return the inputs: a list with a number in it is one input, any other list one for each.

    Raises:
        EmptyInputError: There are no inputs, or one is an empty list.
        InvalidTokenIdError: Token ids that no model has, or that the policy refuses.
        InvalidInputError: An input is of another kind, or there are too many.
    """
    several = isinstance(value, list) and not any(_is_number(one) for one in value)
    values = value if isinstance(value, list) and several else [value]
    if not values:
        raise EmptyInputError("no content", field=FIELD)
    # Counted before they are parsed, which takes time.
    check_count(values, policy.max_inputs, FIELD)
    return [parse_one(one, policy, index) for index, one in enumerate(values)]


def parse_one(value: object, policy: Policy, index: int = 0) -> Input:
    """Return an input: a text, ``{"prompt_string": text}``, ids, or a mix of texts and ids.

    Raises:
        EmptyInputError: The input is an empty list.
        InvalidTokenIdError: As `parse_content`.
        InvalidInputError: The input is of another kind.
    """
    match value:
        case str():
            return value
        case {"prompt_string": str(text)}:
            return text
        case []:
            raise EmptyInputError("no content", index=index, field=FIELD)
        case np.ndarray():
            _check_policy(policy)
            return to_ids(value, index, place=f"content[{index}][{{}}]")
        case list():
            return _parse_list(value, policy, index)
        case _:
            raise InvalidInputError(
                f'"content" must be text, token ids or a mix of both (input {index})',
                index=index,
                field=FIELD,
            )


def _parse_list(values: list[object], policy: Policy, index: int) -> Input:
    place = f"content[{index}][{{}}]"
    if all(isinstance(one, str) for one in values):
        return tuple(str(one) for one in values)
    _check_policy(policy)
    if not any(isinstance(one, str) for one in values):
        return to_ids(values, index, place=place)
    parts: list[str | ClientIds] = []
    for is_text, group in groupby(values, key=lambda one: isinstance(one, str)):
        if is_text:
            parts += [str(one) for one in group]
        else:
            parts.append(to_ids(list(group), index, place=place))
    return tuple(parts)


def _check_policy(policy: Policy) -> None:
    if policy.token_ids is TokenIdChoice.REJECT:
        raise InvalidTokenIdError(NO_IDS)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
