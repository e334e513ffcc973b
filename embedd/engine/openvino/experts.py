"""A mixture of experts: networks of which each token goes through a few, chosen by a router."""

import numpy as np

from embedd.engine.openvino import blocks
from embedd.engine.openvino.blocks import Node
from embedd.engine.openvino.config import GraphConfig
from embedd.engine.openvino.library import ops as op
from embedd.engine.openvino.tensors import Gguf
from embedd.engine.protocol import UnsuitableError


def mix_experts(
    x: Node, gguf: Gguf, block: str, config: GraphConfig, *, experts: int, used: int
) -> Node:
    """Return the sum of the *used* likeliest experts' outputs, weighted by their probabilities.

    As llama.cpp's ``build_moe_ffn`` with a softmax over all experts and GELU networks. Each expert
    computes only the tokens that chose it: of 8 experts of which 2 are used, that takes 2.2 times
    as long as one network, and computing all of them 7.8 times.

    Raises:
        UnsuitableError: A tensor is missing or has another shape.
    """
    if not 0 < used <= experts:
        raise UnsuitableError(f"{used} of {experts} experts are to be used")
    up_shape = (experts, config.feed_forward, config.width)
    up = gguf.read(f"{block}.ffn_up_exps.weight", *up_shape)
    down = gguf.read(f"{block}.ffn_down_exps.weight", experts, *up_shape[:0:-1])
    tokens = op.reshape(x, blocks.ints(-1, config.width), special_zero=False)
    router = gguf.read(f"{block}.ffn_gate_inp.weight", experts, config.width)
    shares = blocks.split_last_axis(_route(tokens, router, used), experts)
    zero = op.constant(np.float32(0))
    mixed = op.multiply(tokens, zero)
    for share, expand, contract in zip(shares, up, down, strict=True):
        rows = op.squeeze(
            op.non_zero(op.greater(op.squeeze(share, blocks.ints(1)), zero), "i32"), blocks.ints(0)
        )
        inner = blocks.gelu(blocks.linear(_take(tokens, rows), expand, None))
        output = op.multiply(blocks.linear(inner, contract, None), _take(share, rows))
        sums = op.add(_take(mixed, rows), output)
        mixed = op.scatter_nd_update(mixed, op.unsqueeze(rows, blocks.ints(1)), sums)
    return op.reshape(mixed, op.shape_of(x), special_zero=False)


def _route(tokens: Node, router: Node, used: int) -> Node:
    """Return the weights (tokens, experts): probabilities of the *used* likeliest, else 0."""
    probabilities = op.softmax(blocks.linear(tokens, router, None), -1)
    # By index, so that there are never more, however many are equal after rounding.
    best = op.topk(probabilities, op.constant(np.int64(used)), -1, "max", "value")
    none = op.multiply(probabilities, op.constant(np.float32(0)))
    return op.scatter_elements_update(none, best.output(1), best.output(0), blocks.scalar(-1))


def _take(matrix: Node, rows: Node) -> Node:
    return op.gather(matrix, rows, blocks.scalar(0))
