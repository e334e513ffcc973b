"""What follows the hidden states: pooling, dense layers, the score head of a cross-encoder.

As in ``build_pooling`` and ``build_dense_out`` of llama.cpp's ``src/llama-graph.cpp``.
"""

from typing import Final

import numpy as np

from embedd.engine.openvino import blocks
from embedd.engine.openvino.blocks import GraphInputs, Node
from embedd.engine.openvino.config import GraphConfig
from embedd.engine.openvino.library import ops as op
from embedd.engine.openvino.tensors import Gguf
from embedd.engine.protocol import UnsuitableError
from embedd.types import Pooling

WITH_HEAD: Final = frozenset({"bert", "jina-bert-v2", "modern-bert", "qwen3"})
WITH_SOFTMAX: Final = frozenset({"qwen3"})
PROJECTED: Final = frozenset({"gemma-embedding", "gemma3"})
MEAN: Final = 1  # of ``classifier.pooling_type``


def add_heads(
    hidden: Node, gguf: Gguf, inputs: GraphInputs, config: GraphConfig, *, pooling: Pooling
) -> tuple[Node, Node]:
    """Return the vectors of tokens and of texts, or the scores of texts for ``Pooling.RANK``.

    Raises:
        UnsuitableError: The file has a head or a dense layer that this engine does not support.
    """
    architecture = gguf.facts.architecture
    pooled = _pool(hidden, gguf, inputs, config, pooling=pooling)
    if architecture in WITH_HEAD:
        # Built also where vectors are wanted: the tensors of the head must count as used.
        scores = _score(pooled, gguf, config)
        return hidden, scores if pooling is Pooling.RANK else pooled
    if pooling is Pooling.RANK:
        raise UnsuitableError("the score head of this architecture is not supported")
    if architecture in PROJECTED:
        return _project(hidden, pooled, gguf, config)
    return hidden, pooled


def _pool(
    hidden: Node, gguf: Gguf, inputs: GraphInputs, config: GraphConfig, *, pooling: Pooling
) -> Node:
    if inputs.kept is not None:
        return blocks.pool_first(hidden)  # the one token that is kept
    match choose_pooling(gguf, config, pooling):
        case Pooling.MEAN:
            return blocks.pool_mean(hidden, inputs)
        case Pooling.LAST:
            return blocks.pool_last(hidden, inputs)
        case _:
            return blocks.pool_first(hidden)


def choose_pooling(gguf: Gguf, config: GraphConfig, pooling: Pooling) -> Pooling:
    """Return how tokens are pooled, also before the head of a cross-encoder.

    Raises:
        UnsuitableError: The head pools in a way that this engine does not support.
    """
    own = _read_head_pooling(gguf, config)
    return own if pooling is Pooling.RANK else pooling


def _read_head_pooling(gguf: Gguf, config: GraphConfig) -> Pooling:
    """Return how tokens are pooled before a cross-encoder's head."""
    one_token = Pooling.LAST if config.causal else Pooling.CLS
    by_number = {MEAN: Pooling.MEAN, 2: one_token}
    default = 1 if gguf.facts.architecture == "modern-bert" else 2
    number = gguf.integer("classifier.pooling_type", default)
    if number not in by_number:
        raise UnsuitableError(f"classifier.pooling_type {number} is not supported by this engine")
    return by_number[number]


def _score(pooled: Node, gguf: Gguf, config: GraphConfig) -> Node:
    """Apply a cross-encoder's head: an activated layer, a norm, an output layer, or some."""
    architecture = gguf.facts.architecture
    if "cls.weight" in gguf:
        rows = gguf.count_rows("cls.weight")
        activate = blocks.gelu if architecture == "modern-bert" else op.tanh
        pooled = activate(blocks.dense(pooled, gguf, "cls", rows, config.width))
        if "cls.norm.weight" in gguf:
            pooled = blocks.norm(pooled, gguf, "cls.norm", config)
    if "cls.output.weight" in gguf:
        rows = gguf.count_rows("cls.output.weight")
        pooled = blocks.dense(pooled, gguf, "cls.output", rows, config.width)
    return op.softmax(pooled, -1) if architecture in WITH_SOFTMAX else pooled


def _project(hidden: Node, pooled: Node, gguf: Gguf, config: GraphConfig) -> tuple[Node, Node]:
    """Apply the two dense layers after the pooling, where the file has them, to tokens too.

    Nothing lies between them, so that their product is one layer, of a tenth of their size.
    """
    width = config.width
    for key in ("dense_2_feat_in", "dense_3_feat_out"):
        gguf.expect(key, width)
    if "dense_2.weight" not in gguf:
        return hidden, pooled
    rows = gguf.count_rows("dense_2.weight")
    for key in ("dense_2_feat_out", "dense_3_feat_in"):
        gguf.expect(key, rows)
    first = gguf.read("dense_2.weight", rows, width)
    second = gguf.read("dense_3.weight", width, rows)
    both = (second.astype(np.float64) @ first.astype(np.float64)).astype(np.float32)
    return blocks.linear(hidden, both, None), blocks.linear(pooled, both, None)
