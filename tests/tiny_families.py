"""Tiny seeded encoders of every family that OpenVINO computes, as llama.cpp loads them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np

from tests.tiny_models import (
    TINY_VOCABULARY,
    Array,
    _add_sizes,
    _add_tensor,
    _add_wordpiece,
    _matrix,
    _vector,
    _written,
)

WIDTH, HEADS, LAYERS, CONTEXT = 64, 4, 4, 96
INNER = 2 * WIDTH  # of the feed-forward network
EPSILON = 1e-5

Tensors = dict[str, Array]


def _norm(random: np.random.Generator, name: str, *, bias: bool = True) -> Tensors:
    tensors = {f"{name}.weight": 1 + _vector(random, WIDTH)}
    return tensors | ({f"{name}.bias": _vector(random, WIDTH)} if bias else {})


def _dense(
    random: np.random.Generator, name: str, rows: int, columns: int, *, bias: bool = True
) -> Tensors:
    tensors = {f"{name}.weight": _matrix(random, rows, columns)}
    return tensors | ({f"{name}.bias": _vector(random, rows)} if bias else {})


def _embeddings(random: np.random.Generator, *, types: bool) -> Tensors:
    tensors = {"token_embd.weight": _matrix(random, len(TINY_VOCABULARY), WIDTH) * 3}
    if types:
        tensors["token_types.weight"] = _matrix(random, 2, WIDTH) * 3
    return tensors


def _attention(
    random: np.random.Generator, block: str, *, fused: bool, bias: bool = True
) -> Tensors:
    tensors = _dense(random, f"{block}.attn_output", WIDTH, WIDTH, bias=bias)
    if fused:
        return tensors | _dense(random, f"{block}.attn_qkv", 3 * WIDTH, WIDTH, bias=bias)
    for part in "qkv":
        tensors |= _dense(random, f"{block}.attn_{part}", WIDTH, WIDTH, bias=bias)
    return tensors


def _norm_after(
    random: np.random.Generator, *, fused: bool, bias: bool, feed_forward: Callable[[str], Tensors]
) -> Tensors:
    tensors = _norm(random, "token_embd_norm")
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        tensors |= _attention(random, block, fused=fused, bias=bias) | feed_forward(block)
        tensors |= _norm(random, f"{block}.attn_output_norm")
        tensors |= _norm(random, f"{block}.layer_output_norm")
    return tensors


def bert(random: np.random.Generator, *, types: bool = True, fused: bool = False) -> Tensors:
    """Also RoBERTa and XLM-R, which have no token types."""
    tensors = _embeddings(random, types=types)
    tensors["position_embd.weight"] = 3 * _matrix(random, CONTEXT, WIDTH)
    return tensors | _norm_after(
        random,
        fused=fused,
        bias=True,
        feed_forward=lambda block: {
            **_dense(random, f"{block}.ffn_up", INNER, WIDTH),
            **_dense(random, f"{block}.ffn_down", WIDTH, INNER),
        },
    )


def nomic_bert(random: np.random.Generator) -> Tensors:
    return _embeddings(random, types=True) | _norm_after(
        random,
        fused=True,
        bias=False,
        feed_forward=lambda block: {
            **_dense(random, f"{block}.ffn_up", INNER, WIDTH, bias=False),
            **_dense(random, f"{block}.ffn_gate", INNER, WIDTH, bias=False),
            **_dense(random, f"{block}.ffn_down", WIDTH, INNER, bias=False),
        },
    )


def jina_bert_v2(
    random: np.random.Generator, *, gate: str = "own", more_norms: bool = False
) -> Tensors:
    """*gate* is a tensor of its ``own``, ``within`` the one before it, or ``none``."""

    def feed_forward(block: str) -> Tensors:
        rows = 2 * INNER if gate == "within" else INNER
        tensors = _dense(random, f"{block}.ffn_up", rows, WIDTH, bias=gate != "within")
        tensors |= _dense(random, f"{block}.ffn_down", WIDTH, INNER)
        if gate == "own":
            tensors |= _dense(random, f"{block}.ffn_gate", INNER, WIDTH, bias=False)
        if more_norms:
            for name in ("attn_q_norm", "attn_k_norm", "attn_norm_2"):
                tensors |= _norm(random, f"{block}.{name}")
        return tensors

    tensors = _embeddings(random, types=True)
    return tensors | _norm_after(random, fused=False, bias=True, feed_forward=feed_forward)


def modern_bert(random: np.random.Generator) -> Tensors:
    tensors = _embeddings(random, types=False)
    tensors |= _norm(random, "token_embd_norm", bias=False) | _norm(
        random, "output_norm", bias=False
    )
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        if layer:
            tensors |= _norm(random, f"{block}.attn_norm", bias=False)
        tensors |= _norm(random, f"{block}.ffn_norm", bias=False)
        tensors |= _attention(random, block, fused=True, bias=False)
        tensors |= _dense(random, f"{block}.ffn_up", 2 * INNER, WIDTH, bias=False)
        tensors |= _dense(random, f"{block}.ffn_down", WIDTH, INNER, bias=False)
    return tensors


Keys = Mapping[str, float | int | str]
Family = tuple[str, Callable[[np.random.Generator], Tensors], Keys]
FAMILIES: dict[str, Family] = {
    "bert": ("bert", bert, {}),
    "roberta": ("bert", lambda random: bert(random, types=False), {}),
    "bert, one matrix": ("bert", lambda random: bert(random, fused=True), {}),
    "nomic-bert": ("nomic-bert", nomic_bert, {"rope.freq_base": 1000.0}),
    "jina-bert-v2": ("jina-bert-v2", jina_bert_v2, {}),
    "jina-bert-v2, code": (
        "jina-bert-v2",
        lambda random: jina_bert_v2(random, more_norms=True),
        {},
    ),
    "jina-bert-v2, one matrix": (
        "jina-bert-v2",
        lambda random: jina_bert_v2(random, gate="within"),
        {},
    ),
    "jina-bert-v2, no gate": (
        "jina-bert-v2",
        lambda random: jina_bert_v2(random, gate="none"),
        {},
    ),
    "modern-bert": (
        "modern-bert",
        modern_bert,
        {
            "attention.sliding_window": 16,
            "attention.sliding_window_pattern": 3,
            "rope.freq_base": 160000.0,
            "rope.freq_base_swa": 10000.0,
        },
    ),
    "modern-bert, silu": ("modern-bert", modern_bert, {"hidden_activation": "silu"}),
}


def write_tiny_family(
    path: Path,
    family: str = "bert",
    *,
    weights: str = "f32",
    pooling: str = "mean",
    keys: Keys | None = None,
    changes: Mapping[str, Array | None] | None = None,
    epsilon: float = EPSILON,
    heads: int = HEADS,
    context: int = CONTEXT,
    head: bool = False,
    split: int = 0,
) -> Path:
    """An encoder of *family*; *weights* are ``f32``, ``f16`` or ``q8_0``.

    *keys* are set besides those of the family, without the architecture before them;
    *changes* replace tensors, or leave them out where they are None. *head* adds the
    two layers of a cross-encoder with two scores. Another *context* than the usual one needs a
    family without learned positions.
    """
    architecture, make_tensors, own = FAMILIES[family]
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=split)
    _add_sizes(writer, width=WIDTH, layers=LAYERS, heads=heads, context=context)
    writer.add_layer_norm_eps(epsilon)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType[pooling.upper()])
    add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in {**own, **(keys or {})}.items():
        add[type(value)](f"{architecture}.{key}", value)  # type: ignore[operator]  # the method was chosen by the type of the value
    _add_wordpiece(writer, TINY_VOCABULARY)
    random = np.random.default_rng(1)
    tensors: dict[str, Array | None] = {**make_tensors(random)}
    if head:
        writer.add_classifier_output_labels(["no", "yes"])
        tensors |= _dense(random, "cls", WIDTH, WIDTH) | _dense(random, "cls.output", 2, WIDTH)
    for name, array in {**tensors, **(changes or {})}.items():
        if array is not None:
            _add_tensor(writer, name, array, "f32" if name.startswith("cls") else weights)
    return _written(writer, path)
