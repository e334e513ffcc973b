"""The parts that graphs of encoders are built from, as llama.cpp computes them.

Hidden states have the shape (sequences, tokens, width); tokens after a sequence's end are
computed too, and nothing attends to them.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from embedd.engine.openvino.library import ops as op
from embedd.engine.openvino.tensors import Array, Gguf

Node: TypeAlias = Any  # OpenVINO's nodes and outputs have no common type

FAR = np.float32(-1e9)  # added to the score of what must not be attended to


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Numbers that every encoder has; ``head`` is the width of one head."""

    width: int
    heads: int
    layers: int
    feed_forward: int
    context: int
    vocabulary: int
    epsilon: float

    @property
    def head(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What every graph is given, and what follows from it.

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


def make_inputs() -> Inputs:
    """The parameters of a graph."""
    ids = op.parameter([-1, -1], np.int32, "ids")
    lengths = op.parameter([-1], np.int32, "lengths")
    tokens = op.gather(op.shape_of(ids, "i32"), number(1), number(0))
    positions = op.range(number(0), tokens, number(1), "i32")
    is_token = op.less(op.unsqueeze(positions, axes(0)), op.unsqueeze(lengths, axes(1)))
    return Inputs(ids=ids, lengths=lengths, positions=positions, is_token=is_token)


def number(value: int) -> Node:
    """A scalar."""
    return op.constant(np.int32(value))


def axes(*values: int) -> Node:
    """A list of whole numbers: axes, or a shape with 0 for what stays as it is."""
    return op.constant(np.array(values, np.int64))


def constant(array: Array) -> Node:
    """*array* in float32; a table in float16 stays one in memory."""
    node = op.constant(np.ascontiguousarray(array), shared_memory=True)
    return node if array.dtype == np.float32 else op.convert(node, "f32")


def linear(x: Node, weight: Array, bias: Array | None) -> Node:
    """*x* times the transposed *weight*, plus *bias*."""
    # Each compilation would make a float32 copy of its own, and keep it beside what it packs.
    wide = constant(weight.astype(np.float32, copy=False))
    product = op.matmul(x, wide, transpose_a=False, transpose_b=True)
    return product if bias is None else op.add(product, constant(bias))


def dense(x: Node, gguf: Gguf, name: str, rows: int, columns: int) -> Node:
    """The matrix *name* of *rows* × *columns*, and its bias where the file has one."""
    bias = gguf.take_if_any(f"{name}.bias", rows)
    return linear(x, gguf.take(f"{name}.weight", rows, columns), bias)


def norm(x: Node, gguf: Gguf, name: str, sizes: Sizes) -> Node:
    """Layer norm, with a bias where the file has one."""
    y = op.mvn(
        x,
        axes(-1),
        normalize_variance=True,
        eps=sizes.epsilon,
        eps_mode="inside_sqrt",
    )
    y = op.multiply(y, constant(gguf.take(f"{name}.weight", sizes.width)))
    bias = gguf.take_if_any(f"{name}.bias", sizes.width)
    return y if bias is None else op.add(y, constant(bias))


def embed(gguf: Gguf, inputs: Inputs, sizes: Sizes) -> Node:
    """The rows of the tokens, and that of the first token type where there are types."""
    table = constant(gguf.take("token_embd.weight", sizes.vocabulary, sizes.width))
    x = op.gather(table, inputs.ids, number(0))
    if "token_types.weight" in gguf:
        types = gguf.take("token_types.weight", gguf.rows("token_types.weight"), sizes.width)
        x = op.add(x, constant(types[0].astype(np.float32)))
    return x


def gelu(x: Node) -> Node:
    """By the hyperbolic tangent, as llama.cpp has it."""
    return op.gelu(x, "tanh")


def split_last(x: Node, parts: int) -> list[Node]:
    """Equal parts of the last axis."""
    node = op.split(x, op.constant(np.int64(-1)), parts)
    return [node.output(index) for index in range(parts)]


def plain_mask(inputs: Inputs) -> Node:
    """0 for tokens and `FAR` for what comes after them: (sequences, 1, 1, tokens)."""
    mask = op.select(inputs.is_token, op.constant(np.float32(0)), op.constant(FAR))
    return op.unsqueeze(mask, axes(1, 2))


def distances(inputs: Inputs) -> Node:
    """How far tokens are from each other: float32, (tokens, tokens)."""
    column = op.unsqueeze(inputs.positions, axes(1))
    row = op.unsqueeze(inputs.positions, axes(0))
    return op.convert(op.abs(op.subtract(column, row)), "f32")


def alibi_mask(inputs: Inputs, heads: int) -> Node:
    """`plain_mask` with attention that falls with distance: (sequences, heads, tokens, tokens)."""
    slopes = op.constant(alibi_slopes(heads).reshape(1, heads, 1, 1))
    return op.subtract(plain_mask(inputs), op.multiply(distances(inputs), slopes))


def alibi_slopes(heads: int, strongest: float = 8.0) -> Array:
    """How fast attention falls, by head; the formula is ggml's (``ggml_soft_max_ext``)."""
    whole = 1 << (heads.bit_length() - 1)
    head = np.arange(heads)
    first = 2.0 ** (-strongest / whole * (head + 1))
    between = 2.0 ** (-strongest / 2 / whole * (2 * (head - whole) + 1))
    slopes: Array = np.where(head < whole, first, between).astype(np.float32)
    return slopes


def window_mask(inputs: Inputs, window: int) -> Node:
    """`plain_mask` where nothing farther than half a *window* is attended to."""
    near = op.less_equal(distances(inputs), op.constant(np.float32(window // 2)))
    mask = op.select(near, op.constant(np.float32(0)), op.constant(FAR))
    return op.add(plain_mask(inputs), mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """Cosines and sines of rotary positions: (tokens, width of a head)."""

    cosine: Node
    sine: Node


def make_rotation(inputs: Inputs, head: int, base: float) -> Rotation:
    """Angles that fall by powers of *base*; halves of a head turn together (NeoX)."""
    pace = (base ** (-np.arange(0, head, 2) / head)).astype(np.float32)
    position = op.convert(op.unsqueeze(inputs.positions, axes(1)), "f32")
    angle = op.multiply(position, op.constant(np.concatenate([pace, pace])[None]))
    return Rotation(cosine=op.cos(angle), sine=op.sin(angle))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """How a token sees the others: what is added to the scores, and how positions turn."""

    mask: Node
    rotation: Rotation | None = None


def rotate(x: Node, rotation: Rotation | None) -> Node:
    """*x* of shape (sequences, heads, tokens, width of a head), turned by its positions."""
    if rotation is None:
        return x
    first, second = split_last(x, 2)
    turned = op.concat([op.negative(second), first], -1)
    return op.add(op.multiply(x, rotation.cosine), op.multiply(turned, rotation.sine))


def attention(x: Node, gguf: Gguf, block: str, sizes: Sizes, sight: Sight) -> Node:
    """Every head of the block named *block*, and the matrix that joins them."""
    shape = axes(0, 0, sizes.heads, sizes.head)
    queries, keys, values = (
        op.transpose(op.reshape(part, shape, special_zero=True), axes(0, 2, 1, 3))
        for part in queries_keys_values(x, gguf, block, sizes)
    )
    heads = op.scaled_dot_product_attention(
        rotate(queries, sight.rotation), rotate(keys, sight.rotation), values, sight.mask
    )
    joined = op.reshape(
        op.transpose(heads, axes(0, 2, 1, 3)), axes(0, 0, sizes.width), special_zero=True
    )
    return dense(joined, gguf, f"{block}.attn_output", sizes.width, sizes.width)


def queries_keys_values(x: Node, gguf: Gguf, block: str, sizes: Sizes) -> list[Node]:
    """By one product: whether the file has one matrix or three, that is faster."""
    width, parts = sizes.width, [f"{block}.attn_{part}" for part in "qkv"]
    if f"{block}.attn_qkv.weight" in gguf:
        fused = dense(x, gguf, f"{block}.attn_qkv", 3 * width, width)
    else:
        weight = np.concatenate([gguf.take(f"{part}.weight", width, width) for part in parts])
        fused = linear(x, weight, None)
    if f"{parts[0]}.bias" in gguf:
        bias = np.concatenate([gguf.take(f"{part}.bias", width) for part in parts])
        fused = op.add(fused, constant(bias))
    split = split_last(fused, 3)
    if f"{block}.attn_q_norm.weight" in gguf:
        split[0] = norm(split[0], gguf, f"{block}.attn_q_norm", sizes)
        split[1] = norm(split[1], gguf, f"{block}.attn_k_norm", sizes)
    return split


def pool_mean(x: Node, inputs: Inputs) -> Node:
    """The mean over a sequence's tokens."""
    weights = op.unsqueeze(op.convert(inputs.is_token, "f32"), axes(2))
    counts = op.convert(op.unsqueeze(inputs.lengths, axes(1)), "f32")
    return op.divide(op.reduce_sum(op.multiply(x, weights), axes(1)), counts)


def pool_first(x: Node) -> Node:
    """The first token."""
    return op.gather(x, number(0), number(1))


def pool_last(x: Node, inputs: Inputs) -> Node:
    """The last token of each sequence."""
    last = op.unsqueeze(op.subtract(inputs.lengths, number(1)), axes(1))
    return op.squeeze(op.gather(x, last, number(1), batch_dims=1), axes(1))
