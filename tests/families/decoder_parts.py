"""Parts of decoders: rotary positions with scaling, whole layers, and their tensors."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from embedd.types import Pooling
from tests.families import layers as nn
from tests.families.family import Array, Ids, Weights
from tests.families.random import Tensors, TensorSource

EPSILON = 1e-6
WIDTH, HEADS, KEY_HEADS, HEAD_WIDTH, INNER, LAYERS, CONTEXT = 32, 4, 2, 16, 48, 2, 96
BASE = 10000.0
DECODER_POOLINGS = (Pooling.LAST, Pooling.MEAN, Pooling.CLS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """Rotary positions (Su et al. 2021) of the first ``2 * len(frequencies)`` numbers of a head.

    Args:
        frequencies: Radians per position.
        magnitude: Factor of the rotated numbers, ``attention_factor`` of YaRN.
        pairs: Rotate neighbours, else the first half with the second.
    """

    frequencies: Array
    magnitude: float = 1.0
    pairs: bool = False

    def __call__(self, x: Array) -> Array:
        size = 2 * len(self.frequencies)
        angles = np.arange(x.shape[1])[:, np.newaxis] * self.frequencies
        cos, sin = np.cos(angles) * self.magnitude, np.sin(angles) * self.magnitude
        turned, rest = x[..., :size], x[..., size:]
        halves = (turned[..., ::2], turned[..., 1::2]) if self.pairs else np.split(turned, 2, -1)
        a, b = halves[0] * cos - halves[1] * sin, halves[0] * sin + halves[1] * cos
        joined = np.stack([a, b], -1).reshape(turned.shape) if self.pairs else np.append(a, b, -1)
        return np.append(joined, rest, -1)


def frequencies(base: float, size: int) -> Array:
    """Radians per position of *size* rotated numbers."""
    return np.asarray(base ** (-np.arange(0, size, 2) / size), np.float64)


def yarn(base: float, size: int, *, factor: float, original: int) -> Rotation:
    """YaRN (Peng et al. 2023) with its usual 32 and 1 turns.

    Slow frequencies are divided by *factor*, fast ones kept, those between are mixed.
    """

    def place(turns: float) -> float:
        return size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(math.floor(place(32)), 0), min(math.ceil(place(1)), size - 1)
    ramp = np.clip((np.arange(size // 2) - low) / max(high - low, 0.001), 0, 1)
    fast = frequencies(base, size)
    return Rotation(
        frequencies=fast / factor * ramp + fast * (1 - ramp),
        magnitude=0.1 * math.log(factor) + 1,
    )


def llama3_factors(base: float, size: int, *, factor: float, original: int) -> Array:
    """What Llama 3.1 divides the frequencies by: ``low_freq_factor`` 1, ``high_freq_factor`` 4."""
    turns = original * frequencies(base, size) / (2 * math.pi)
    smooth = np.clip((turns - 1) / (4 - 1), 0, 1)
    return np.asarray(1 / ((1 - smooth) / factor + smooth), np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """What of a decoder its tensors do not say.

    Args:
        temperature: Positions → factors of the queries.
    """

    rotation: Rotation
    heads: int = HEADS
    key_heads: int = KEY_HEADS
    causal: bool = True
    temperature: Callable[[Array], Array] | None = None

    def forward(self, weights: Weights, ids: Ids) -> Array:
        """Compute Llama, Qwen2, Qwen3 and their kin: what has a tensor is applied."""
        x = weights["token_embd.weight"][np.asarray(ids)]
        for layer in range(count_layers(weights)):
            block = f"blk.{layer}"
            x = x + self._attend(weights, block, norm(weights, f"{block}.attn_norm", x))
            x = x + gated(weights, block, norm(weights, f"{block}.ffn_norm", x), nn.silu)
        return norm(weights, "output_norm", x)

    def _attend(self, weights: Weights, block: str, y: Array) -> Array:
        query, key, value = project_heads(weights, block, y, self.heads, self.key_heads)
        rotation = self.rotation
        if "rope_freqs.weight" in weights:
            slower = rotation.frequencies / weights["rope_freqs.weight"]
            rotation = replace(rotation, frequencies=slower)
        query, key = rotation(query), rotation(key)
        if self.temperature is not None:
            places = np.arange(len(y), dtype=np.float64)
            query = np.asarray(query * self.temperature(places)[:, np.newaxis])
        mask = nn.causal_mask(len(y)) if self.causal else None
        attended = nn.attend(query, key, value, mask=mask)
        return nn.dense(weights, f"{block}.attn_output", nn.join_heads(attended))


def norm(weights: Weights, name: str, x: Array) -> Array:
    return nn.rms_norm(weights, name, x, EPSILON)


def gated(weights: Weights, block: str, y: Array, activation: nn.Layer) -> Array:
    """The feed-forward network of *block* with a gate (Shazeer 2020)."""
    gate, up = (nn.dense(weights, f"{block}.ffn_{part}", y) for part in ("gate", "up"))
    return nn.dense(weights, f"{block}.ffn_down", activation(gate) * up)


def project_heads(
    weights: Weights, block: str, y: Array, heads: int, key_heads: int
) -> tuple[Array, Array, Array]:
    """Queries, keys and values; queries and keys with their norms where the file has some."""
    query, key, value = (
        nn.split_heads(nn.dense(weights, f"{block}.attn_{part}", y), count)
        for part, count in (("q", heads), ("k", key_heads), ("v", key_heads))
    )
    if f"{block}.attn_q_norm.weight" in weights:
        query = norm(weights, f"{block}.attn_q_norm", query)
        key = norm(weights, f"{block}.attn_k_norm", key)
    return query, key, value


def count_layers(weights: Weights) -> int:
    return sum(name.endswith(".attn_norm.weight") for name in weights)


def make_attention(
    source: TensorSource,
    block: str,
    *,
    head_width: int = HEAD_WIDTH,
    bias: bool = False,
    norms: bool = False,
) -> Tensors:
    """The tensors of an attention; *norms* are those of queries and keys."""
    tensors: Tensors = {}
    for part, heads in (("q", HEADS), ("k", KEY_HEADS), ("v", KEY_HEADS)):
        tensors |= source.dense(f"{block}.attn_{part}", heads * head_width, WIDTH, bias=bias)
        if norms and part in "qk":
            tensors |= source.norm(f"{block}.attn_{part}_norm", head_width)
    return tensors | source.dense(f"{block}.attn_output", WIDTH, HEADS * head_width)


def make_gated(source: TensorSource, block: str) -> Tensors:
    """The tensors that `gated` reads."""
    return {
        **source.dense(f"{block}.ffn_gate", INNER, WIDTH),
        **source.dense(f"{block}.ffn_up", INNER, WIDTH),
        **source.dense(f"{block}.ffn_down", WIDTH, INNER),
    }


def make_embeddings(source: TensorSource, vocabulary: int, *, last_norm: str) -> Tensors:
    """Vectors of the tokens, which have a length of about 1 per number, and the last norm."""
    return {
        "token_embd.weight": source.matrix(vocabulary, WIDTH, WIDTH**0.5),
        **source.norm(last_norm, WIDTH),
    }


def make_decoder(
    vocabulary: int, *, head_width: int = HEAD_WIDTH, bias: bool = False, norms: bool = False
) -> Tensors:
    """The tensors that `Decoder.forward` reads."""
    source = TensorSource(1)
    tensors = make_embeddings(source, vocabulary, last_norm="output_norm")
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        tensors |= source.norm(f"{block}.attn_norm", WIDTH) | source.norm(
            f"{block}.ffn_norm", WIDTH
        )
        tensors |= make_attention(source, block, head_width=head_width, bias=bias, norms=norms)
        tensors |= make_gated(source, block)
    return tensors


def make_keys(*, head_width: int = HEAD_WIDTH, layers: int = LAYERS) -> dict[str, Any]:
    """The keys that all decoders have."""
    return {
        "block_count": layers,
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "feed_forward_length": INNER,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KEY_HEADS,
        "attention.key_length": head_width,
        "attention.value_length": head_width,
        "attention.layer_norm_rms_epsilon": EPSILON,
        "rope.freq_base": BASE,
    }
