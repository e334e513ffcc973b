"""NeoBERT (Le Breton et al. 2025) and EuroBERT (Boizard et al. 2025).

RMS norms before each part, rotary positions and a gate (SwiGLU), no biases. NeoBERT rotates
neighbouring numbers and has one matrix for queries, keys and values, head by head; EuroBERT
rotates the halves of a head and has fewer heads of keys and values.
"""

from pathlib import Path

import numpy as np

from embedd.types import Pooling
from tests.families import layers, vocabularies
from tests.families.family import ALL_POOLINGS, LABELS, Array, Family, Ids, Weights, write_gguf
from tests.families.random import TensorSource

WIDTH, HEADS, KEY_HEADS, LAYERS, INNER, CONTEXT = 32, 4, 2, 2, 64, 96
EPSILON, NEO_BASE, EURO_BASE = 1e-5, 10000.0, 250000.0

KEYS = {
    "block_count": LAYERS,
    "context_length": CONTEXT,
    "embedding_length": WIDTH,
    "feed_forward_length": INNER,
    "attention.head_count": HEADS,
    "attention.layer_norm_rms_epsilon": EPSILON,
    "attention.causal": False,
    "rope.scaling.type": "none",
}


def write_neo(path: Path, pooling: Pooling | None) -> Path:
    source = TensorSource(6)
    tensors = {
        "token_embd.weight": source.matrix(vocabularies.WORDPIECE_SIZE, WIDTH, WIDTH**0.5),
        **source.norm("enc.output_norm", WIDTH),
    }
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        tensors |= source.norm(f"{block}.attn_norm", WIDTH)
        tensors |= source.dense(f"{block}.attn_qkv", 3 * WIDTH, WIDTH, scale=1.5)
        tensors |= source.dense(f"{block}.attn_output", WIDTH, WIDTH)
        tensors |= source.norm(f"{block}.ffn_norm", WIDTH)
        tensors |= source.dense(f"{block}.ffn_up", 2 * INNER, WIDTH)
        tensors |= source.dense(f"{block}.ffn_down", WIDTH, INNER)
    if pooling is Pooling.RANK:
        tensors |= source.dense("cls", WIDTH, WIDTH, bias=True)
        tensors |= source.dense("cls.output", len(LABELS), WIDTH, bias=True)
    return write_gguf(
        path,
        "neo-bert",
        keys={**KEYS, "rope.freq_base": NEO_BASE},
        pooling=pooling,
        add_tokenizer=vocabularies.add_wordpiece,
        tensors=tensors,
    )


def forward_neo(weights: Weights, ids: Ids) -> Array:
    x = weights["token_embd.weight"][ids]
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        y = layers.rms_norm(weights, f"{block}.attn_norm", x, EPSILON)
        heads = layers.split_heads(layers.dense(weights, f"{block}.attn_qkv", y), HEADS)
        query, key, value = np.split(heads, 3, axis=-1)
        query = layers.rotate(query, NEO_BASE, pairs=True)
        key = layers.rotate(key, NEO_BASE, pairs=True)
        attended = layers.join_heads(layers.attend(query, key, value))
        x = x + layers.dense(weights, f"{block}.attn_output", attended)
        y = layers.rms_norm(weights, f"{block}.ffn_norm", x, EPSILON)
        gate, up = np.split(layers.dense(weights, f"{block}.ffn_up", y), 2, axis=-1)
        x = x + layers.dense(weights, f"{block}.ffn_down", layers.silu(gate) * up)
    return layers.rms_norm(weights, "enc.output_norm", x, EPSILON)


def score_neo(weights: Weights, hidden: Array) -> Array:
    pooled = np.tanh(layers.dense(weights, "cls", hidden[0]))
    return layers.dense(weights, "cls.output", pooled)


def write_euro(path: Path, pooling: Pooling | None) -> Path:
    source = TensorSource(7)
    tensors = {
        "token_embd.weight": source.matrix(vocabularies.BYTE_PAIRS_SIZE, WIDTH, WIDTH**0.5),
        **source.norm("output_norm", WIDTH),
    }
    head = WIDTH // HEADS
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        tensors |= source.norm(f"{block}.attn_norm", WIDTH)
        tensors |= source.dense(f"{block}.attn_q", WIDTH, WIDTH, scale=1.5)
        tensors |= source.dense(f"{block}.attn_k", KEY_HEADS * head, WIDTH, scale=1.5)
        tensors |= source.dense(f"{block}.attn_v", KEY_HEADS * head, WIDTH)
        tensors |= source.dense(f"{block}.attn_output", WIDTH, WIDTH)
        tensors |= source.norm(f"{block}.ffn_norm", WIDTH)
        tensors |= source.dense(f"{block}.ffn_gate", INNER, WIDTH)
        tensors |= source.dense(f"{block}.ffn_up", INNER, WIDTH)
        tensors |= source.dense(f"{block}.ffn_down", WIDTH, INNER)
    return write_gguf(
        path,
        "eurobert",
        keys={**KEYS, "attention.head_count_kv": KEY_HEADS, "rope.freq_base": EURO_BASE},
        pooling=pooling,
        add_tokenizer=vocabularies.byte_pairs("llama-bpe"),
        tensors=tensors,
    )


def forward_euro(weights: Weights, ids: Ids) -> Array:
    x = weights["token_embd.weight"][ids]
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        y = layers.rms_norm(weights, f"{block}.attn_norm", x, EPSILON)
        query = layers.split_heads(layers.dense(weights, f"{block}.attn_q", y), HEADS)
        key = layers.split_heads(layers.dense(weights, f"{block}.attn_k", y), KEY_HEADS)
        value = layers.split_heads(layers.dense(weights, f"{block}.attn_v", y), KEY_HEADS)
        query, key = layers.rotate(query, EURO_BASE), layers.rotate(key, EURO_BASE)
        attended = layers.join_heads(layers.attend(query, key, value))
        x = x + layers.dense(weights, f"{block}.attn_output", attended)
        y = layers.rms_norm(weights, f"{block}.ffn_norm", x, EPSILON)
        gate = layers.silu(layers.dense(weights, f"{block}.ffn_gate", y))
        up = layers.dense(weights, f"{block}.ffn_up", y)
        x = x + layers.dense(weights, f"{block}.ffn_down", gate * up)
    return layers.rms_norm(weights, "output_norm", x, EPSILON)


FAMILIES = (
    Family(
        name="neo-bert",
        architecture="neo-bert",
        tokenizer="bert",
        poolings=(*ALL_POOLINGS, Pooling.RANK),
        context=CONTEXT,
        openvino=False,
        write=write_neo,
        forward=forward_neo,
        score=score_neo,
        refused=True,
        note="llama.cpp takes the heads of its attention in another order",
    ),
    Family(
        name="eurobert",
        architecture="eurobert",
        tokenizer="gpt2",
        context=CONTEXT,
        openvino=True,
        write=write_euro,
        forward=forward_euro,
    ),
)
