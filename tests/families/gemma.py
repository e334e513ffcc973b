"""Google's Gemma: gemma-embedding, and the decoders gemma2 and gemma3 as embedding models.

After ``transformers``' modeling_gemma2 and modeling_gemma3, and the modules of
sentence-transformers for embeddinggemma. The norms of a GGUF have the 1 that the
checkpoint's lack.
"""

import math
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
    HEAD_WIDTH,
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

LAYERS: Final = 3
WINDOW: Final = 8
GLOBAL_BASE: Final = 1e6
SCALING: Final = 8.0  # of the positions of gemma3's global layers, from 4 B parameters on
CAP: Final = 2.0  # gemma2's is 50: of tiny models nothing would reach it
DENSE: Final = 3 * WIDTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemma:
    """What of a Gemma its tensors do not say.

    Args:
        every: Each so many-th layer sees all tokens, the others those of the window.
        local: Positions in the layers with a window; *far* in the others.
        cap: Largest number before the softmax of attention, softly; None for no limit.
    """

    local: Rotation
    far: Rotation
    every: int
    causal: bool
    cap: float | None = None

    def forward(self, weights: Weights, ids: Ids) -> Array:
        x = weights["token_embd.weight"][np.asarray(ids)] * math.sqrt(WIDTH)
        for layer in range(count_layers(weights)):
            block = f"blk.{layer}"
            is_local = (layer + 1) % self.every != 0
            y = norm(weights, f"{block}.attn_norm", x)
            y = self._attend(weights, block, y, is_local=is_local)
            x = x + norm(weights, f"{block}.post_attention_norm", y)
            y = norm(weights, f"{block}.ffn_norm", x)
            y = gated(weights, block, y, nn.gelu_tanh)
            x = x + norm(weights, f"{block}.post_ffw_norm", y)
        return norm(weights, "output_norm", x)

    def _attend(self, weights: Weights, block: str, y: Array, *, is_local: bool) -> Array:
        query, key, value = project_heads(weights, block, y, HEADS, KEY_HEADS)
        rotation = self.local if is_local else self.far
        attended = nn.attend(
            rotation(query),
            rotation(key),
            value,
            mask=self._mask(len(y), is_local=is_local),
            cap=self.cap,
        )
        return nn.dense(weights, f"{block}.attn_output", nn.join_heads(attended))

    def _mask(self, tokens: int, *, is_local: bool) -> nn.Mask:
        back = -nn.distances(tokens)
        seen = nn.causal_mask(tokens) if self.causal else np.isfinite(back)
        if is_local:
            # Of a window of 8, a token sees itself and 7 before; without a direction, 4 on each
            # side.
            near = back < WINDOW if self.causal else np.abs(back) <= WINDOW // 2
            seen = np.logical_and(seen, near)
        return np.asarray(seen)


def make_tensors(*, layers: int, norms: bool, project: bool) -> Tensors:
    source = TensorSource(1)
    tensors = make_embeddings(source, vocabularies.PIECES_SIZE, last_norm="output_norm")
    tensors["token_embd.weight"] /= np.float32(WIDTH**0.5)  # which the model multiplies
    for layer in range(layers):
        block = f"blk.{layer}"
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            tensors |= source.norm(f"{block}.{name}", WIDTH)
        tensors |= make_attention(source, block, norms=norms) | make_gated(source, block)
    if project:
        tensors |= source.dense("dense_2", DENSE, WIDTH) | source.dense("dense_3", WIDTH, DENSE)
    return tensors


def write(
    path: Path,
    pooling: Pooling | None,
    *,
    architecture: str,
    keys: Keys,
    layers: int,
    project: bool,
) -> Path:
    return write_gguf(
        path,
        architecture,
        keys=make_keys(layers=layers) | {"attention.sliding_window": WINDOW} | dict(keys),
        pooling=pooling,
        add_tokenizer=vocabularies.add_pieces,
        tensors=make_tensors(layers=layers, norms=architecture != "gemma2", project=project),
    )


def project_twice(weights: Weights, pooled: Array) -> Array:
    return nn.dense(weights, "dense_3", nn.dense(weights, "dense_2", pooled))


def _make(
    name: str,
    gemma: Gemma,
    *,
    keys: Keys,
    layers: int = LAYERS,
    poolings: tuple[Pooling, ...] = DECODER_POOLINGS,
    project: bool = False,
    listed: bool = True,
    conversion: str = "",
    note: str = "",
) -> Family:
    architecture = name.partition(",")[0]
    return Family(
        name=name,
        architecture=architecture,
        tokenizer="llama",
        poolings=poolings,
        context=CONTEXT,
        window=WINDOW,
        openvino=architecture != "gemma2",
        write=partial(write, architecture=architecture, keys=keys, layers=layers, project=project),
        forward=gemma.forward,
        project=project_twice if project else None,
        listed=listed,
        conversion=conversion,
        note=note,
    )


_LOCAL = Rotation(frequencies=frequencies(BASE, HEAD_WIDTH))
_FAR = Rotation(frequencies=frequencies(GLOBAL_BASE, HEAD_WIDTH))
_SCALED = Rotation(frequencies=frequencies(GLOBAL_BASE, HEAD_WIDTH) / SCALING)
_EMBEDDING = Gemma(local=_LOCAL, far=_FAR, every=6, causal=False)
GEMMA3: Final = Gemma(local=_LOCAL, far=_SCALED, every=3, causal=True)
GEMMA3_KEYS: Final = {
    "attention.sliding_window_pattern": 3,
    "rope.freq_base": GLOBAL_BASE,
    "rope.scaling.type": "linear",
    "rope.scaling.factor": SCALING,
}

FAMILIES: Final = (
    _make(
        "gemma-embedding",
        _EMBEDDING,
        keys={
            "rope.freq_base": GLOBAL_BASE,
            "dense_2_feat_in": WIDTH,
            "dense_2_feat_out": DENSE,
            "dense_3_feat_in": DENSE,
            "dense_3_feat_out": WIDTH,
        },
        layers=6,
        poolings=(Pooling.MEAN, Pooling.CLS),
        project=True,
        conversion="yes, with its dense layers",
        note="a file without the dense layers gives other vectors, and a warning",
    ),
    _make(
        "gemma-embedding, without dense layers",
        _EMBEDDING,
        keys={"rope.freq_base": GLOBAL_BASE, "rope.freq_base_swa": BASE},
        layers=6,
        poolings=(Pooling.MEAN, Pooling.CLS),
        listed=False,
    ),
    _make(
        "gemma2",
        Gemma(local=_LOCAL, far=_LOCAL, every=2, causal=True, cap=CAP),
        keys={"attn_logit_softcapping": CAP, "final_logit_softcapping": 30.0},
    ),
    _make("gemma3", GEMMA3, keys=GEMMA3_KEYS, note="causal; a bidirectional one is refused"),
)
