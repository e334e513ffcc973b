"""Building blocks of encoder graphs, with the arithmetic of llama.cpp.

Hidden states have the shape (sequences, tokens, width). Padding after the end of a sequence is
computed too, but no token attends to it.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from embedd.engine.openvino.library import ops as op
from embedd.engine.openvino.tensors import Array, Gguf

Node: TypeAlias = Any  # OpenVINO's nodes and outputs have no common type
Rotary: TypeAlias = tuple[Node, Node]  # cosines and sines, each (tokens, width of a head)

MASKED = np.float32(-1e9)  # added to an attention score that must not count


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """Hyperparameters that every encoder has."""

    width: int
    heads: int
    layers: int
    feed_forward: int
    context_length: int
    vocabulary: int
    epsilon: float

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphInputs:
    """Parameters of a graph, and the nodes that follow from them.

    Args:
        ids: Token ids (sequences, tokens), 0 after a sequence's end.
        lengths: Tokens of each sequence.
        positions: 0 … tokens - 1.
        is_token: (sequences, tokens), false after a sequence's end.
    """

    ids: Node
    lengths: Node
    positions: Node
    is_token: Node


def make_inputs() -> GraphInputs:
    """Return the inputs of a new graph."""
    ids = op.parameter([-1, -1], np.int32, "ids")
    lengths = op.parameter([-1], np.int32, "lengths")
    tokens = op.gather(op.shape_of(ids, "i32"), scalar(1), scalar(0))
    positions = op.range(scalar(0), tokens, scalar(1), "i32")
    is_token = op.less(op.unsqueeze(positions, ints(0)), op.unsqueeze(lengths, ints(1)))
    return GraphInputs(ids=ids, lengths=lengths, positions=positions, is_token=is_token)


def scalar(value: int) -> Node:
    """Return an int32 constant without dimensions."""
    return op.constant(np.int32(value))


def ints(*values: int) -> Node:
    """Return a list of int64 constants: axes, or a shape in which 0 keeps a dimension."""
    return op.constant(np.array(values, np.int64))


def constant(array: Array) -> Node:
    """Return *array* as float32; float16 stays float16 in memory and is converted on use."""
    node = op.constant(np.ascontiguousarray(array), shared_memory=True)
    return node if array.dtype == np.float32 else op.convert(node, "f32")


def linear(x: Node, weight: Array, bias: Array | None) -> Node:
    """Return *x* times the transposed *weight*, plus *bias*."""
    # Each compilation would make a float32 copy of its own, and keep it beside what it packs.
    wide = constant(weight.astype(np.float32, copy=False))
    product = op.matmul(x, wide, transpose_a=False, transpose_b=True)
    return product if bias is None else op.add(product, constant(bias))


def dense(x: Node, gguf: Gguf, name: str, rows: int, columns: int) -> Node:
    """Apply the linear layer *name* of the file, with its bias if there is one."""
    bias = gguf.read_if_present(f"{name}.bias", rows)
    return linear(x, gguf.read(f"{name}.weight", rows, columns), bias)


def layer_norm(x: Node, gguf: Gguf, name: str, config: EncoderConfig) -> Node:
    """Apply the layer norm *name* of the file, with its bias if there is one."""
    y = op.mvn(
        x,
        ints(-1),
        normalize_variance=True,
        eps=config.epsilon,
        eps_mode="inside_sqrt",
    )
    y = op.multiply(y, constant(gguf.read(f"{name}.weight", config.width)))
    bias = gguf.read_if_present(f"{name}.bias", config.width)
    return y if bias is None else op.add(y, constant(bias))


def embed_tokens(gguf: Gguf, inputs: GraphInputs, config: EncoderConfig) -> Node:
    """Look up token embeddings; add that of token type 0 if the model has token types."""
    table = constant(gguf.read("token_embd.weight", config.vocabulary, config.width))
    x = op.gather(table, inputs.ids, scalar(0))
    if "token_types.weight" in gguf:
        types = gguf.read("token_types.weight", gguf.count_rows("token_types.weight"), config.width)
        x = op.add(x, constant(types[0].astype(np.float32)))
    return x


def gelu(x: Node) -> Node:
    """Apply GELU in llama.cpp's form, by the hyperbolic tangent."""
    return op.gelu(x, "tanh")


def split_last_axis(x: Node, parts: int) -> list[Node]:
    """Split *x* into equal parts along its last axis."""
    node = op.split(x, op.constant(np.int64(-1)), parts)
    return [node.output(index) for index in range(parts)]


def padding_mask(inputs: GraphInputs) -> Node:
    """Return an additive attention mask: 0 for tokens, `MASKED` for padding.

    Its shape is (sequences, 1, 1, tokens).
    """
    mask = op.select(inputs.is_token, op.constant(np.float32(0)), op.constant(MASKED))
    return op.unsqueeze(mask, ints(1, 2))


def token_distances(inputs: GraphInputs) -> Node:
    """Return the distances between positions: float32, (tokens, tokens)."""
    column = op.unsqueeze(inputs.positions, ints(1))
    row = op.unsqueeze(inputs.positions, ints(0))
    return op.convert(op.abs(op.subtract(column, row)), "f32")


