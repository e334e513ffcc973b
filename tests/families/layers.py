"""Layers of transformers in float64 numpy, as the papers define them.

Hidden states are (tokens, width), heads (heads, tokens, width of a head).
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tests.families.family import Array, Weights

Layer = Callable[[Array], Array]
Mask = npt.NDArray[np.bool_]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu(x: Array) -> Array:
    """x times the normal distribution function of x (Hendrycks and Gimpel 2016)."""
    return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))))


def gelu_tanh(x: Array) -> Array:
    """The approximation of `gelu` by the hyperbolic tangent, ``gelu_new``."""
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def silu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def softmax(x: Array) -> Array:
    """Over the last axis."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def dense(weights: Weights, name: str, x: Array) -> Array:
    """The linear layer *name*, with its bias if the file has one."""
    return np.asarray(x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0))


def layer_norm(weights: Weights, name: str, x: Array, epsilon: float) -> Array:
    """Over the last axis (Ba, Kiros and Hinton 2016)."""
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
    return np.asarray(scaled * weights[f"{name}.weight"] + weights.get(f"{name}.bias", 0.0))


def rms_norm(weights: Weights, name: str, x: Array, epsilon: float) -> Array:
    """Over the last axis (Zhang and Sennrich 2019)."""
    scaled = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon)
    return np.asarray(scaled * weights[f"{name}.weight"])


def split_heads(x: Array, heads: int) -> Array:
    """(tokens, width) to (heads, tokens, width of a head)."""
    return x.reshape(len(x), heads, -1).transpose(1, 0, 2)


def join_heads(x: Array) -> Array:
    """The inverse of `split_heads`."""
    return x.transpose(1, 0, 2).reshape(x.shape[1], -1)


def attend(
    query: Array,
    key: Array,
    value: Array,
    *,
    scale: float | None = None,
    cap: float | None = None,
    bias: Array | None = None,
    mask: Mask | None = None,
) -> Array:
    """Softmax attention (Vaswani et al. 2017); fewer heads of keys serve groups of queries.

    Args:
        scale: Of the products; None is one over the root of the width of a head.
        cap: Bound of the scaled products, approached softly as in Gemma 2.
        bias: Added to the scaled products, (heads, tokens, tokens) or fewer axes.
        mask: True where a token (row) sees another (column).
    """
    groups = len(query) // len(key)
    key, value = np.repeat(key, groups, axis=0), np.repeat(value, groups, axis=0)
    scores = query @ key.transpose(0, 2, 1)
    scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
    if cap is not None:
        scores = cap * np.tanh(scores / cap)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    return np.asarray(softmax(scores) @ value)


def distances(tokens: int) -> Array:
    """Position of the column minus that of the row."""
    places = np.arange(tokens, dtype=np.float64)
    return places[np.newaxis] - places[:, np.newaxis]


def causal_mask(tokens: int) -> Mask:
    """True where a token sees another: itself and those before."""
    return np.asarray(distances(tokens) <= 0)


def rotate(
    x: Array, base: float, *, pairs: bool = False, dimensions: int | None = None, scale: float = 1.0
) -> Array:
    """Rotary positions (Su et al. 2021) on heads.

    Args:
        pairs: Rotate neighbours, as the paper does; else the first half with the second.
        dimensions: How many are rotated; None is all.
        scale: Factor of the positions, 1 / factor of a linear scaling.
    """
    size = x.shape[-1] if dimensions is None else dimensions
    angles = np.arange(x.shape[1])[:, np.newaxis] * scale * base ** (-np.arange(0, size, 2) / size)
    turned, rest = x[..., :size], x[..., size:]
    if pairs:
        first, second = turned[..., ::2], turned[..., 1::2]
    else:
        first, second = turned[..., : size // 2], turned[..., size // 2 :]
    a = first * np.cos(angles) - second * np.sin(angles)
    b = first * np.sin(angles) + second * np.cos(angles)
    joined = np.stack([a, b], -1).reshape(turned.shape) if pairs else np.concatenate([a, b], -1)
    return np.concatenate([joined, rest], -1)
