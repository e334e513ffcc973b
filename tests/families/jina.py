"""jina-bert-v2 (Günther et al. 2023) and jina-bert-v3 (Sturua et al. 2024).

v2 is BERT with ALiBi (Press et al. 2021) on both sides instead of positions, and with a gate
(GeGLU). v3 is XLM-RoBERTa with rotary positions; its adapters are other files.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from embedd.types import Pooling
from tests.families import layers, vocabularies
from tests.families.family import Array, Family, Ids, Weights, write_gguf
from tests.families.random import Tensors, TensorSource

# ALiBi has another rule for heads that are not a power of two.
WIDTH, HEADS, LAYERS, INNER, CONTEXT = 48, 6, 2, 64, 96
EPSILON, BASE = 1e-6, 20000.0

KEYS = {
    "block_count": LAYERS,
    "context_length": CONTEXT,
    "embedding_length": WIDTH,
    "feed_forward_length": INNER,
    "attention.head_count": HEADS,
    "attention.layer_norm_epsilon": EPSILON,
    "attention.causal": False,
}


def make_shared_tensors(source: TensorSource, vocabulary: int, *, types: int) -> Tensors:
    tensors = {
        "token_embd.weight": source.matrix(vocabulary, WIDTH, WIDTH**0.5),
        "token_types.weight": source.matrix(types, WIDTH, WIDTH**0.5),
        **source.norm("token_embd_norm", WIDTH, bias=True),
    }
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        tensors |= source.dense(f"{block}.attn_output", WIDTH, WIDTH, bias=True)
        tensors |= source.norm(f"{block}.attn_output_norm", WIDTH, bias=True)
        tensors |= source.dense(f"{block}.ffn_down", WIDTH, INNER, bias=True)
        tensors |= source.norm(f"{block}.layer_output_norm", WIDTH, bias=True)
    return tensors


def make_v2_tensors(vocabulary: int, *, gate: str, norms: Sequence[str] = ()) -> Tensors:
    """Tensors of jina-bert-v2.

    Args:
        gate: ``own`` is a tensor; ``first`` and ``second`` are halves of the one for the values;
            ``none`` is BERT's own feed-forward network.
        norms: Further norms in each block.
    """
    source = TensorSource(4)
    tensors = make_shared_tensors(source, vocabulary, types=2)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        for part in "qkv":
            tensors |= source.dense(f"{block}.attn_{part}", WIDTH, WIDTH, bias=True, scale=1.5)
        rows = 2 * INNER if gate in {"first", "second"} else INNER
        tensors |= source.dense(f"{block}.ffn_up", rows, WIDTH, bias=gate == "none")
        if gate == "own":
            tensors |= source.dense(f"{block}.ffn_gate", INNER, WIDTH)
        for name in norms:
            tensors |= source.norm(f"{block}.{name}", WIDTH, bias=True)
            if name != "attn_norm_2":
                tensors[f"{block}.{name}.weight"] *= 2  # scores as large as those of ALiBi
    return tensors


def write_v2(path: Path, pooling: Pooling | None, *, gate: str) -> Path:
    return write_gguf(
        path,
        "jina-bert-v2",
        keys=KEYS,
        pooling=pooling,
        add_tokenizer=vocabularies.add_wordpiece,
        tensors=make_v2_tensors(vocabularies.WORDPIECE_SIZE, gate=gate),
    )


def write_v2_bilingual(path: Path, pooling: Pooling | None) -> Path:
    norms = ("attn_q_norm", "attn_k_norm")
    return write_gguf(
        path,
        "jina-bert-v2",
        keys=KEYS,
        pooling=pooling,
        add_tokenizer=vocabularies.byte_pairs("jina-v2-de", frame=True, types=2),
        tensors=make_v2_tensors(vocabularies.BYTE_PAIRS_SIZE, gate="first", norms=norms),
    )


def write_v2_code(path: Path, pooling: Pooling | None, *, gate: str) -> Path:
    norms = ("attn_q_norm", "attn_k_norm", "attn_norm_2")
    return write_gguf(
        path,
        "jina-bert-v2",
        keys=KEYS,
        pooling=pooling,
        add_tokenizer=vocabularies.byte_pairs("jina-v2-code", frame=True, types=2),
        tensors=make_v2_tensors(vocabularies.BYTE_PAIRS_SIZE, gate=gate, norms=norms),
    )


def write_v3(path: Path, pooling: Pooling | None) -> Path:
    source = TensorSource(5)
    tensors = make_shared_tensors(source, vocabularies.UNIGRAM_SIZE, types=1)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        tensors |= source.dense(f"{block}.attn_qkv", 3 * WIDTH, WIDTH, bias=True, scale=1.5)
        tensors |= source.dense(f"{block}.ffn_up", INNER, WIDTH, bias=True)
    return write_gguf(
        path,
        "jina-bert-v3",
        keys={**KEYS, "rope.freq_base": BASE},
        pooling=pooling,
        add_tokenizer=vocabularies.add_unigram,
        tensors=tensors,
    )


def find_slopes(heads: int) -> list[float]:
    """ALiBi's slopes: a geometric series, and between its members for the heads that are left."""
    whole = 2 ** int(np.log2(heads))
    series = [2.0 ** (-8 * (head + 1) / whole) for head in range(whole)]
    if whole == heads:
        return series
    return [*series, *find_slopes(2 * whole)[::2][: heads - whole]]


