"""Masks of attention: what is added to the score of a token (column) for another (row)."""

import numpy as np

from embedd.engine.openvino import blocks
from embedd.engine.openvino.blocks import GraphInputs, Node
from embedd.engine.openvino.config import GraphConfig
from embedd.engine.openvino.library import ops as op
from embedd.engine.openvino.tensors import Array

MASKED = np.float32(-1e9)  # added to a score that must not count


def padding_mask(inputs: GraphInputs) -> Node:
    """Mask the padding of each sequence: (sequences, 1, 1, tokens)."""
    return op.unsqueeze(_hide(op.logical_not(inputs.is_token)), blocks.ints(1, 2))


def alibi_mask(inputs: GraphInputs, heads: int) -> Node:
    """Mask padding, less ALiBi's penalty of distance: (sequences, heads, tokens, tokens)."""
    slopes = op.constant(alibi_slopes(heads).reshape(1, heads, 1, 1))
    distances = op.convert(op.abs(_steps_back(inputs)), "f32")
    return op.subtract(padding_mask(inputs), op.multiply(distances, slopes))


def alibi_slopes(heads: int, max_bias: float = 8.0) -> Array:
    """Return each head's penalty per token of distance, as in ggml's ``ggml_soft_max_ext``."""
    whole = 1 << (heads.bit_length() - 1)
    head = np.arange(heads)
    first = 2.0 ** (-max_bias / whole * (head + 1))
    between = 2.0 ** (-max_bias / 2 / whole * (2 * (head - whole) + 1))
    slopes: Array = np.where(head < whole, first, between).astype(np.float32)
    return slopes


def symmetric_window_mask(inputs: GraphInputs, window: int) -> Node:
    """Mask padding, and tokens farther than half a *window*: (sequences, 1, tokens, tokens)."""
    far = op.greater(op.abs(_steps_back(inputs)), blocks.scalar(window // 2))
    return op.add(padding_mask(inputs), op.unsqueeze(_hide(far), blocks.ints(0, 1)))


def causal_mask(inputs: GraphInputs, window: int | None = None) -> Node:
    """Mask later tokens, and those *window* and more tokens before: (1, 1, tokens, tokens).

    Padding comes after all tokens, so that none of them attends to it.
    """
    back = _steps_back(inputs)
    hidden = op.less(back, blocks.scalar(0))
    if window is not None:
        hidden = op.logical_or(hidden, op.greater_equal(back, blocks.scalar(window)))
    return op.unsqueeze(_hide(hidden), blocks.ints(0, 1))


def take_rows(mask: Node, kept: Node) -> Node:
    """Return the rows of these tokens of a causal mask: (sequences, 1, kept, tokens)."""
    rows = op.gather(op.squeeze(mask, blocks.ints(0, 1)), kept, blocks.scalar(0))
    return op.unsqueeze(rows, blocks.ints(1))


def repeat_rows(mask: Node, config: GraphConfig) -> Node:
    """Repeat a mask's rows for each head of queries that shares a head of keys."""
    return mask if config.groups == 1 else op.tile(mask, blocks.ints(1, 1, config.groups, 1))


def _steps_back(inputs: GraphInputs) -> Node:
    """Return how far before the row the column is, (tokens, tokens).

    As integers: bf16 has none between 256 and 258, and would move the edge of a window.
    """
    row = op.unsqueeze(inputs.positions, blocks.ints(1))
    return op.subtract(row, op.unsqueeze(inputs.positions, blocks.ints(0)))


def _hide(hidden: Node) -> Node:
    return op.select(hidden, op.constant(MASKED), op.constant(np.float32(0)))
