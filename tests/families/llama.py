"""Llama's decoders: llama (also Mistral's), llama-embed and mistral3.

After ``transformers``' modeling_llama and modeling_ministral3, and NVIDIA's llama_bidirec. A
GGUF has the rows of queries and keys in another order, so that neighbours are rotated.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from embedd.types import Pooling
from tests.families import vocabularies
from tests.families.decoder_parts import (
    BASE,
    CONTEXT,
    DECODER_POOLINGS,
    HEAD_WIDTH,
    Decoder,
    Rotation,
    frequencies,
    llama3_factors,
    make_decoder,
    make_keys,
    yarn,
)
from tests.families.family import ALL_POOLINGS, Array, Family, Keys, write_gguf

FACTOR: Final = 8
ORIGINAL: Final = CONTEXT // FACTOR
BETA: Final = 0.5  # of Ministral 3's temperature; larger than the real one, so that it shows
BIDIRECTIONAL: Final = {"attention.causal": False}
SCALING: Final = {
    "rope.scaling.factor": float(FACTOR),
    "rope.scaling.original_context_length": ORIGINAL,
}
MINISTRAL: Final = SCALING | {
    "rope.scaling.type": "yarn",
    "rope.scaling.yarn_log_multiplier": 1.0,
    "attention.temperature_scale": BETA,
}


def temper(positions: Array) -> Array:
    return np.asarray(1 + BETA * np.log(1 + np.floor(positions / ORIGINAL)))


_PLAIN = Rotation(frequencies=frequencies(BASE, HEAD_WIDTH), pairs=True)
# Ministral 3's mscale equals its mscale_all_dim, which leaves the magnitude as it is.
_YARN = Rotation(
    frequencies=yarn(BASE, HEAD_WIDTH, factor=FACTOR, original=ORIGINAL).frequencies, pairs=True
)


def write(
    path: Path, pooling: Pooling | None, *, architecture: str, keys: Keys, factors: bool
) -> Path:
    tensors = make_decoder(vocabularies.PIECES_SIZE)
    if factors:
        scaled = llama3_factors(BASE, HEAD_WIDTH, factor=FACTOR, original=ORIGINAL)
        tensors["rope_freqs.weight"] = scaled.astype(np.float32)
    return write_gguf(
        path,
        architecture,
        keys=make_keys() | {"rope.dimension_count": HEAD_WIDTH} | dict(keys),
        pooling=pooling,
        add_tokenizer=vocabularies.add_pieces,
        tensors=tensors,
    )


def _make(
    name: str,
    *,
    keys: Keys,
    rotation: Rotation = _PLAIN,
    causal: bool = True,
    factors: bool = False,
    temperature: Callable[[Array], Array] | None = None,
    poolings: tuple[Pooling, ...] = DECODER_POOLINGS,
    listed: bool = True,
    note: str = "",
) -> Family:
    architecture = name.partition(",")[0]
    return Family(
        name=name,
        architecture=architecture,
        tokenizer="llama",
        poolings=poolings,
        context=CONTEXT,
        openvino=False,
        write=partial(write, architecture=architecture, keys=keys, factors=factors),
        forward=Decoder(rotation=rotation, causal=causal, temperature=temperature).forward,
        listed=listed,
        note=note,
    )


FAMILIES: Final = (
    _make(
        "llama",
        keys={},
        note="E5-Mistral's window is not applied: exact for texts of up to 4,096 tokens",
    ),
    _make("llama, bidirectional", keys=BIDIRECTIONAL, causal=False, listed=False),
    _make("llama, scaled frequencies", keys={}, factors=True, listed=False),
    _make(
        "llama-embed",
        keys={},
        causal=False,
        poolings=ALL_POOLINGS,
        note="bidirectional, whether or not the file says so",
    ),
    _make(
        "llama-embed, as declared",
        keys=BIDIRECTIONAL,
        causal=False,
        poolings=ALL_POOLINGS,
        listed=False,
    ),
    _make(
        "mistral3",
        keys=MINISTRAL,
        rotation=_YARN,
        temperature=temper,
        note="also bidirectional: Nemotron-3-Embed",
    ),
    _make(
        "mistral3, bidirectional",
        keys=MINISTRAL | BIDIRECTIONAL,
        rotation=_YARN,
        causal=False,
        temperature=temper,
        poolings=ALL_POOLINGS,
        listed=False,
    ),
)