def alibi_mask(inputs: GraphInputs, heads: int) -> Node:
    """Return `padding_mask` minus ALiBi's penalty of distance.

    Its shape is (sequences, heads, tokens, tokens).
    """
    slopes = op.constant(alibi_slopes(heads).reshape(1, heads, 1, 1))
    return op.subtract(padding_mask(inputs), op.multiply(token_distances(inputs), slopes))


def alibi_slopes(heads: int, max_bias: float = 8.0) -> Array:
    """Return each head's penalty per token of distance, as in ggml's ``ggml_soft_max_ext``."""
    whole = 1 << (heads.bit_length() - 1)
    head = np.arange(heads)
    first = 2.0 ** (-max_bias / whole * (head + 1))
    between = 2.0 ** (-max_bias / 2 / whole * (2 * (head - whole) + 1))
    slopes: Array = np.where(head < whole, first, between).astype(np.float32)
    return slopes


def sliding_window_mask(inputs: GraphInputs, window: int) -> Node:
    """Return `padding_mask` with everything farther than half a *window* masked too.

    Its shape is (sequences, 1, tokens, tokens).
    """
    near = op.less_equal(token_distances(inputs), op.constant(np.float32(window // 2)))
    mask = op.select(near, op.constant(np.float32(0)), op.constant(MASKED))
    return op.add(padding_mask(inputs), mask)


def make_rotary(inputs: GraphInputs, head_width: int, base: float) -> Rotary:
    """Return cosines and sines of rotary position embeddings in the NeoX layout."""
    frequencies = (base ** (-np.arange(0, head_width, 2) / head_width)).astype(np.float32)
    position = op.convert(op.unsqueeze(inputs.positions, ints(1)), "f32")
    both_halves = np.concatenate([frequencies, frequencies])[None]
    angle = op.multiply(position, op.constant(both_halves))
    return op.cos(angle), op.sin(angle)


def apply_rotary(x: Node, rotary: Rotary | None) -> Node:
    """Rotate *x* (sequences, heads, tokens, width of a head) by its positions."""
    if rotary is None:
        return x
    cosine, sine = rotary
    first, second = split_last_axis(x, 2)
    rotated = op.concat([op.negative(second), first], -1)
    return op.add(op.multiply(x, cosine), op.multiply(rotated, sine))


def attention(
    x: Node,
    gguf: Gguf,
    block: str,
    config: EncoderConfig,
    *,
    mask: Node,
    rotary: Rotary | None = None,
) -> Node:
    """Apply multi-head self-attention and the output projection of *block*.

    Args:
        mask: Added to the scores before the softmax.
        rotary: Applied to queries and keys.
    """
    shape = ints(0, 0, config.heads, config.head_width)
    queries, keys, values = (
        op.transpose(op.reshape(part, shape, special_zero=True), ints(0, 2, 1, 3))
        for part in queries_keys_values(x, gguf, block, config)
    )
    heads = op.scaled_dot_product_attention(
        apply_rotary(queries, rotary), apply_rotary(keys, rotary), values, mask
    )
    joined = op.reshape(
        op.transpose(heads, ints(0, 2, 1, 3)), ints(0, 0, config.width), special_zero=True
    )
    return dense(joined, gguf, f"{block}.attn_output", config.width, config.width)


def queries_keys_values(x: Node, gguf: Gguf, block: str, config: EncoderConfig) -> list[Node]:
    """Project *x* to queries, keys and values.

    One product computes all three, also where the file has three matrices: that is faster.
    """
    width, parts = config.width, [f"{block}.attn_{part}" for part in "qkv"]
    if f"{block}.attn_qkv.weight" in gguf:
        fused = dense(x, gguf, f"{block}.attn_qkv", 3 * width, width)
    else:
        weight = np.concatenate([gguf.read(f"{part}.weight", width, width) for part in parts])
        fused = linear(x, weight, None)
    if f"{parts[0]}.bias" in gguf:
        bias = np.concatenate([gguf.read(f"{part}.bias", width) for part in parts])
        fused = op.add(fused, constant(bias))
    split = split_last_axis(fused, 3)
    if f"{block}.attn_q_norm.weight" in gguf:
        split[0] = layer_norm(split[0], gguf, f"{block}.attn_q_norm", config)
        split[1] = layer_norm(split[1], gguf, f"{block}.attn_k_norm", config)
    return split


def pool_mean(x: Node, inputs: GraphInputs) -> Node:
    """Return the mean over each sequence's tokens."""
    weights = op.unsqueeze(op.convert(inputs.is_token, "f32"), ints(2))
    counts = op.convert(op.unsqueeze(inputs.lengths, ints(1)), "f32")
    return op.divide(op.reduce_sum(op.multiply(x, weights), ints(1)), counts)


def pool_first(x: Node) -> Node:
    """Return the first token of each sequence."""
    return op.gather(x, scalar(0), scalar(1))


def pool_last(x: Node, inputs: GraphInputs) -> Node:
    """Return the last token of each sequence."""
    last = op.unsqueeze(op.subtract(inputs.lengths, scalar(1)), ints(1))
    return op.squeeze(op.gather(x, last, scalar(1), batch_dims=1), ints(1))
