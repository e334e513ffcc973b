"""ModernBERT (Warner et al. 2024): windows of attention in two layers of three.

Norms before each part but the first attention, rotary positions of one base in layers that see
everything and of another in those that see half a window to each side, and a gate whose first
half is activated. The classifier pools, then applies a dense layer, its activation and a norm.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from embedd.types import Pooling
from tests.families import layers, vocabularies
from tests.families.family import ALL_POOLINGS, LABELS, Array, Family, Ids, Weights, write_gguf
from tests.families.random import TensorSource

WIDTH, HEADS, LAYERS, INNER, CONTEXT = 32, 4, 4, 64, 96
WINDOW, PATTERN = 16, 3
EPSILON, BASE, WINDOW_BASE = 1e-5, 160000.0, 10000.0

KEYS = {
    "block_count": LAYERS,
    "context_length": CONTEXT,
    "embedding_length": WIDTH,
    "feed_forward_length": INNER,
    "attention.head_count": HEADS,
    "attention.layer_norm_epsilon": EPSILON,
    "attention.causal": False,
    "attention.sliding_window": WINDOW,
    "attention.sliding_window_pattern": PATTERN,
    "rope.freq_base": BASE,
    "rope.freq_base_swa": WINDOW_BASE,
    "rope.scaling.type": "none",
}


def write(
    path: Path, pooling: Pooling | None, *, activation: str = "gelu", head_pooling: Pooling
) -> Path:
    source = TensorSource(8)
    tensors = {
        "token_embd.weight": source.matrix(vocabularies.BYTE_PAIRS_SIZE, WIDTH, WIDTH**0.5),
        **source.norm("token_embd_norm", WIDTH),
        **source.norm("output_norm", WIDTH),
    }
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        if layer:
            tensors |= source.norm(f"{block}.attn_norm", WIDTH)
        tensors |= source.dense(f"{block}.attn_qkv", 3 * WIDTH, WIDTH, scale=1.5)
        tensors |= source.dense(f"{block}.attn_output", WIDTH, WIDTH)
        tensors |= source.norm(f"{block}.ffn_norm", WIDTH)
        tensors |= source.dense(f"{block}.ffn_up", 2 * INNER, WIDTH)
        tensors |= source.dense(f"{block}.ffn_down", WIDTH, INNER)
    keys: dict[str, object] = {**KEYS, "hidden_activation": activation}
    if pooling is Pooling.RANK:
        if head_pooling is Pooling.CLS:  # the mean is what a file without the key means
            keys["classifier.pooling_type"] = 2
        tensors |= source.dense("cls", WIDTH, WIDTH)
        tensors |= source.norm("cls.norm", WIDTH)
        tensors |= source.dense("cls.output", len(LABELS), WIDTH, bias=True)
    return write_gguf(
        path,
        "modern-bert",
        keys=keys,
        pooling=pooling,
        add_tokenizer=vocabularies.byte_pairs("modern-bert", frame=True),
        tensors=tensors,
    )


def forward(weights: Weights, ids: Ids, *, activate: Callable[[Array], Array]) -> Array:
    x = layers.layer_norm(weights, "token_embd_norm", weights["token_embd.weight"][ids], EPSILON)
    near = np.abs(layers.distances(len(ids))) <= WINDOW // 2
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        sees_all = layer % PATTERN == 0
        y = layers.layer_norm(weights, f"{block}.attn_norm", x, EPSILON) if layer else x
        parts = np.split(layers.dense(weights, f"{block}.attn_qkv", y), 3, axis=-1)
        query, key, value = (layers.split_heads(part, HEADS) for part in parts)
        base = BASE if sees_all else WINDOW_BASE
        query, key = layers.rotate(query, base), layers.rotate(key, base)
        attended = layers.attend(query, key, value, mask=None if sees_all else near)
        x = x + layers.dense(weights, f"{block}.attn_output", layers.join_heads(attended))
        y = layers.layer_norm(weights, f"{block}.ffn_norm", x, EPSILON)
        first, second = np.split(layers.dense(weights, f"{block}.ffn_up", y), 2, axis=-1)
        x = x + layers.dense(weights, f"{block}.ffn_down", activate(first) * second)
    return layers.layer_norm(weights, "output_norm", x, EPSILON)


def score(weights: Weights, hidden: Array, *, head_pooling: Pooling) -> Array:
    pooled = hidden.mean(axis=0) if head_pooling is Pooling.MEAN else hidden[0]
    inner = layers.gelu(layers.dense(weights, "cls", pooled))
    return layers.dense(
        weights, "cls.output", layers.layer_norm(weights, "cls.norm", inner, EPSILON)
    )


FAMILIES = (
    Family(
        name="modern-bert",
        architecture="modern-bert",
        tokenizer="gpt2",
        poolings=(*ALL_POOLINGS, Pooling.RANK),
        context=CONTEXT,
        window=WINDOW,
        openvino=True,
        conversion="yes",
        write=partial(write, head_pooling=Pooling.MEAN),
        forward=partial(forward, activate=layers.gelu),
        score=partial(score, head_pooling=Pooling.MEAN),
    ),
    Family(
        name="modern-bert with silu",
        architecture="modern-bert",
        tokenizer="gpt2",
        poolings=(*ALL_POOLINGS, Pooling.RANK),
        context=CONTEXT,
        window=WINDOW,
        openvino=True,
        write=partial(write, activation="silu", head_pooling=Pooling.CLS),
        forward=partial(forward, activate=layers.silu),
        score=partial(score, head_pooling=Pooling.CLS),
        listed=False,
    ),
)