def feed_forward_v2(weights: Weights, block: str, x: Array, *, gate: str) -> Array:
    up = layers.dense(weights, f"{block}.ffn_up", x)
    if gate == "none":
        inner = layers.gelu(up)
    elif gate == "own":
        inner = up * layers.gelu(layers.dense(weights, f"{block}.ffn_gate", x))
    else:
        first, second = np.split(up, 2, axis=-1)
        inner = first * layers.gelu(second) if gate == "second" else layers.gelu(first) * second
    return layers.dense(weights, f"{block}.ffn_down", inner)


def maybe_norm(weights: Weights, name: str, x: Array) -> Array:
    if f"{name}.weight" not in weights:
        return x
    return layers.layer_norm(weights, name, x, EPSILON)


def forward_v2(weights: Weights, ids: Ids, *, gate: str) -> Array:
    x = weights["token_embd.weight"][ids] + weights["token_types.weight"][0]
    x = layers.layer_norm(weights, "token_embd_norm", x, EPSILON)
    slopes = np.array(find_slopes(HEADS))[:, np.newaxis, np.newaxis]
    alibi = -slopes * np.abs(layers.distances(len(ids)))
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        query, key, value = (
            layers.dense(weights, f"{block}.attn_{part}", x) for part in ("q", "k", "v")
        )
        query = maybe_norm(weights, f"{block}.attn_q_norm", query)
        key = maybe_norm(weights, f"{block}.attn_k_norm", key)
        query, key, value = (layers.split_heads(part, HEADS) for part in (query, key, value))
        attended = layers.join_heads(layers.attend(query, key, value, bias=alibi))
        y = x + layers.dense(weights, f"{block}.attn_output", attended)
        y = layers.layer_norm(weights, f"{block}.attn_output_norm", y, EPSILON)
        if f"{block}.attn_norm_2.weight" in weights:
            y = layers.layer_norm(weights, f"{block}.attn_norm_2", x + y, EPSILON)
        x = y + feed_forward_v2(weights, block, y, gate=gate)
        x = layers.layer_norm(weights, f"{block}.layer_output_norm", x, EPSILON)
    return x


def forward_v3(weights: Weights, ids: Ids) -> Array:
    x = weights["token_embd.weight"][ids] + weights["token_types.weight"][0]
    x = layers.layer_norm(weights, "token_embd_norm", x, EPSILON)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        parts = np.split(layers.dense(weights, f"{block}.attn_qkv", x), 3, axis=-1)
        query, key, value = (layers.split_heads(part, HEADS) for part in parts)
        query, key = layers.rotate(query, BASE), layers.rotate(key, BASE)
        attended = layers.join_heads(layers.attend(query, key, value))
        x = x + layers.dense(weights, f"{block}.attn_output", attended)
        x = layers.layer_norm(weights, f"{block}.attn_output_norm", x, EPSILON)
        inner = layers.gelu(layers.dense(weights, f"{block}.ffn_up", x))
        x = x + layers.dense(weights, f"{block}.ffn_down", inner)
        x = layers.layer_norm(weights, f"{block}.layer_output_norm", x, EPSILON)
    return x


# What is the same for each token that is seen, softmax removes; a bias before a norm of keys shows
# only a little.
UNSEEN = frozenset(f"blk.{layer}.attn_k.bias" for layer in range(LAYERS))
UNSEEN_WITH_NORM = UNSEEN | {f"blk.{layer}.attn_k_norm.bias" for layer in range(LAYERS)}

FAMILIES = (
    Family(
        name="jina-bert-v2",
        architecture="jina-bert-v2",
        tokenizer="bert",
        context=CONTEXT,
        openvino=True,
        write=partial(write_v2, gate="first"),
        forward=partial(forward_v2, gate="first"),
        unseen=UNSEEN,
    ),
    Family(
        name="jina-bert-v2 with a gate of its own",
        architecture="jina-bert-v2",
        tokenizer="bert",
        context=CONTEXT,
        openvino=True,
        write=partial(write_v2, gate="own"),
        forward=partial(forward_v2, gate="own"),
        listed=False,
        unseen=UNSEEN,
    ),
    Family(
        name="jina-bert-v2 without a gate",
        architecture="jina-bert-v2",
        tokenizer="bert",
        context=CONTEXT,
        openvino=True,
        write=partial(write_v2, gate="none"),
        forward=partial(forward_v2, gate="none"),
        listed=False,
        unseen=UNSEEN,
    ),
    Family(
        name="jina-bert-v2, bilingual",
        architecture="jina-bert-v2",
        tokenizer="gpt2",
        context=CONTEXT,
        openvino=True,
        write=write_v2_bilingual,
        forward=partial(forward_v2, gate="first"),
        listed=False,
        unseen=UNSEEN_WITH_NORM,
    ),
    Family(
        name="jina-bert-v2, code",
        architecture="jina-bert-v2",
        tokenizer="gpt2",
        context=CONTEXT,
        openvino=True,
        write=partial(write_v2_code, gate="own"),
        forward=partial(forward_v2, gate="own"),
        unseen=UNSEEN_WITH_NORM,
        note="only from files with a tensor ffn_gate in each block",
    ),
    Family(
        name="jina-bert-v2, code, gate in ffn_up",
        architecture="jina-bert-v2",
        tokenizer="gpt2",
        context=CONTEXT,
        openvino=True,
        write=partial(write_v2_code, gate="second"),
        forward=partial(forward_v2, gate="second"),
        refused=True,
        listed=False,
        unseen=UNSEEN_WITH_NORM,
    ),
    Family(
        name="jina-bert-v3",
        architecture="jina-bert-v3",
        tokenizer="t5",
        context=CONTEXT,
        openvino=True,
        write=write_v3,
        forward=forward_v3,
        note="without the adapters for tasks, which are other files",
    ),
)
