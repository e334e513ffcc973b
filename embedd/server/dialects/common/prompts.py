"""``input_type``, ``task`` and ``prompt_name``: three fields for one prompt."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from embedd.errors import InvalidInputError, UnsupportedValueError
from embedd.types import NamedPrompt, Role

ROLES: Final = {
    "query": Role.QUERY,
    "search_query": Role.QUERY,
    "document": Role.DOCUMENT,
    "passage": Role.DOCUMENT,
    "search_document": Role.DOCUMENT,
}
INPUT_TYPES: Final = frozenset({"classification", "clustering"})
TASKS: Final = frozenset({"text-matching", "classification", "separation", "clustering"})
PROMPT_ROLES: Final = {
    "query": Role.QUERY,
    "document": Role.DOCUMENT,
    "passage": Role.DOCUMENT,
}


class Prompt(NamedTuple):
    """What is put before each text: the prefix of a role, or a prompt of another name."""

    role: Role = Role.NONE
    named: NamedPrompt | None = None


NO_PROMPT: Final = Prompt()


def parse_prompt(
    *, input_type: str | None = None, task: str | None = None, prompt_name: str | None = None
) -> Prompt:
    """The prompt that the fields agree on; whether the model has it is seen later.

    Raises:
        InvalidInputError: A value is unknown, or two fields mean different prompts.
    """
    given: dict[str, Prompt] = {}
    if prompt_name is not None:
        role = PROMPT_ROLES.get(prompt_name.lower())
        named = NamedPrompt(name=prompt_name)
        given["prompt_name"] = Prompt(role=role) if role else Prompt(named=named)
    if input_type is not None:
        given["input_type"] = _parse_input_type(input_type)
    if task is not None:
        given["task"] = _parse_task(task)
    if len({_meaning(prompt) for prompt in given.values()}) > 1:
        raise InvalidInputError(f"{_join(given)} mean different prompts", field=next(iter(given)))
    # Of a name the first is the strictest: it comes from `prompt_name` if that was sent.
    return next(iter(given.values()), NO_PROMPT)


def _parse_input_type(value: str) -> Prompt:
    word = value.lower()
    if word in ROLES:
        return Prompt(role=ROLES[word])
    if word in INPUT_TYPES:
        return Prompt(named=NamedPrompt(name=word, is_optional=True))
    if word == "image":
        raise UnsupportedValueError("images are not supported", field="input_type")
    raise _unknown("input_type", value, [*ROLES, *sorted(INPUT_TYPES)])


def _parse_task(value: str) -> Prompt:
    word = value.lower()
    if word.endswith(".query"):
        return Prompt(role=Role.QUERY)
    if word.endswith(".passage"):
        return Prompt(role=Role.DOCUMENT)
    if word in TASKS:
        return Prompt(named=NamedPrompt(name=word, is_optional=True))
    raise _unknown("task", value, ["retrieval.query", "retrieval.passage", *sorted(TASKS)])


def _meaning(prompt: Prompt) -> str:
    return prompt.named.name.lower() if prompt.named else prompt.role


def _join(given: Mapping[str, Prompt]) -> str:
    return " and ".join(given)


def _unknown(field: str, value: str, allowed: list[str]) -> InvalidInputError:
    return InvalidInputError(
        f'unknown {field} "{value}", allowed are: {", ".join(allowed)}', field=field
    )
