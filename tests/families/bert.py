"""BERT (Devlin et al. 2019), RoBERTa and XLM-RoBERTa: learned positions, a norm after each part.

Also their cross-encoders: the scores are a linear layer on the tanh of the pooled first token,
BERT's pooler and RoBERTa's classification head being the same arithmetic.
"""

from pathlib import Path

import numpy as np

from embedd.types import Pooling
from tests.families import layers, vocabularies
from tests.families.family import (
    ALL_POOLINGS,
    LABELS,
    Array,
    Family,
    Ids,
    Weights,
    write_gguf,
)
from tests.families.random import Tensors, TensorSource

WIDTH, HEADS, LAYERS, INNER, CONTEXT = 32, 4, 2, 64, 96
EPSILON = 1e-6


def make_tensors(vocabulary: int, *, types: int, head: bool) -> Tensors:
    source = TensorSource(1)
    tensors = {
        "token_embd.weight": source.matrix(vocabulary, WIDTH, WIDTH**0.5),
        "position_embd.weight": source.matrix(CONTEXT, WIDTH, WIDTH**0.5),
        **source.norm("token_embd_norm", WIDTH, bias=True),
    }
    if types:
        tensors["token_types.weight"] = source.matrix(types, WIDTH, WIDTH**0.5)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            scale = 2.0 if part in {"attn_q", "attn_k"} else 1.0
            tensors |= source.dense(f"{block}.{part}", WIDTH, WIDTH, bias=True, scale=scale)
        tensors |= source.norm(f"{block}.attn_output_norm", WIDTH, bias=True)
        tensors |= source.dense(f"{block}.ffn_up", INNER, WIDTH, bias=True)
        tensors |= source.dense(f"{block}.ffn_down", WIDTH, INNER, bias=True)
        tensors |= source.norm(f"{block}.layer_output_norm", WIDTH, bias=True)
    if head:
        tensors |= source.dense("cls", WIDTH, WIDTH, bias=True)
        tensors |= source.dense("cls.output", len(LABELS), WIDTH, bias=True)
    return tensors


KEYS = {
    "block_count": LAYERS,
    "context_length": CONTEXT,
    "embedding_length": WIDTH,
    "feed_forward_length": INNER,
    "attention.head_count": HEADS,
    "attention.layer_norm_epsilon": EPSILON,
    "attention.causal": False,
}


def write(path: Path, pooling: Pooling | None) -> Path:
    tensors = make_tensors(vocabularies.WORDPIECE_SIZE, types=2, head=pooling is Pooling.RANK)
    return write_gguf(
        path,
        "bert",
        keys=KEYS,
        pooling=pooling,
        add_tokenizer=vocabularies.add_wordpiece,
        tensors=tensors,
    )


def forward(weights: Weights, ids: Ids) -> Array:
    x = weights["token_embd.weight"][ids] + weights["position_embd.weight"][: len(ids)]
    if "token_types.weight" in weights:
        x = x + weights["token_types.weight"][0]  # all tokens are of the first sentence
    x = layers.layer_norm(weights, "token_embd_norm", x, EPSILON)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        query, key, value = (
            layers.split_heads(layers.dense(weights, f"{block}.attn_{part}", x), HEADS)
            for part in "qkv"
        )
        attended = layers.join_heads(layers.attend(query, key, value))
        x = x + layers.dense(weights, f"{block}.attn_output", attended)
        x = layers.layer_norm(weights, f"{block}.attn_output_norm", x, EPSILON)
        inner = layers.gelu(layers.dense(weights, f"{block}.ffn_up", x))
        x = x + layers.dense(weights, f"{block}.ffn_down", inner)
        x = layers.layer_norm(weights, f"{block}.layer_output_norm", x, EPSILON)
    return x


def score(weights: Weights, hidden: Array) -> Array:
    pooled = np.tanh(layers.dense(weights, "cls", hidden[0]))
    return layers.dense(weights, "cls.output", pooled)


FAMILIES = (
    Family(
        name="bert",
        architecture="bert",
        tokenizer="bert",
        poolings=(*ALL_POOLINGS, Pooling.RANK),
        context=CONTEXT,
        openvino=True,
        write=write,
        forward=forward,
        score=score,
        # The same for each token that is seen, so that softmax removes it.
        unseen=frozenset(f"blk.{layer}.attn_k.bias" for layer in range(LAYERS)),
    ),
)
