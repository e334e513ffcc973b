"""Graphs of the encoder architectures that this engine supports.

They follow llama.cpp's own definitions: ``src/models/bert.cpp`` (also nomic-bert and
jina-bert-v2), ``src/models/modern-bert.cpp``, and ``build_pooling`` in ``llama-graph.cpp``.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from embedd.engine.openvino import blocks
from embedd.engine.openvino.blocks import EncoderConfig, GraphInputs, Node, Rotary
from embedd.engine.openvino.library import make_model
from embedd.engine.openvino.library import ops as op
from embedd.engine.openvino.tensors import Gguf
from embedd.engine.protocol import UnsuitableError
from embedd.types import Pooling

BuildEncoder = Callable[[Gguf, GraphInputs, EncoderConfig], Node]


def build_graph(gguf: Gguf, pooling: Pooling) -> Any:
    """Return the graph of a file: token ids and lengths in, token and pooled vectors out.

    Raises:
        UnsuitableError: The file has an architecture, tensor or setting that this engine does
            not support.
    """
    architecture = gguf.facts.architecture
    if architecture not in FAMILIES:
        raise UnsuitableError(f"architecture {architecture} is not supported by this engine")
    inputs = blocks.make_inputs()
    config = _read_config(gguf)
    hidden = FAMILIES[architecture](gguf, inputs, config)
    pooled = _pool(hidden, gguf, inputs, config, pooling=pooling)
    gguf.check_all_used()
    return make_model([hidden, pooled], [inputs.ids, inputs.lengths])


def _read_config(gguf: Gguf) -> EncoderConfig:
    config = EncoderConfig(
        width=gguf.integer("embedding_length"),
        heads=gguf.integer("attention.head_count"),
        layers=gguf.integer("block_count"),
        feed_forward=gguf.integer("feed_forward_length"),
        context_length=gguf.integer("context_length"),
        vocabulary=gguf.count_rows("token_embd.weight"),
        epsilon=gguf.number("attention.layer_norm_epsilon"),
    )
    if not config.heads or config.width % config.heads:
        raise UnsuitableError(f"{config.heads} heads do not divide a width of {config.width}")
    gguf.expect("attention.head_count_kv", config.heads)
    gguf.expect("attention.key_length", config.head_width)
    gguf.expect("attention.value_length", config.head_width)
    gguf.expect("attention.causal", False)  # noqa: FBT003 - what the file must say, switches nothing
    return config


def _read_rotary(gguf: Gguf, inputs: GraphInputs, config: EncoderConfig) -> Rotary:
    gguf.expect("rope.dimension_count", config.head_width)
    gguf.expect("rope.scaling.type", "none")
    return blocks.make_rotary(inputs, config.head_width, gguf.number("rope.freq_base", 10000.0))


def _bert(gguf: Gguf, inputs: GraphInputs, config: EncoderConfig) -> Node:
    """Build BERT, RoBERTa or XLM-R: learned positions, post-norm layers."""
    positions = gguf.read("position_embd.weight", config.context_length, config.width)
    rows = op.gather(blocks.constant(positions), inputs.positions, blocks.scalar(0))
    x = op.add(blocks.embed_tokens(gguf, inputs, config), rows)

    def feed_forward(y: Node, block: str) -> Node:
        up = blocks.dense(y, gguf, f"{block}.ffn_up", config.feed_forward, config.width)
        return blocks.dense(
            blocks.gelu(up), gguf, f"{block}.ffn_down", config.width, config.feed_forward
        )

    return _post_norm_layers(x, gguf, config, feed_forward, mask=blocks.padding_mask(inputs))


def _nomic_bert(gguf: Gguf, inputs: GraphInputs, config: EncoderConfig) -> Node:
    """Build BERT with rotary positions and a gated feed-forward network."""
    rotary = _read_rotary(gguf, inputs, config)

    def feed_forward(y: Node, block: str) -> Node:
        shape = (config.feed_forward, config.width)
        up = blocks.linear(y, gguf.read(f"{block}.ffn_up.weight", *shape), None)
        gate = blocks.linear(y, gguf.read(f"{block}.ffn_gate.weight", *shape), None)
        gated = op.multiply(op.swish(gate), up)
        return blocks.linear(gated, gguf.read(f"{block}.ffn_down.weight", *shape[::-1]), None)

    x = blocks.embed_tokens(gguf, inputs, config)
    mask = blocks.padding_mask(inputs)
    return _post_norm_layers(x, gguf, config, feed_forward, mask=mask, rotary=rotary)


def _jina_bert_v2(gguf: Gguf, inputs: GraphInputs, config: EncoderConfig) -> Node:
    """Build BERT with ALiBi instead of positions, mostly with a gated feed-forward network."""

    def feed_forward(y: Node, block: str) -> Node:
        rows = gguf.count_rows(f"{block}.ffn_up.weight")
        up = blocks.dense(y, gguf, f"{block}.ffn_up", rows, config.width)
        if f"{block}.ffn_gate.weight" in gguf:
            weight = gguf.read(f"{block}.ffn_gate.weight", config.feed_forward, config.width)
            inner = op.multiply(blocks.gelu(blocks.linear(y, weight, None)), up)
        elif rows == config.feed_forward:
            inner = blocks.gelu(up)
        else:
            gate, value = blocks.split_last_axis(up, 2)
            if f"{block}.attn_norm_2.weight" in gguf:  # jina-embeddings-v2-base-code
                gate, value = value, gate
            inner = op.multiply(blocks.gelu(gate), value)
        return blocks.dense(inner, gguf, f"{block}.ffn_down", config.width, config.feed_forward)

    x = blocks.embed_tokens(gguf, inputs, config)
    mask = blocks.alibi_mask(inputs, config.heads)
    return _post_norm_layers(x, gguf, config, feed_forward, mask=mask)


def _post_norm_layers(
    x: Node,
    gguf: Gguf,
    config: EncoderConfig,
    feed_forward: Callable[[Node, str], Node],
    *,
    mask: Node,
    rotary: Rotary | None = None,
) -> Node:
    """Apply all layers, with a norm after attention and one after *feed_forward*."""
    x = blocks.layer_norm(x, gguf, "token_embd_norm", config)
    for layer in range(config.layers):
        block = f"blk.{layer}"
        attended = blocks.attention(x, gguf, block, config, mask=mask, rotary=rotary)
        y = blocks.layer_norm(op.add(attended, x), gguf, f"{block}.attn_output_norm", config)
        if f"{block}.attn_norm_2.weight" in gguf:
            y = blocks.layer_norm(op.add(y, x), gguf, f"{block}.attn_norm_2", config)
        x = op.add(feed_forward(y, block), y)
        x = blocks.layer_norm(x, gguf, f"{block}.layer_output_norm", config)
    return x


def _modern_bert(gguf: Gguf, inputs: GraphInputs, config: EncoderConfig) -> Node:
    """Build ModernBERT: pre-norm, rotary positions, a sliding window but in each third layer."""
    whole = blocks.padding_mask(inputs), _read_rotary(gguf, inputs, config)
    windowed, pattern = whole, 1
    if window := gguf.integer("attention.sliding_window", 0):
        base = gguf.number("rope.freq_base_swa", 10000.0)
        rotary = blocks.make_rotary(inputs, config.head_width, base)
        windowed = blocks.sliding_window_mask(inputs, window), rotary
        pattern = max(1, gguf.integer("attention.sliding_window_pattern", 3))
    activation = _read_activation(gguf)
    x = blocks.embed_tokens(gguf, inputs, config)
    x = blocks.layer_norm(x, gguf, "token_embd_norm", config)
    for layer in range(config.layers):
        block = f"blk.{layer}"
        has_norm = layer > 0 or f"{block}.attn_norm.weight" in gguf
        y = blocks.layer_norm(x, gguf, f"{block}.attn_norm", config) if has_norm else x
        mask, rotary = windowed if layer % pattern else whole
        x = op.add(blocks.attention(y, gguf, block, config, mask=mask, rotary=rotary), x)
        y = blocks.layer_norm(x, gguf, f"{block}.ffn_norm", config)
        weight = gguf.read(f"{block}.ffn_up.weight", 2 * config.feed_forward, config.width)
        gate, value = blocks.split_last_axis(blocks.linear(y, weight, None), 2)
        down = gguf.read(f"{block}.ffn_down.weight", config.width, config.feed_forward)
        x = op.add(blocks.linear(op.multiply(activation(gate), value), down, None), x)
    return blocks.layer_norm(x, gguf, "output_norm", config)


def _read_activation(gguf: Gguf) -> Callable[[Node], Node]:
    gguf.expect("hidden_activation", "gelu", "silu")
    is_silu = gguf.facts.metadata.get("modern-bert.hidden_activation") == "silu"
    return op.swish if is_silu else blocks.gelu


def _pool(
    hidden: Node, gguf: Gguf, inputs: GraphInputs, config: EncoderConfig, *, pooling: Pooling
) -> Node:
    own = _read_head_pooling(gguf)
    match own if pooling is Pooling.RANK else pooling:
        case Pooling.MEAN:
            pooled = blocks.pool_mean(hidden, inputs)
        case Pooling.LAST:
            pooled = blocks.pool_last(hidden, inputs)
        case _:
            pooled = blocks.pool_first(hidden)
    if gguf.facts.architecture in WITH_HEAD:
        # Built also where vectors are wanted: the tensors of the head must count as used.
        scores = _score(pooled, gguf, config)
        return scores if pooling is Pooling.RANK else pooled
    if pooling is Pooling.RANK:
        raise UnsuitableError("the score head of this architecture is not supported")
    return pooled


def _read_head_pooling(gguf: Gguf) -> Pooling:
    """Return how tokens are pooled before a cross-encoder's head."""
    by_number = {1: Pooling.MEAN, 2: Pooling.CLS}
    default = 1 if gguf.facts.architecture == "modern-bert" else 2
    number = gguf.integer("classifier.pooling_type", default)
    if number not in by_number:
        raise UnsuitableError(f"classifier.pooling_type {number} is not supported by this engine")
    return by_number[number]


def _score(pooled: Node, gguf: Gguf, config: EncoderConfig) -> Node:
    """Apply a cross-encoder's head: an activated layer, a norm, an output layer, or some."""
    if "cls.weight" in gguf:
        rows = gguf.count_rows("cls.weight")
        activate = blocks.gelu if gguf.facts.architecture == "modern-bert" else op.tanh
        pooled = activate(blocks.dense(pooled, gguf, "cls", rows, config.width))
        if "cls.norm.weight" in gguf:
            pooled = blocks.layer_norm(pooled, gguf, "cls.norm", config)
    if "cls.output.weight" in gguf:
        rows = gguf.count_rows("cls.output.weight")
        pooled = blocks.dense(pooled, gguf, "cls.output", rows, config.width)
    return pooled


FAMILIES: Final[Mapping[str, BuildEncoder]] = {
    "bert": _bert,
    "jina-bert-v2": _jina_bert_v2,
    "modern-bert": _modern_bert,
    "nomic-bert": _nomic_bert,
}
WITH_HEAD: Final = frozenset({"bert", "jina-bert-v2", "modern-bert"})
