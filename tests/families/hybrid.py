"""Decoders that mix attention with recurrent layers: lfm2 (short convolutions) and qwen35.

After ``transformers``' modeling_lfm2 and modeling_qwen3_5, the gated delta rule step by step
(Yang et al. 2024). The norms of a qwen35 GGUF have the 1 that the checkpoint's lack.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from embedd.types import Pooling
from tests.families import layers as nn
from tests.families import vocabularies
from tests.families.decoder_parts import (
    BASE,
    CONTEXT,
    DECODER_POOLINGS,
    EPSILON,
    HEADS,
    KEY_HEADS,
    WIDTH,
    Rotation,
    count_layers,
    frequencies,
    gated,
    make_attention,
    make_embeddings,
    make_gated,
    make_keys,
    norm,
    project_heads,
)
from tests.families.family import Array, Family, Ids, Keys, Weights, write_gguf
from tests.families.random import Tensors, TensorSource

# lfm2
KERNEL: Final = 3
NARROW_HEAD: Final = WIDTH // HEADS  # lfm2 has no other
ATTENTION_LAYERS: Final = (1, 3)
LAYERS: Final = 4
OUT: Final = 24  # width of ColBERT's vectors
# qwen35
STATE: Final = 16  # width of a head of the delta rule
GROUPS: Final = 2  # heads of its queries and keys
VALUES: Final = 4  # heads of its values
WIDE_HEAD: Final = 32
ROTATED: Final = WIDE_HEAD // 4
STEP_KERNEL: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Lfm2:
    """What of a Lfm2 its tensors do not say: whether a token sees those after it."""

    causal: bool

    def forward(self, weights: Weights, ids: Ids) -> Array:
        x = weights["token_embd.weight"][np.asarray(ids)]
        for layer in range(count_layers(weights)):
            block = f"blk.{layer}"
            y = norm(weights, f"{block}.attn_norm", x)
            mix = self._attend if layer in ATTENTION_LAYERS else self._convolve
            x = x + mix(weights, block, y)
            x = x + gated(weights, block, norm(weights, f"{block}.ffn_norm", x), nn.silu)
        return norm(weights, "token_embd_norm", x)

    def _attend(self, weights: Weights, block: str, y: Array) -> Array:
        rotation = Rotation(frequencies=frequencies(BASE, NARROW_HEAD))
        query, key, value = project_heads(weights, block, y, HEADS, KEY_HEADS)
        mask = nn.causal_mask(len(y)) if self.causal else None
        attended = nn.attend(rotation(query), rotation(key), value, mask=mask)
        return nn.dense(weights, f"{block}.attn_output", nn.join_heads(attended))

    def _convolve(self, weights: Weights, block: str, y: Array) -> Array:
        before, after, x = np.split(nn.dense(weights, f"{block}.shortconv.in_proj", y), 3, -1)
        ahead = 0 if self.causal else (KERNEL - 1) // 2
        mixed = convolve(before * x, weights[f"{block}.shortconv.conv.weight"], ahead=ahead)
        return nn.dense(weights, f"{block}.shortconv.out_proj", after * mixed)


def convolve(x: Array, kernel: Array, *, ahead: int = 0) -> Array:
    """Convolve each column of *x* (tokens, width) with its row of *kernel* (width, size).

    A token sees *ahead* tokens after it, and as many before it as the kernel has left.
    """
    size = kernel.shape[1]
    padded = np.pad(x, ((size - 1 - ahead, ahead), (0, 0)))
    return np.asarray(sum(padded[at : at + len(x)] * kernel[:, at] for at in range(size)))


def qwen35(weights: Weights, ids: Ids) -> Array:
    """Hidden states of a Qwen3.5: each second layer here attends, each fourth in real ones."""
    x = weights["token_embd.weight"][np.asarray(ids)]
    for layer in range(count_layers(weights)):
        block = f"blk.{layer}"
        mix = _attend_gated if f"{block}.attn_q.weight" in weights else _remember
        x = x + mix(weights, block, norm(weights, f"{block}.attn_norm", x))
        y = norm(weights, f"{block}.post_attention_norm", x)
        x = x + gated(weights, block, y, nn.silu)
    return norm(weights, "output_norm", x)


def _attend_gated(weights: Weights, block: str, y: Array) -> Array:
    rotation = Rotation(frequencies=frequencies(BASE, ROTATED))
    both = nn.split_heads(nn.dense(weights, f"{block}.attn_q", y), HEADS)
    query, gate = np.split(both, 2, -1)
    key, value = (
        nn.split_heads(nn.dense(weights, f"{block}.attn_{part}", y), KEY_HEADS) for part in "kv"
    )
    query = rotation(norm(weights, f"{block}.attn_q_norm", query))
    key = rotation(norm(weights, f"{block}.attn_k_norm", key))
    attended = nn.attend(query, key, value, mask=nn.causal_mask(len(y)))
    return nn.dense(
        weights, f"{block}.attn_output", nn.join_heads(attended) * sigmoid(nn.join_heads(gate))
    )


def _remember(weights: Weights, block: str, y: Array) -> Array:
    """The gated delta rule: a state of each head decays, and learns what it did not predict."""
    mixed = nn.dense(weights, f"{block}.attn_qkv", y)
    mixed = nn.silu(convolve(mixed, weights[f"{block}.ssm_conv1d.weight"]))
    parts = np.split(mixed, [GROUPS * STATE, 2 * GROUPS * STATE], -1)
    query, key = (unit(nn.split_heads(part, GROUPS)) for part in parts[:2])
    value = nn.split_heads(parts[2], VALUES)
    learn = sigmoid(nn.dense(weights, f"{block}.ssm_beta", y))
    pace = nn.dense(weights, f"{block}.ssm_alpha", y) + weights[f"{block}.ssm_dt.bias"]
    decay = np.exp(weights[f"{block}.ssm_a"] * np.logaddexp(0, pace))
    heads = [
        # In a GGUF the heads of values stand in turn: the first of each group, then the second.
        _run_delta_rule(query[at % GROUPS], key[at % GROUPS], value[at], decay[:, at], learn[:, at])
        for at in range(VALUES)
    ]
    normed = norm(weights, f"{block}.ssm_norm", np.stack(heads))
    gate = nn.split_heads(nn.dense(weights, f"{block}.attn_gate", y), VALUES)
    return nn.dense(weights, f"{block}.ssm_out", nn.join_heads(normed * nn.silu(gate)))


def _run_delta_rule(query: Array, key: Array, value: Array, decay: Array, learn: Array) -> Array:
    state = np.zeros((STATE, STATE))
    rows = []
    for q, k, v, keep, rate in zip(query / STATE**0.5, key, value, decay, learn, strict=True):
        state = state * keep
        state = state + np.outer(k, (v - k @ state) * rate)
        rows.append(q @ state)
    return np.stack(rows)


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def unit(x: Array) -> Array:
    return np.asarray(x / np.sqrt((x**2).sum(-1, keepdims=True) + EPSILON))


def make_lfm2(*, out: int | None) -> Tensors:
    source = TensorSource(1)
    tensors = make_embeddings(source, vocabularies.BYTE_PAIRS_SIZE, last_norm="token_embd_norm")
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        tensors |= source.norm(f"{block}.attn_norm", WIDTH) | source.norm(
            f"{block}.ffn_norm", WIDTH
        )
        tensors |= make_gated(source, block)
        if layer in ATTENTION_LAYERS:
            tensors |= make_attention(source, block, head_width=NARROW_HEAD, norms=True)
        else:
            tensors |= source.dense(f"{block}.shortconv.in_proj", 3 * WIDTH, WIDTH)
            tensors |= source.dense(f"{block}.shortconv.conv", WIDTH, KERNEL)
            tensors |= source.dense(f"{block}.shortconv.out_proj", WIDTH, WIDTH)
    return tensors if out is None else tensors | source.dense("dense_2", out, WIDTH)


def make_qwen35() -> Tensors:
    source = TensorSource(1)
    tensors = make_embeddings(source, vocabularies.BYTE_PAIRS_SIZE, last_norm="output_norm")
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        tensors |= source.norm(f"{block}.attn_norm", WIDTH)
        tensors |= source.norm(f"{block}.post_attention_norm", WIDTH) | make_gated(source, block)
        if layer % 2:
            tensors |= make_attention(source, block, head_width=WIDE_HEAD, norms=True)
            # The second half of each head is its gate.
            tensors |= source.dense(f"{block}.attn_q", 2 * HEADS * WIDE_HEAD, WIDTH)
        else:
            tensors |= make_delta_rule(source, block)
    return tensors


def make_delta_rule(source: TensorSource, block: str) -> Tensors:
    mixed = (2 * GROUPS + VALUES) * STATE
    return {
        **source.dense(f"{block}.attn_qkv", mixed, WIDTH),
        **source.dense(f"{block}.attn_gate", VALUES * STATE, WIDTH),
        **source.dense(f"{block}.ssm_conv1d", mixed, STEP_KERNEL),
        f"{block}.ssm_dt.bias": source.vector(VALUES),
        f"{block}.ssm_a": -np.exp(source.vector(VALUES)),
        **source.dense(f"{block}.ssm_beta", VALUES, WIDTH),
        **source.dense(f"{block}.ssm_alpha", VALUES, WIDTH),
        **source.norm(f"{block}.ssm_norm", STATE),
        **source.dense(f"{block}.ssm_out", WIDTH, VALUES * STATE),
    }


def write(
    path: Path,
    pooling: Pooling | None,
    *,
    architecture: str,
    make_tensors: Callable[[], Tensors],
    keys: Keys,
) -> Path:
    return write_gguf(
        path,
        architecture,
        keys=keys,
        pooling=pooling,
        add_tokenizer=vocabularies.byte_pairs("qwen2", end=True),
        tensors=make_tensors(),
    )


def project_once(weights: Weights, pooled: Array) -> Array:
    return nn.dense(weights, "dense_2", pooled)


_LFM2_KEYS: Final = make_keys(head_width=NARROW_HEAD, layers=LAYERS) | {
    "attention.head_count_kv": [
        KEY_HEADS if layer in ATTENTION_LAYERS else 0 for layer in range(LAYERS)
    ],
    "shortconv.l_cache": KERNEL,
    "vocab_size": vocabularies.BYTE_PAIRS_SIZE,
}


def _make_lfm2(
    name: str,
    *,
    keys: Keys,
    causal: bool = True,
    out: int | None = None,
    poolings: tuple[Pooling, ...],
    listed: bool = True,
    note: str = "",
) -> Family:
    return Family(
        name=name,
        architecture="lfm2",
        tokenizer="gpt2",
        poolings=poolings,
        context=CONTEXT,
        openvino=False,
        write=partial(
            write,
            architecture="lfm2",
            make_tensors=partial(make_lfm2, out=out),
            keys=_LFM2_KEYS | dict(keys),
        ),
        forward=Lfm2(causal=causal).forward,
        project=None if out is None else project_once,
        listed=listed,
        note=note,
    )


_QWEN35_KEYS: Final = make_keys(head_width=WIDE_HEAD, layers=LAYERS) | {
    "rope.dimension_count": ROTATED,
    "rope.dimension_sections": [2, 1, 1, 0],
    "full_attention_interval": 2,
    "ssm.conv_kernel": STEP_KERNEL,
    "ssm.inner_size": VALUES * STATE,
    "ssm.state_size": STATE,
    "ssm.time_step_rank": VALUES,
    "ssm.group_count": GROUPS,
}

FAMILIES: Final = (
    _make_lfm2(
        "lfm2", keys={}, poolings=DECODER_POOLINGS, note="also bidirectional: LFM2.5-Embedding"
    ),
    _make_lfm2(
        "lfm2, bidirectional",
        keys={"attention.causal": False},
        causal=False,
        poolings=(Pooling.CLS, Pooling.MEAN, Pooling.LAST),
        listed=False,
    ),
    _make_lfm2(
        "lfm2, dense layer",
        keys={"embedding_length_out": OUT},
        out=OUT,
        poolings=DECODER_POOLINGS,
        listed=False,
    ),
    Family(
        name="qwen35",
        architecture="qwen35",
        tokenizer="gpt2",
        poolings=DECODER_POOLINGS,
        context=CONTEXT,
        openvino=False,
        write=partial(write, architecture="qwen35", make_tensors=make_qwen35, keys=_QWEN35_KEYS),
        forward=qwen35,
    ),
)
