"""Graphs of the encoders that this engine knows, after llama.cpp's own definitions.

Those are ``src/models/bert.cpp`` (also nomic-bert and jina-bert-v2) and
``src/models/modern-bert.cpp`` of llama.cpp, and ``build_pooling`` in ``llama-graph.cpp``.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from embedd.engine.openvino import blocks
from embedd.engine.openvino.blocks import Inputs, Node, Sizes
from embedd.engine.openvino.library import make_model
from embedd.engine.openvino.library import ops as op
from embedd.engine.openvino.tensors import Gguf
from embedd.engine.protocol import UnsuitableError
from embedd.types import Pooling

Family = Callable[[Gguf, Inputs, Sizes], Node]


def build_graph(gguf: Gguf, pooling: Pooling) -> Any:
    """The graph of a file: ids and lengths in, token vectors and pooled vectors out.

    Raises:
        UnsuitableError: It asks for anything that this engine does not know.
    """
    architecture = gguf.facts.architecture
    if architecture not in FAMILIES:
        raise UnsuitableError(f"architecture {architecture} is unknown to this engine")
    inputs = blocks.make_inputs()
    sizes = _read_sizes(gguf)
    hidden = FAMILIES[architecture](gguf, inputs, sizes)
    pooled = _pool(hidden, gguf, inputs, sizes, pooling)
    gguf.check_all_used()
    return make_model([hidden, pooled], [inputs.ids, inputs.lengths])


def _read_sizes(gguf: Gguf) -> Sizes:
    sizes = Sizes(
        width=gguf.count("embedding_length"),
        heads=gguf.count("attention.head_count"),
        layers=gguf.count("block_count"),
        feed_forward=gguf.count("feed_forward_length"),
        context=gguf.count("context_length"),
        vocabulary=gguf.rows("token_embd.weight"),
        epsilon=gguf.number("attention.layer_norm_epsilon"),
    )
    if not sizes.heads or sizes.width % sizes.heads:
        raise UnsuitableError(f"{sizes.heads} heads do not divide a width of {sizes.width}")
    gguf.expect("attention.head_count_kv", sizes.heads)
    gguf.expect("attention.key_length", sizes.head)
    gguf.expect("attention.value_length", sizes.head)
    gguf.expect("attention.causal", False)  # noqa: FBT003 - what the file must say, switches nothing
    return sizes


def _read_rotation(gguf: Gguf, inputs: Inputs, sizes: Sizes) -> blocks.Rotation:
    gguf.expect("rope.dimension_count", sizes.head)
    gguf.expect("rope.scaling.type", "none")
    return blocks.make_rotation(inputs, sizes.head, gguf.number("rope.freq_base", 10000.0))


def _bert(gguf: Gguf, inputs: Inputs, sizes: Sizes) -> Node:
    """BERT, RoBERTa and XLM-R: learned positions, norms after each part."""
    positions = gguf.take("position_embd.weight", sizes.context, sizes.width)
    rows = op.gather(blocks.constant(positions), inputs.positions, blocks.number(0))
    x = op.add(blocks.embed(gguf, inputs, sizes), rows)
    sight = blocks.Sight(mask=blocks.plain_mask(inputs))

    def feed_forward(y: Node, block: str) -> Node:
        up = blocks.dense(y, gguf, f"{block}.ffn_up", sizes.feed_forward, sizes.width)
        return blocks.dense(
            blocks.gelu(up), gguf, f"{block}.ffn_down", sizes.width, sizes.feed_forward
        )

    return _norm_after(x, gguf, sizes, sight, feed_forward)


def _nomic_bert(gguf: Gguf, inputs: Inputs, sizes: Sizes) -> Node:
    """BERT with rotary positions and a gate in the feed-forward network."""
    rotation = _read_rotation(gguf, inputs, sizes)

    def feed_forward(y: Node, block: str) -> Node:
        shape = (sizes.feed_forward, sizes.width)
        up = blocks.linear(y, gguf.take(f"{block}.ffn_up.weight", *shape), None)
        gate = blocks.linear(y, gguf.take(f"{block}.ffn_gate.weight", *shape), None)
        gated = op.multiply(op.swish(gate), up)
        return blocks.linear(gated, gguf.take(f"{block}.ffn_down.weight", *shape[::-1]), None)

    x = blocks.embed(gguf, inputs, sizes)
    sight = blocks.Sight(mask=blocks.plain_mask(inputs), rotation=rotation)
    return _norm_after(x, gguf, sizes, sight, feed_forward)


def _jina_bert_v2(gguf: Gguf, inputs: Inputs, sizes: Sizes) -> Node:
    """BERT without positions: attention falls with distance. Most have a gate."""

    def feed_forward(y: Node, block: str) -> Node:
        rows = gguf.rows(f"{block}.ffn_up.weight")
        up = blocks.dense(y, gguf, f"{block}.ffn_up", rows, sizes.width)
        if f"{block}.ffn_gate.weight" in gguf:
            weight = gguf.take(f"{block}.ffn_gate.weight", sizes.feed_forward, sizes.width)
            inner = op.multiply(blocks.gelu(blocks.linear(y, weight, None)), up)
        elif rows == sizes.feed_forward:
            inner = blocks.gelu(up)
        else:
            gate, value = blocks.split_last(up, 2)
            inner = op.multiply(blocks.gelu(gate), value)
        return blocks.dense(inner, gguf, f"{block}.ffn_down", sizes.width, sizes.feed_forward)

    x = blocks.embed(gguf, inputs, sizes)
    sight = blocks.Sight(mask=blocks.alibi_mask(inputs, sizes.heads))
    return _norm_after(x, gguf, sizes, sight, feed_forward)


def _norm_after(
    x: Node,
    gguf: Gguf,
    sizes: Sizes,
    sight: blocks.Sight,
    feed_forward: Callable[[Node, str], Node],
) -> Node:
    """Layers with a norm after attention and another after the feed-forward network."""
    x = blocks.norm(x, gguf, "token_embd_norm", sizes)
    for layer in range(sizes.layers):
        block = f"blk.{layer}"
        attended = blocks.attention(x, gguf, block, sizes, sight)
        y = blocks.norm(op.add(attended, x), gguf, f"{block}.attn_output_norm", sizes)
        if f"{block}.attn_norm_2.weight" in gguf:
            y = blocks.norm(op.add(y, x), gguf, f"{block}.attn_norm_2", sizes)
        x = op.add(feed_forward(y, block), y)
        x = blocks.norm(x, gguf, f"{block}.layer_output_norm", sizes)
    return x


def _modern_bert(gguf: Gguf, inputs: Inputs, sizes: Sizes) -> Node:
    """Norms before each part, rotary positions, a window in all but each third layer."""
    rotation = _read_rotation(gguf, inputs, sizes)
    everywhere = blocks.Sight(mask=blocks.plain_mask(inputs), rotation=rotation)
    within, pattern = everywhere, 1
    if window := gguf.count("attention.sliding_window", 0):
        base = gguf.number("rope.freq_base_swa", 10000.0)
        rotation = blocks.make_rotation(inputs, sizes.head, base)
        within = blocks.Sight(mask=blocks.window_mask(inputs, window), rotation=rotation)
        pattern = max(1, gguf.count("attention.sliding_window_pattern", 3))
    activation = _read_activation(gguf)
    x = blocks.norm(blocks.embed(gguf, inputs, sizes), gguf, "token_embd_norm", sizes)
    for layer in range(sizes.layers):
        block = f"blk.{layer}"
        has_norm = layer > 0 or f"{block}.attn_norm.weight" in gguf
        y = blocks.norm(x, gguf, f"{block}.attn_norm", sizes) if has_norm else x
        sight = within if layer % pattern else everywhere
        x = op.add(blocks.attention(y, gguf, block, sizes, sight), x)
        y = blocks.norm(x, gguf, f"{block}.ffn_norm", sizes)
        weight = gguf.take(f"{block}.ffn_up.weight", 2 * sizes.feed_forward, sizes.width)
        gate, value = blocks.split_last(blocks.linear(y, weight, None), 2)
        down = gguf.take(f"{block}.ffn_down.weight", sizes.width, sizes.feed_forward)
        x = op.add(blocks.linear(op.multiply(activation(gate), value), down, None), x)
    return blocks.norm(x, gguf, "output_norm", sizes)


def _read_activation(gguf: Gguf) -> Callable[[Node], Node]:
    gguf.expect("hidden_activation", "gelu", "silu")
    is_silu = gguf.facts.metadata.get("modern-bert.hidden_activation") == "silu"
    return op.swish if is_silu else blocks.gelu


def _pool(hidden: Node, gguf: Gguf, inputs: Inputs, sizes: Sizes, pooling: Pooling) -> Node:
    match pooling:
        case Pooling.MEAN:
            pooled = blocks.pool_mean(hidden, inputs)
        case Pooling.LAST:
            pooled = blocks.pool_last(hidden, inputs)
        case _:
            pooled = blocks.pool_first(hidden)
    if gguf.facts.architecture in WITH_HEAD:
        # It is looked at also where the file is asked for vectors.
        scores = _score(pooled, gguf, sizes)
        return scores if pooling is Pooling.RANK else pooled
    if pooling is Pooling.RANK:
        raise UnsuitableError("the score head of this architecture is unknown to this engine")
    return pooled


def _score(pooled: Node, gguf: Gguf, sizes: Sizes) -> Node:
    """The head of a cross-encoder: a layer with tanh, a layer with the scores, or one of them."""
    if "cls.weight" in gguf:
        pooled = op.tanh(blocks.dense(pooled, gguf, "cls", gguf.rows("cls.weight"), sizes.width))
    if "cls.output.weight" in gguf:
        rows = gguf.rows("cls.output.weight")
        pooled = blocks.dense(pooled, gguf, "cls.output", rows, sizes.width)
    return pooled


FAMILIES: Final[Mapping[str, Family]] = {
    "bert": _bert,
    "jina-bert-v2": _jina_bert_v2,
    "modern-bert": _modern_bert,
    "nomic-bert": _nomic_bert,
}
WITH_HEAD: Final = frozenset({"bert", "jina-bert-v2"})
