"""Rotary position embeddings (Su et al. 2021), with the scaling that llama.cpp applies."""

import math
from typing import TypeAlias

import numpy as np

from embedd.engine.openvino import blocks
from embedd.engine.openvino.blocks import GraphInputs, Node
from embedd.engine.openvino.config import GraphConfig
from embedd.engine.openvino.library import ops as op
from embedd.engine.openvino.tensors import Array, Gguf

Rotary: TypeAlias = tuple[Node, Node]  # cosines and sines, each (1, 1, tokens, width of a head)

BASE = 10000.0
FAST_TURNS, SLOW_TURNS = 32, 1  # YaRN keeps what turns more often, and scales what turns less


def read_rotary(gguf: Gguf, inputs: GraphInputs, config: GraphConfig) -> Rotary:
    """Return the rotation that a file describes.

    Raises:
        UnsuitableError: It turns only part of a head, or is scaled in an unknown way.
    """
    gguf.expect("rope.dimension_count", config.head_width)
    gguf.expect("rope.scaling.type", "none", "linear", "yarn")
    kind = gguf.text("rope.scaling.type", "linear")
    base = gguf.number("rope.freq_base", BASE)
    turns = _frequencies(base, config.head_width)
    factor = gguf.number("rope.scaling.factor", 0.0) or 1.0
    magnitude = gguf.number("rope.scaling.attn_factor", 1.0)
    original = gguf.integer("rope.scaling.original_context_length", config.context_length)
    if kind == "linear":
        turns = turns / factor
    elif kind == "yarn":
        share = _scaled_share(base, config.head_width, original)
        turns = turns / factor * share + turns * (1 - share)
        magnitude *= 1 + 0.1 * math.log(factor)
    return make_rotary(inputs, config, turns, magnitude)


def plain_rotary(inputs: GraphInputs, config: GraphConfig, base: float) -> Rotary:
    """Return the rotation with this base, without scaling."""
    return make_rotary(inputs, config, _frequencies(base, config.head_width))


def make_rotary(
    inputs: GraphInputs, config: GraphConfig, frequencies: Array, magnitude: float = 1.0
) -> Rotary:
    """Return the rotation by *frequencies*, in radians per position, in the NeoX layout.

    Cosines and sines are looked up: computed in bf16, an angle of some hundred radians would be
    wrong by a large part of a turn.
    """
    angles = np.arange(config.context_length)[:, np.newaxis] * frequencies
    cosine, sine = (_look_up(function(angles) * magnitude, inputs) for function in (np.cos, np.sin))
    return cosine, sine


def apply_rotary(x: Node, rotary: Rotary | None, config: GraphConfig) -> Node:
    """Rotate *x* (sequences, heads, tokens, width of a head) by its positions."""
    if rotary is None:
        return x
    cosine, sine = rotary
    half = config.head_width // 2
    # OpenVINO computes these nodes in one step if they are exactly so: the split along an axis
    # that is counted from the front, and the product with -1.
    split = op.variadic_split(x, op.constant(np.int64(3)), blocks.ints(half, half))
    turned = op.multiply(split.output(1), op.constant(np.float32(-1)))
    rotated = op.concat([turned, split.output(0)], -1)
    return op.add(op.multiply(x, cosine), op.multiply(rotated, sine))


def _look_up(table: Array, inputs: GraphInputs) -> Node:
    rows = op.gather(op.constant(table.astype(np.float32)), inputs.positions, blocks.scalar(0))
    return op.unsqueeze(op.concat([rows, rows], -1), blocks.ints(0, 1))


def _frequencies(base: float, size: int) -> Array:
    """Return the radians per position of each pair of *size* numbers."""
    frequencies: Array = base ** (-np.arange(0, size, 2) / size)
    return frequencies


def _scaled_share(base: float, size: int, original: int) -> Array:
    """Return how much of each frequency YaRN scales (Peng et al. 2023): 0 of fast, 1 of slow."""

    def place(turns: float) -> float:
        return size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(0, math.floor(place(FAST_TURNS))), min(size - 1, math.ceil(place(SLOW_TURNS)))
    share: Array = np.clip((np.arange(size // 2) - low) / max(0.001, high - low), 0, 1)
    return share
