"""Graphs of encoders with layer norms: BERT and its kin, and ModernBERT.

They follow llama.cpp's own definitions: ``src/models/bert.cpp`` (also nomic-bert, jina-bert-v2 and
jina-bert-v3) and ``src/models/modern-bert.cpp``.
"""

from collections.abc import Callable

from embedd.engine.openvino import blocks, masks
from embedd.engine.openvino.attention import attention
from embedd.engine.openvino.blocks import GraphInputs, Node
from embedd.engine.openvino.config import GraphConfig
from embedd.engine.openvino.experts import mix_experts
from embedd.engine.openvino.library import ops as op
from embedd.engine.openvino.rotary import Rotary, plain_rotary, read_rotary
from embedd.engine.openvino.tensors import Gguf

FeedForward = Callable[[Node, str], Node]  # hidden states and the name of a block


def build_bert(gguf: Gguf, inputs: GraphInputs, config: GraphConfig) -> Node:
    """Build BERT, RoBERTa or XLM-R: learned positions, post-norm layers."""
    positions = gguf.read("position_embd.weight", config.context_length, config.width)
    rows = op.gather(blocks.constant(positions), inputs.positions, blocks.scalar(0))
    x = op.add(blocks.embed_tokens(gguf, inputs, config), rows)

    feed_forward = _gelu_network(gguf, config)
    return _post_norm_layers(
        x, gguf, config, feed_forward, mask=masks.padding_mask(inputs), kept=inputs.kept
    )


def build_nomic_bert(gguf: Gguf, inputs: GraphInputs, config: GraphConfig) -> Node:
    """Build BERT with rotary positions and a gated feed-forward network."""
    rotary = read_rotary(gguf, inputs, config)

    def feed_forward(y: Node, block: str) -> Node:
        return blocks.gated(y, gguf, block, config, op.swish)

    x = blocks.embed_tokens(gguf, inputs, config)
    mask = masks.padding_mask(inputs)
    return _post_norm_layers(x, gguf, config, feed_forward, mask=mask, rotary=rotary)


def build_jina_bert_v3(gguf: Gguf, inputs: GraphInputs, config: GraphConfig) -> Node:
    """Build BERT with rotary positions."""
    rotary = read_rotary(gguf, inputs, config)
    x = blocks.embed_tokens(gguf, inputs, config)
    mask = masks.padding_mask(inputs)
    feed_forward = _gelu_network(gguf, config)
    return _post_norm_layers(x, gguf, config, feed_forward, mask=mask, rotary=rotary)


def build_nomic_bert_moe(gguf: Gguf, inputs: GraphInputs, config: GraphConfig) -> Node:
    """Build BERT with rotary positions, and a mixture of experts in each so many-th layer."""
    rotary = read_rotary(gguf, inputs, config)
    every = gguf.integer("moe_every_n_layers", 0)
    experts, used = gguf.integer("expert_count", 0), gguf.integer("expert_used_count", 0)
    dense = _gelu_network(gguf, config)

    def feed_forward(y: Node, block: str) -> Node:
        if every > 0 and int(block.partition(".")[2]) % every == 1:
            return mix_experts(y, gguf, block, config, experts=experts, used=used)
        return dense(y, block)

    x = blocks.embed_tokens(gguf, inputs, config)
    mask = masks.padding_mask(inputs)
    return _post_norm_layers(x, gguf, config, feed_forward, mask=mask, rotary=rotary)


def build_jina_bert_v2(gguf: Gguf, inputs: GraphInputs, config: GraphConfig) -> Node:
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
    mask = masks.alibi_mask(inputs, config.heads)
    return _post_norm_layers(x, gguf, config, feed_forward, mask=mask)


def _gelu_network(gguf: Gguf, config: GraphConfig) -> FeedForward:
    def feed_forward(y: Node, block: str) -> Node:
        up = blocks.dense(y, gguf, f"{block}.ffn_up", config.feed_forward, config.width)
        return blocks.dense(
            blocks.gelu(up), gguf, f"{block}.ffn_down", config.width, config.feed_forward
        )

    return feed_forward


def _post_norm_layers(
    x: Node,
    gguf: Gguf,
    config: GraphConfig,
    feed_forward: FeedForward,
    *,
    mask: Node,
    rotary: Rotary | None = None,
    kept: Node | None = None,
) -> Node:
    """Apply all layers, with a norm after attention and one after *feed_forward*.

    Args:
        kept: The tokens that the last layer has to compute; the mask has one row for all.
    """
    x = blocks.norm(x, gguf, "token_embd_norm", config)
    for layer in range(config.layers):
        block = f"blk.{layer}"
        only = kept if layer == config.layers - 1 else None
        attended = attention(x, gguf, block, config, mask=mask, rotary=rotary, kept=only)
        x = blocks.take(x, only)
        y = blocks.norm(op.add(attended, x), gguf, f"{block}.attn_output_norm", config)
        if f"{block}.attn_norm_2.weight" in gguf:
            y = blocks.norm(op.add(y, x), gguf, f"{block}.attn_norm_2", config)
        x = op.add(feed_forward(y, block), y)
        x = blocks.norm(x, gguf, f"{block}.layer_output_norm", config)
    return x


def build_modern_bert(gguf: Gguf, inputs: GraphInputs, config: GraphConfig) -> Node:
    """Build ModernBERT: pre-norm, rotary positions, a sliding window but in each third layer."""
    whole = masks.padding_mask(inputs), read_rotary(gguf, inputs, config)
    windowed, pattern = whole, 1
    if window := gguf.integer("attention.sliding_window", 0):
        base = gguf.number("rope.freq_base_swa", 10000.0)
        rotary = plain_rotary(inputs, config, base)
        windowed = masks.symmetric_window_mask(inputs, window), rotary
        pattern = max(1, gguf.integer("attention.sliding_window_pattern", 3))
    activation = _read_activation(gguf)
    x = blocks.embed_tokens(gguf, inputs, config)
    x = blocks.norm(x, gguf, "token_embd_norm", config)
    for layer in range(config.layers):
        block = f"blk.{layer}"
        has_norm = layer > 0 or f"{block}.attn_norm.weight" in gguf
        y = blocks.norm(x, gguf, f"{block}.attn_norm", config) if has_norm else x
        mask, rotary = windowed if layer % pattern else whole
        x = op.add(attention(y, gguf, block, config, mask=mask, rotary=rotary), x)
        y = blocks.norm(x, gguf, f"{block}.ffn_norm", config)
        weight = gguf.read(f"{block}.ffn_up.weight", 2 * config.feed_forward, config.width)
        gate, value = blocks.split_last_axis(blocks.linear(y, weight, None), 2)
        down = gguf.read(f"{block}.ffn_down.weight", config.width, config.feed_forward)
        x = op.add(blocks.linear(op.multiply(activation(gate), value), down, None), x)
    return blocks.norm(x, gguf, "output_norm", config)


def _read_activation(gguf: Gguf) -> Callable[[Node], Node]:
    gguf.expect("hidden_activation", "gelu", "silu")
    is_silu = gguf.facts.metadata.get("modern-bert.hidden_activation") == "silu"
    return op.swish if is_silu else blocks.gelu
