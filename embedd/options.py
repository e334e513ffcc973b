"""Runner options of requests and stored models, such as ``num_ctx``."""

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

# Options of text generation and of painting: clients send them to every model.
IGNORED: Final = frozenset(
    {
        "draft_num_predict",
        "frequency_penalty",
        "guidance",
        "height",
        "min_p",
        "num_keep",
        "num_predict",
        "presence_penalty",
        "repeat_last_n",
        "repeat_penalty",
        "seed",
        "steps",
        "stop",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "width",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options that have an effect; None is not set.

    Args:
        num_ctx: Limit of tokens in an input; 0 and negative numbers refuse every input.
        num_gpu: Layers on the GPU; 0 is the CPU, -1 leaves it to the server.
        main_gpu: Index of the GPU; -1 leaves it to the server.
        num_thread: Cores for one batch, from the next load on.
    """

    num_ctx: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    num_thread: int | None = None
    use_mmap: bool | None = None

    @property
    def affect_loading(self) -> bool:
        """Whether one of them changes how a model is loaded."""
        if self is UNSET:  # most requests
            return False
        loading = (self.num_gpu, self.main_gpu, self.num_thread, self.use_mmap)
        return any(one is not None for one in loading)

    def over(self, base: "Options") -> "Options":
        """Return these options, with those of *base* where these are not set."""
        if self is UNSET or self == UNSET:  # the first is quick
            return base
        merged = {
            field.name: getattr(base if getattr(self, field.name) is None else self, field.name)
            for field in fields(self)
        }
        return Options(**merged)


UNSET: Final = Options()


def parse_options(raw: Mapping[str, object]) -> Options:
    """Check and translate the ``options`` of a request or the parameters of a model.

    Null counts as not set; a fraction for an integer is truncated; unknown names are logged;
    the values of those in `IGNORED` are not checked.

    Raises:
        InvalidInputError: A value has the wrong type. The text is Ollama's.
    """
    if not raw:
        return UNSET
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
    # Checked and not used: here the batch size does not limit an input.
    values.pop("num_batch", None)
    return Options(**values)  # type: ignore[arg-type]  # checked by name above


def _to_integer(name: str, value: object) -> int:
    if isinstance(value, float) and math.isfinite(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidInputError(f'option "{name}" must be of type integer')
    # llama.cpp counts in 32 bits.
    return max(-_LARGEST, min(value, _LARGEST))


def _to_boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidInputError(f'option "{name}" must be of type boolean')
    return value
