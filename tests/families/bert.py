"""BERT (Devlin et al. 2019), RoBERTa and XLM-RoBERTa: learned positions, a norm after each part.

Also their cross-encoders: the scores are a linear layer on the tanh of the pooled first token,
BERT's pooler and RoBERTa's classification head being the same arithmetic.
"""

from functools import partial
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


def make_tensors(vocabulary: int, *, types: int, fused: bool = False) -> Tensors:
    """*fused* puts the matrices of queries, keys and values into one, as some converters do."""
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
        if fused:
            tensors |= source.dense(f"{block}.attn_qkv", 3 * WIDTH, WIDTH, bias=True, scale=1.5)
        else:
            for part in "qkv":
                tensors |= source.dense(f"{block}.attn_{part}", WIDTH, WIDTH, bias=True, scale=1.5)
        tensors |= source.dense(f"{block}.attn_output", WIDTH, WIDTH, bias=True)
        tensors |= source.norm(f"{block}.attn_output_norm", WIDTH, bias=True)
        tensors |= source.dense(f"{block}.ffn_up", INNER, WIDTH, bias=True)
        tensors |= source.dense(f"{block}.ffn_down", WIDTH, INNER, bias=True)
        tensors |= source.norm(f"{block}.layer_output_norm", WIDTH, bias=True)
    return tensors


def make_head(*, pooler: bool) -> Tensors:
    """The layers of a cross-encoder; some converters leave out the *pooler*."""
    source = TensorSource(11)
    tensors = source.dense("cls.output", len(LABELS), WIDTH, bias=True)
    return tensors | (source.dense("cls", WIDTH, WIDTH, bias=True) if pooler else {})


KEYS = {
    "block_count": LAYERS,
    "context_length": CONTEXT,
    "embedding_length": WIDTH,
    "feed_forward_length": INNER,
    "attention.head_count": HEADS,
    "attention.layer_norm_epsilon": EPSILON,
    "attention.causal": False,
}


def write_wordpiece(
    path: Path, pooling: Pooling | None, *, fused: bool = False, pooler: bool = True
) -> Path:
    tensors = make_tensors(vocabularies.WORDPIECE_SIZE, types=2, fused=fused)
    if pooling is Pooling.RANK:
        tensors |= make_head(pooler=pooler)
    return write_gguf(
        path,
        "bert",
        keys=KEYS,
        pooling=pooling,
        add_tokenizer=vocabularies.add_wordpiece,
        tensors=tensors,
    )


def write_byte_pairs(path: Path, pooling: Pooling | None) -> Path:
    """As RoBERTa is written: the first rows of its positions, which it never uses, are cut off."""
    tensors = make_tensors(vocabularies.BYTE_PAIRS_SIZE, types=1)
    if pooling is Pooling.RANK:
        tensors |= make_head(pooler=True)
    return write_gguf(
        path,
        "bert",
        keys=KEYS,
        pooling=pooling,
        add_tokenizer=vocabularies.byte_pairs("roberta-bpe", frame=True, types=1),
        tensors=tensors,
    )


def write_unigram(path: Path, pooling: Pooling | None) -> Path:
    """As XLM-RoBERTa is written, and DistilBERT: without the one token type."""
    tensors = make_tensors(vocabularies.UNIGRAM_SIZE, types=0)
    if pooling is Pooling.RANK:
        tensors |= make_head(pooler=True)
    return write_gguf(
        path,
        "bert",
        keys=KEYS,
        pooling=pooling,
        add_tokenizer=vocabularies.add_unigram,
        tensors=tensors,
    )


def forward(weights: Weights, ids: Ids) -> Array:
    x = weights["token_embd.weight"][ids] + weights["position_embd.weight"][: len(ids)]
    if "token_types.weight" in weights:
        x = x + weights["token_types.weight"][0]  # all tokens are of the first sentence
    x = layers.layer_norm(weights, "token_embd_norm", x, EPSILON)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        if f"{block}.attn_qkv.weight" in weights:
            parts = np.split(layers.dense(weights, f"{block}.attn_qkv", x), 3, axis=-1)
        else:
            parts = [layers.dense(weights, f"{block}.attn_{part}", x) for part in "qkv"]
        query, key, value = (layers.split_heads(part, HEADS) for part in parts)
        attended = layers.join_heads(layers.attend(query, key, value))
        x = x + layers.dense(weights, f"{block}.attn_output", attended)
        x = layers.layer_norm(weights, f"{block}.attn_output_norm", x, EPSILON)
        inner = layers.gelu(layers.dense(weights, f"{block}.ffn_up", x))
        x = x + layers.dense(weights, f"{block}.ffn_down", inner)
        x = layers.layer_norm(weights, f"{block}.layer_output_norm", x, EPSILON)
    return x


def score(weights: Weights, hidden: Array) -> Array:
    pooled = hidden[0]
    if "cls.weight" in weights:
        pooled = np.tanh(layers.dense(weights, "cls", pooled))
    return layers.dense(weights, "cls.output", pooled)


# The same for each token that is seen, so that softmax removes it.
UNSEEN = frozenset(f"blk.{layer}.attn_k.bias" for layer in range(LAYERS))

FAMILIES = (
    Family(
        name="bert",
        architecture="bert",
        tokenizer="bert",
        poolings=(*ALL_POOLINGS, Pooling.RANK),
        context=CONTEXT,
        openvino=True,
        conversion="yes",
        write=write_wordpiece,
        forward=forward,
        score=score,
        unseen=UNSEEN,
        note="all tokens count as those of a first sentence, also in pairs",
    ),
    Family(
        name="roberta",
        architecture="bert",
        tokenizer="gpt2",
        poolings=(*ALL_POOLINGS, Pooling.RANK),
        context=CONTEXT,
        openvino=True,
        conversion="yes",
        write=write_byte_pairs,
        forward=forward,
        score=score,
        unseen=UNSEEN,
    ),
    Family(
        name="xlm-roberta",
        architecture="bert",
        tokenizer="t5",
        poolings=(*ALL_POOLINGS, Pooling.RANK),
        context=CONTEXT,
        openvino=True,
        conversion="yes",
        write=write_unigram,
        forward=forward,
        score=score,
        unseen=UNSEEN,
    ),
    Family(
        name="bert without a pooler",
        architecture="bert",
        tokenizer="bert",
        poolings=(Pooling.RANK,),
        context=CONTEXT,
        openvino=True,
        write=partial(write_wordpiece, pooler=False),
        forward=forward,
        score=score,
        listed=False,
        unseen=UNSEEN,
    ),
    Family(
        name="bert with one matrix",
        architecture="bert",
        tokenizer="bert",
        poolings=(Pooling.MEAN,),
        context=CONTEXT,
        openvino=True,
        write=partial(write_wordpiece, fused=True),
        forward=forward,
        listed=False,
        unseen=UNSEEN,
    ),
)
