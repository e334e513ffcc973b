"""Values of ``config.json``, checked one by one."""

import math
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from embedd.errors import ConversionError

Config: TypeAlias = Mapping[str, object]
# Key → accepted values, None where the key may be absent
Accepted: TypeAlias = Mapping[str, tuple[object, ...]]

MAX_SIZE: Final = 2**31
FULL: Final = "full_attention"  # kinds of layers
SLIDING: Final = "sliding_attention"


def check_values(config: Config, accepted: Accepted) -> None:
    """Raise if a value is not one of those that llama.cpp's graph computes.

    Raises:
        ConversionError: Names the key, its value and what is converted.
    """
    for key, values in accepted.items():
        found = config.get(key)
        if not any(found == value and type(found) is type(value) for value in values):
            wanted = " or ".join(repr(value) for value in values if value is not None)
            raise ConversionError(
                f"config.json has {key} {found!r}: only {wanted or 'a model without it'} "
                "is converted"
            )


def read_size(config: Config, key: str, default: int | None = None) -> int:
    """A positive integer below 2**31."""
    value = config.get(key, default)
    if type(value) is not int or not 0 < value < MAX_SIZE:
        raise ConversionError(f"config.json has {key} {value!r}: it must be a positive integer")
    return value


def read_heads(config: Config, width_key: str, heads_key: str) -> int:
    """The number of attention heads, which share the width evenly."""
    width, heads = read_size(config, width_key), read_size(config, heads_key)
    if width % heads:
        raise ConversionError(
            f"config.json: {width_key} {width} is not a multiple of {heads} heads"
        )
    return heads


def read_positive(config: Config, key: str, default: float) -> float:
    """A positive finite number."""
    value = config.get(key, default)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    raise ConversionError(f"config.json has {key} {value!r}: it must be positive")


def read_rope_base(config: Config, key: str, default: float, *, layers: str = FULL) -> float:
    """The base of the rotary positions of *layers*, `FULL` or `SLIDING`.

    Newer files have it in ``rope_parameters``, older ones under *key* with scaling beside it.

    Raises:
        ConversionError: Positions are scaled, or only a part of a head is rotated.
    """
    options = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(options, dict):
        raise ConversionError(f"config.json has rotary positions {options!r}, which are not known")
    own = options.get(layers)
    chosen = own if isinstance(own, dict) else options
    kind = chosen.get("rope_type", chosen.get("type", "default"))
    if kind != "default":
        raise ConversionError(
            f"config.json scales rotary positions by {kind!r}: only plain ones are converted"
        )
    for part in (config.get("partial_rotary_factor"), chosen.get("partial_rotary_factor")):
        if part not in (None, 1):
            raise ConversionError(
                f"config.json has partial_rotary_factor {part!r}: only whole heads are rotated"
            )
    value = config.get(key, default)
    if layers == FULL or chosen is own:
        value = chosen.get("rope_theta", value)
    return read_positive({key: value}, key, default)


def read_labels(config: Config) -> tuple[str, ...]:
    """The names of a cross-encoder's scores in their order, from ``id2label``."""
    labels = config.get("id2label")
    if isinstance(labels, dict) and labels:
        ordered = [labels.get(str(index)) for index in range(len(labels))]
        if all(isinstance(label, str) for label in ordered):
            return tuple(str(label) for label in ordered)
    raise ConversionError(
        f"config.json has id2label {labels!r}: a cross-encoder needs a label for each score"
    )


def check_layer_types(config: Config, layers: int, *, is_full: Callable[[int], bool]) -> None:
    """Check ``layer_types``, where *config* lists them: a layer attends to all, or to a window.

    Raises:
        ConversionError: They are not in the order that llama.cpp computes.
    """
    listed = config.get("layer_types")
    if listed is None:
        return
    if not isinstance(listed, list) or len(listed) != layers:
        raise ConversionError(f"config.json has layer_types that are not a list of {layers} names")
    for layer, found in enumerate(listed):
        wanted = FULL if is_full(layer) else SLIDING
        if found != wanted:
            raise ConversionError(
                f"config.json has {found!r} as type of layer {layer}: only {wanted!r} is converted"
            )
