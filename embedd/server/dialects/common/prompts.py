"""``input_type``, ``task`` and ``prompt_name``: three fields for one prompt."""

from collections.abc import Mapping
from typing import Final

from embedd.errors import InvalidInputError, UnsupportedValueError
from embedd.types import Prompt

QUERY: Final = Prompt(name="query")
DOCUMENT: Final = Prompt(name="document")
ROLES: Final = {
    "query": QUERY,
    "search_query": QUERY,
    "document": DOCUMENT,
    "passage": DOCUMENT,
    "search_document": DOCUMENT,
}
INPUT_TYPES: Final = frozenset({"classification", "clustering"})
TASKS: Final = frozenset({"text-matching", "classification", "separation", "clustering"})
PROMPT_ROLES: Final = {"query": QUERY, "document": DOCUMENT, "passage": DOCUMENT}


def parse_prompt(
    *, input_type: str | None = None, task: str | None = None, prompt_name: str | None = None
) -> Prompt | None:
    """Return the prompt that the fields agree on; the model may not have it.

    Raises:
        InvalidInputError: A value is unknown, or two fields name different prompts.
    """
    given: dict[str, Prompt] = {}
    if prompt_name is not None:
        given["prompt_name"] = PROMPT_ROLES.get(prompt_name.lower()) or Prompt(name=prompt_name)
    if input_type is not None:
        given["input_type"] = _parse_input_type(input_type)
    if task is not None:
        given["task"] = _parse_task(task)
    if len({prompt.name.lower() for prompt in given.values()}) > 1:
        raise InvalidInputError(f"{_join(given)} mean different prompts", field=next(iter(given)))
    # Of equal names the first is the strictest: it comes from `prompt_name` if that was sent.
    return next(iter(given.values()), None)


def _parse_input_type(value: str) -> Prompt:
    word = value.lower()
    if word in ROLES:
        return ROLES[word]
    if word in INPUT_TYPES:
        return Prompt(name=word, is_optional=True)
    if word == "image":
        raise UnsupportedValueError("images are not supported", field="input_type")
    raise _unknown("input_type", value, [*ROLES, *sorted(INPUT_TYPES)])


def _parse_task(value: str) -> Prompt:
    word = value.lower()
    if word.endswith(".query"):
        return QUERY
    if word.endswith(".passage"):
        return DOCUMENT
    if word in TASKS:
        return Prompt(name=word, is_optional=True)
    raise _unknown("task", value, ["retrieval.query", "retrieval.passage", *sorted(TASKS)])


def _join(given: Mapping[str, Prompt]) -> str:
    return " and ".join(given)


def _unknown(field: str, value: str, allowed: list[str]) -> InvalidInputError:
    return InvalidInputError(
        f'unknown {field} "{value}", allowed are: {", ".join(allowed)}', field=field
    )
