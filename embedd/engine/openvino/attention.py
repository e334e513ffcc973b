"""Attention with one head of keys and values for each head, or for a group of heads, of queries."""

import numpy as np

from embedd.engine.openvino import blocks
from embedd.engine.openvino.blocks import Node
from embedd.engine.openvino.config import GraphConfig
from embedd.engine.openvino.library import ops as op
from embedd.engine.openvino.rotary import Rotary, apply_rotary
from embedd.engine.openvino.tensors import Gguf


def attention(
    x: Node,
    gguf: Gguf,
    block: str,
    config: GraphConfig,
    *,
    mask: Node,
    rotary: Rotary | None = None,
    kept: Node | None = None,
) -> Node:
    """Apply multi-head self-attention and the output projection of *block*.

    Args:
        mask: Added to the scores before the softmax; with one row, or with those of all heads that
            share a head of keys.
        rotary: Applied to queries and keys.
        kept: The tokens that attend, as in `GraphInputs`; the rows of *mask* are theirs.
    """
    queries, keys, values = _project(x, gguf, block, config)
    queries, keys = (
        apply_rotary(_transpose(part), rotary, config)
        for part in _norm_heads(queries, keys, gguf, block, config)
    )
    if kept is not None:
        queries = op.gather(queries, kept, blocks.scalar(2), batch_dims=1)
    if config.groups > 1:
        # The queries of a group follow one another as rows: keys need no copy for each of them.
        queries = _reshape(queries, 0, config.key_heads, -1, config.head_width)
    heads = op.scaled_dot_product_attention(queries, keys, _transpose(values), mask)
    if config.groups > 1:
        heads = _reshape(heads, 0, config.heads, -1, config.head_width)
    inner = config.heads * config.head_width
    joined = _reshape(_transpose(heads), 0, 0, inner)
    return blocks.dense(joined, gguf, f"{block}.attn_output", config.width, inner)


def _project(x: Node, gguf: Gguf, block: str, config: GraphConfig) -> list[Node]:
    """Project *x* to queries, keys and values, each (sequences, tokens, heads, width of a head).

    One product computes all three, also where the file has three matrices: that is faster.
    """
    counts = [config.heads, config.key_heads, config.key_heads]
    rows = [count * config.head_width for count in counts]
    parts = [f"{block}.attn_{part}" for part in "qkv"]
    if f"{block}.attn_qkv.weight" in gguf:
        fused = blocks.dense(x, gguf, f"{block}.attn_qkv", sum(rows), config.width)
    else:
        matrices = [
            gguf.read(f"{part}.weight", size, config.width)
            for part, size in zip(parts, rows, strict=True)
        ]
        fused = blocks.linear(x, np.concatenate(matrices), None)
    if f"{parts[0]}.bias" in gguf:
        bias = [gguf.read(f"{part}.bias", size) for part, size in zip(parts, rows, strict=True)]
        fused = op.add(fused, blocks.constant(np.concatenate(bias)))
    split = op.variadic_split(fused, op.constant(np.int64(-1)), blocks.ints(*rows))
    whole = [split.output(index) for index in range(len(parts))]
    if not config.rms and f"{parts[0]}_norm.weight" in gguf:
        whole[0] = blocks.norm(whole[0], gguf, f"{parts[0]}_norm", config)
        whole[1] = blocks.norm(whole[1], gguf, f"{parts[1]}_norm", config)
    return [
        _reshape(part, 0, 0, count, config.head_width)
        for part, count in zip(whole, counts, strict=True)
    ]


def _norm_heads(
    queries: Node, keys: Node, gguf: Gguf, block: str, config: GraphConfig
) -> tuple[Node, Node]:
    """Apply the RMS norms of queries and keys, which work head by head, where there are any."""
    if not config.rms or f"{block}.attn_q_norm.weight" not in gguf:
        return queries, keys
    return (
        blocks.rms_norm(queries, gguf, f"{block}.attn_q_norm", config.head_width, config.epsilon),
        blocks.rms_norm(keys, gguf, f"{block}.attn_k_norm", config.head_width, config.epsilon),
    )


def _reshape(x: Node, *shape: int) -> Node:
    """Return *x* with this shape, in which 0 keeps a dimension and -1 takes what is left."""
    return op.reshape(x, blocks.ints(*shape), special_zero=True)


def _transpose(x: Node) -> Node:
    """Exchange tokens and heads."""
    return op.transpose(x, blocks.ints(0, 2, 1, 3))
