"""Building blocks of graphs, with the arithmetic of llama.cpp.

Hidden states have the shape (sequences, tokens, width). Padding after the end of a sequence is
computed too, but no token attends to it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np

from embedd.engine.openvino.config import GraphConfig
from embedd.engine.openvino.library import ops as op
from embedd.engine.openvino.tensors import Array, Gguf

Node: TypeAlias = Any  # OpenVINO's nodes and outputs have no common type

# The mark that OpenVINO's own compression of weights leaves on a conversion: name and version.
DECOMPRESSION: Final = "decompression_0"


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphInputs:
    """Parameters of a graph, and the nodes that follow from them.

    Args:
        ids: Token ids (sequences, tokens), 0 after a sequence's end.
        lengths: Tokens of each sequence.
        positions: 0 … tokens - 1.
        is_token: (sequences, tokens), false after a sequence's end.
        kept: Positions (sequences, kept) of the tokens that the last layer has to compute, in a
            graph whose vectors are those of one token; None is all.
    """

    ids: Node
    lengths: Node
    positions: Node
    is_token: Node
    kept: Node | None = None


def make_inputs() -> GraphInputs:
    """Return the inputs of a new graph."""
    ids = op.parameter([-1, -1], np.int32, "ids")
    lengths = op.parameter([-1], np.int32, "lengths")
    tokens = op.gather(op.shape_of(ids, "i32"), scalar(1), scalar(0))
    positions = op.range(scalar(0), tokens, scalar(1), "i32")
    is_token = op.less(op.unsqueeze(positions, ints(0)), op.unsqueeze(lengths, ints(1)))
    return GraphInputs(ids=ids, lengths=lengths, positions=positions, is_token=is_token)


def keep_tokens(inputs: GraphInputs, name: str) -> GraphInputs:
    """Add an input *name*: the tokens to keep."""
    kept = op.parameter([-1, -1], np.int32)
    kept.set_friendly_name(name)
    return replace(inputs, kept=kept)


def take(x: Node, kept: Node | None) -> Node:
    """Return the hidden states (sequences, kept, width) of these tokens, of all for None."""
    return x if kept is None else op.gather(x, kept, scalar(1), batch_dims=1)


def scalar(value: int) -> Node:
    """Return an int32 constant without dimensions."""
    return op.constant(np.int32(value))


def ints(*values: int) -> Node:
    """Return a list of int64 constants: axes, or a shape in which 0 keeps a dimension."""
    return op.constant(np.array(values, np.int64))


def constant(array: Array) -> Node:
    """Return *array* as float32; float16 stays float16 in memory and is converted on use."""
    node = op.constant(np.ascontiguousarray(array), shared_memory=True)
    if array.dtype == np.float32:
        return node
    wide = op.convert(node, "f32")
    # Without it each compilation makes a float32 copy, and keeps it beside what it packs.
    wide.get_rt_info()[DECOMPRESSION] = ""
    return wide


def linear(x: Node, weight: Array, bias: Array | None) -> Node:
    """Return *x* times the transposed *weight*, plus *bias*."""
    product = op.matmul(x, constant(weight), transpose_a=False, transpose_b=True)
    return product if bias is None else op.add(product, constant(bias))


def dense(x: Node, gguf: Gguf, name: str, rows: int, columns: int) -> Node:
    """Apply the linear layer *name* of the file, with its bias if there is one."""
    bias = gguf.read_if_present(f"{name}.bias", rows)
    return linear(x, gguf.read(f"{name}.weight", rows, columns), bias)


def norm(x: Node, gguf: Gguf, name: str, config: GraphConfig) -> Node:
    """Apply the norm *name* of the file, as wide as the hidden state, of the model's kind."""
    apply = rms_norm if config.rms else layer_norm
    return apply(x, gguf, name, config.width, config.epsilon)


def layer_norm(x: Node, gguf: Gguf, name: str, width: int, epsilon: float) -> Node:
    """Apply the layer norm *name* of the file, with its bias if there is one."""
    y = op.mvn(x, ints(-1), normalize_variance=True, eps=epsilon, eps_mode="inside_sqrt")
    y = op.multiply(y, constant(gguf.read(f"{name}.weight", width)))
    bias = gguf.read_if_present(f"{name}.bias", width)
    return y if bias is None else op.add(y, constant(bias))


def rms_norm(x: Node, gguf: Gguf, name: str, width: int, epsilon: float) -> Node:
    """Apply the norm *name* of the file, by the root of the mean square over the last axis."""
    squares = op.power(x, op.constant(np.float32(2)))
    mean = op.reduce_mean(squares, ints(-1), keep_dims=True)
    root = op.sqrt(op.add(mean, op.constant(np.float32(epsilon))))
    y = op.multiply(x, op.divide(op.constant(np.float32(1)), root))
    return op.multiply(y, constant(gguf.read(f"{name}.weight", width)))


def embed_tokens(gguf: Gguf, inputs: GraphInputs, config: GraphConfig) -> Node:
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


def gated(
    x: Node, gguf: Gguf, block: str, config: GraphConfig, activation: Callable[[Node], Node]
) -> Node:
    """Apply a feed-forward network with a gate and without biases."""
    shape = (config.feed_forward, config.width)
    up = linear(x, gguf.read(f"{block}.ffn_up.weight", *shape), None)
    gate = linear(x, gguf.read(f"{block}.ffn_gate.weight", *shape), None)
    inner = op.multiply(activation(gate), up)
    return linear(inner, gguf.read(f"{block}.ffn_down.weight", *shape[::-1]), None)


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
