"""Runner options: what a request or a stored model says about how a model runs."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from embedd.errors import InvalidInputError

_log = logging.getLogger(__name__)

_INTEGERS: Final = ("num_ctx", "num_gpu", "main_gpu", "num_thread", "num_batch")
_BOOLEANS: Final = ("use_mmap",)
_LARGEST: Final = 2**31 - 1

# Options of text generation: clients send them to every model.
IGNORED: Final = frozenset(
    {
        "draft_num_predict",
        "frequency_penalty",
        "min_p",
        "num_keep",
        "num_predict",
        "presence_penalty",
        "repeat_last_n",
        "repeat_penalty",
        "seed",
        "stop",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options that have an effect; None is absent.

    Args:
        num_ctx: Tokens that an input may have, taken literally: 0 and less refuse all.
        num_gpu: Layers on the GPU; -1 leaves it to the server, 0 is the CPU.
        main_gpu: Number of the GPU; -1 leaves it to the server.
        num_thread: Cores for one encode, from the next load on.
    """

    num_ctx: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    num_thread: int | None = None
    use_mmap: bool | None = None

    @property
    def leave_loading_alone(self) -> bool:
        """Whether they say nothing of how a model is loaded."""
        return self.num_gpu is self.main_gpu is self.num_thread is self.use_mmap is None

    def over(self, base: "Options") -> "Options":
        """These options, and those of *base* where these are absent."""
        merged = {
            field.name: getattr(base if getattr(self, field.name) is None else self, field.name)
            for field in fields(self)
        }
        return Options(**merged)


def parse_options(raw: Mapping[str, object]) -> Options:
    """Check and translate the ``options`` of a request or the parameters of a model.

    Null is absent; a fraction for an integer is cut; unknown names are logged, those
    in `IGNORED` are not even looked at.

    Raises:
        InvalidInputError: With the text that Ollama's clients know.
    """
    values: dict[str, int] = {}
    for name, value in raw.items():
        if value is None or name in IGNORED:
            continue
        if name in _INTEGERS:
            values[name] = _to_integer(name, value)
        elif name in _BOOLEANS:
            values[name] = _to_boolean(name, value)
        else:
            _log.debug("unknown option", extra={"option": name})
    # No batch size ever limits an input here: it was only checked.
    values.pop("num_batch", None)
    return Options(**values)  # type: ignore[arg-type]  # checked by name above


def _to_integer(name: str, value: object) -> int:
    if isinstance(value, float) and math.isfinite(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidInputError(f'option "{name}" must be of type integer')
    # llama.cpp counts in 32 bits; no model is anywhere near.
    return max(-_LARGEST, min(value, _LARGEST))


def _to_boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidInputError(f'option "{name}" must be of type boolean')
    return value
