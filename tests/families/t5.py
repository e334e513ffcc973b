"""The encoder of T5 (Raffel et al. 2020), as in sentence-t5 and GTR, and of T5 1.1 with its gate.

RMS norms before each part, no biases, scores that are not scaled, and instead of positions a
learned number for each head and class of distance, which the first layer shares with all others.
"""

from functools import partial
from pathlib import Path

import numpy as np

from embedd.types import Pooling
from tests.families import layers, vocabularies
from tests.families.family import Array, Family, Ids, Weights, write_gguf
from tests.families.random import Tensors, TensorSource

# The heads together are narrower than the hidden states, as in the smallest T5 1.1.
WIDTH, HEADS, HEAD, LAYERS, INNER, CONTEXT = 32, 3, 8, 2, 64, 160
EPSILON = 1e-6
CLASSES, FARTHEST = 32, 128  # of distances

KEYS = {
    "block_count": LAYERS,
    "context_length": CONTEXT,
    "embedding_length": WIDTH,
    "feed_forward_length": INNER,
    "attention.head_count": HEADS,
    "attention.key_length": HEAD,
    "attention.value_length": HEAD,
    "attention.layer_norm_rms_epsilon": EPSILON,
    "attention.relative_buckets_count": CLASSES,
}


def make_tensors(*, gate: bool) -> Tensors:
    source = TensorSource(9)
    tensors = {
        "token_embd.weight": source.matrix(vocabularies.UNIGRAM_SIZE, WIDTH, WIDTH**0.5),
        "enc.blk.0.attn_rel_b.weight": source.matrix(CLASSES, HEADS, 2 * HEADS**0.5),
        **source.norm("enc.output_norm", WIDTH),
    }
    for layer in range(LAYERS):
        block = f"enc.blk.{layer}"
        tensors |= source.norm(f"{block}.attn_norm", WIDTH)
        for part in "qkv":
            scale = 1.0 if part == "v" else 0.6  # the scores are not scaled
            tensors |= source.dense(f"{block}.attn_{part}", HEADS * HEAD, WIDTH, scale=scale)
        tensors |= source.dense(f"{block}.attn_o", WIDTH, HEADS * HEAD)
        tensors |= source.norm(f"{block}.ffn_norm", WIDTH)
        tensors |= source.dense(f"{block}.ffn_up", INNER, WIDTH)
        if gate:
            tensors |= source.dense(f"{block}.ffn_gate", INNER, WIDTH)
        tensors |= source.dense(f"{block}.ffn_down", WIDTH, INNER)
    return tensors


def write(path: Path, pooling: Pooling | None, *, gate: bool) -> Path:
    return write_gguf(
        path,
        "t5encoder",
        keys=KEYS,
        pooling=pooling,
        add_tokenizer=vocabularies.add_t5_unigram,
        tensors=make_tensors(gate=gate),
    )


def classify(distance: int) -> int:
    """The class of a distance: near ones have their own, farther ones share by logarithm."""
    half = CLASSES // 2
    near = half // 2
    side, far = (half if distance > 0 else 0), abs(distance)
    if far < near:
        return side + far
    # A hair is added so that powers of two do not fall to the class below by rounding.
    logarithm = np.log(far / near) / np.log(FARTHEST / near) * (half - near)
    return side + min(near + int(logarithm + 1e-9), half - 1)


def forward(weights: Weights, ids: Ids) -> Array:
    x = weights["token_embd.weight"][ids]
    classes = np.vectorize(classify)(layers.distances(len(ids)).astype(int))
    bias = weights["enc.blk.0.attn_rel_b.weight"][classes].transpose(2, 0, 1)
    for layer in range(LAYERS):
        block = f"enc.blk.{layer}"
        y = layers.rms_norm(weights, f"{block}.attn_norm", x, EPSILON)
        query, key, value = (
            layers.split_heads(layers.dense(weights, f"{block}.attn_{part}", y), HEADS)
            for part in "qkv"
        )
        attended = layers.join_heads(layers.attend(query, key, value, scale=1.0, bias=bias))
        x = x + layers.dense(weights, f"{block}.attn_o", attended)
        y = layers.rms_norm(weights, f"{block}.ffn_norm", x, EPSILON)
        up = layers.dense(weights, f"{block}.ffn_up", y)
        if f"{block}.ffn_gate.weight" in weights:
            inner = layers.gelu_tanh(layers.dense(weights, f"{block}.ffn_gate", y)) * up
        else:
            inner = layers.relu(up)
        x = x + layers.dense(weights, f"{block}.ffn_down", inner)
    return layers.rms_norm(weights, "enc.output_norm", x, EPSILON)


def write_whole(path: Path, pooling: Pooling | None) -> Path:
    """T5 with its decoder, which nothing computes."""
    source = TensorSource(10)
    tensors = make_tensors(gate=False) | source.norm("dec.output_norm", WIDTH)
    tensors["dec.blk.0.attn_rel_b.weight"] = source.matrix(CLASSES, HEADS)
    for layer in range(LAYERS):
        block = f"dec.blk.{layer}"
        for norm in ("attn_norm", "cross_attn_norm", "ffn_norm"):
            tensors |= source.norm(f"{block}.{norm}", WIDTH)
        for attention in ("attn", "cross_attn"):
            for part in "qkv":
                tensors |= source.dense(f"{block}.{attention}_{part}", HEADS * HEAD, WIDTH)
            tensors |= source.dense(f"{block}.{attention}_o", WIDTH, HEADS * HEAD)
        tensors |= source.dense(f"{block}.ffn_up", INNER, WIDTH)
        tensors |= source.dense(f"{block}.ffn_down", WIDTH, INNER)
    return write_gguf(
        path,
        "t5",
        keys={**KEYS, "decoder_start_token_id": 0},
        pooling=pooling,
        add_tokenizer=vocabularies.add_t5_unigram,
        tensors=tensors,
    )


DECODER = frozenset(
    {"dec.output_norm.weight", "dec.blk.0.attn_rel_b.weight"}
    | {
        f"dec.blk.{layer}.{name}.weight"
        for layer in range(LAYERS)
        for name in (
            *("attn_norm", "attn_q", "attn_k", "attn_v", "attn_o", "ffn_norm", "ffn_up"),
            *("cross_attn_norm", "cross_attn_q", "cross_attn_k", "cross_attn_v", "cross_attn_o"),
            "ffn_down",
        )
    }
)

FAMILIES = (
    Family(
        name="t5encoder",
        architecture="t5encoder",
        tokenizer="t5",
        context=CONTEXT,
        openvino=False,
        write=partial(write, gate=False),
        forward=forward,
    ),
    Family(
        name="t5encoder with a gate",
        architecture="t5encoder",
        tokenizer="t5",
        context=CONTEXT,
        openvino=False,
        write=partial(write, gate=True),
        forward=forward,
        listed=False,
    ),
    Family(
        name="t5 with its decoder",
        architecture="t5",
        tokenizer="t5",
        context=CONTEXT,
        openvino=False,
        write=write_whole,
        forward=forward,
        listed=False,
        unseen=DECODER,
    ),
)
