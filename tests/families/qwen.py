"""Qwen's decoders: qwen2 (gte-Qwen2, nomic-embed-code, jina-code), qwen3, and their vision kin.

After ``transformers``' modeling_qwen2, modeling_qwen3, modeling_qwen2_vl and modeling_qwen3_vl:
the three positions of a vision model are equal in a text, so that it rotates as the others do.

Qwen3's rerankers score the last token of a pair: the softmax of the logits of "yes" and "no".
"""

from functools import partial
from pathlib import Path
from typing import Final

import gguf

from embedd.types import Pooling
from tests.families import layers as nn
from tests.families import vocabularies
from tests.families.decoder_parts import (
    BASE,
    CONTEXT,
    DECODER_POOLINGS,
    HEAD_WIDTH,
    HEADS,
    WIDTH,
    Decoder,
    Rotation,
    frequencies,
    make_decoder,
    make_keys,
    yarn,
)
from tests.families.family import LABELS, Array, Family, Keys, Weights, write_gguf
from tests.families.random import TensorSource
from tests.tiny_models import END_OF_TEXT

PLAIN_HEAD: Final = WIDTH // HEADS  # qwen2 has no other
VISION_HEAD: Final = 128  # as Qwen3-VL's, so that its real sections fit
FACTOR: Final = 4
ORIGINAL: Final = CONTEXT // FACTOR
# Of a pair, shorter than the real one, which has special tokens within and ends with "</think>".
TEMPLATE: Final = f"<Query>: {{query}}\n<Document>: {{document}}{END_OF_TEXT}\n"
BIDIRECTIONAL: Final = {"attention.causal": False}
SCALING: Final = {
    "rope.scaling.factor": float(FACTOR),
    "rope.scaling.original_context_length": ORIGINAL,
}


def write(
    path: Path,
    pooling: Pooling | None,
    *,
    architecture: str,
    head_width: int,
    keys: Keys,
) -> Path:
    is_qwen2 = architecture.startswith("qwen2")
    tensors = make_decoder(
        vocabularies.BYTE_PAIRS_SIZE, head_width=head_width, bias=is_qwen2, norms=not is_qwen2
    )
    add_tokenizer = vocabularies.byte_pairs("qwen2", end=True)
    if pooling is Pooling.RANK:
        tensors |= TensorSource(2).dense("cls.output", len(LABELS), WIDTH)

    def add_texts(writer: gguf.GGUFWriter) -> None:
        add_tokenizer(writer)
        if pooling is Pooling.RANK:
            writer.add_chat_template([{"name": "rerank", "template": TEMPLATE}])

    return write_gguf(
        path,
        architecture,
        keys=make_keys(head_width=head_width) | dict(keys),
        pooling=pooling,
        add_tokenizer=add_texts,
        tensors=tensors,
    )


def score(weights: Weights, hidden: Array) -> Array:
    return nn.softmax(nn.dense(weights, "cls.output", hidden[-1]))


def _make(
    name: str,
    rotation: Rotation,
    keys: Keys,
    *,
    head_width: int = HEAD_WIDTH,
    rerank: bool = False,
    listed: bool = True,
    conversion: str = "",
    note: str = "",
) -> Family:
    architecture = name.partition(",")[0]
    return Family(
        name=name,
        architecture=architecture,
        tokenizer="gpt2",
        poolings=(*DECODER_POOLINGS, Pooling.RANK) if rerank else DECODER_POOLINGS,
        context=CONTEXT,
        openvino=architecture in {"qwen2", "qwen3"},
        write=partial(write, architecture=architecture, head_width=head_width, keys=keys),
        forward=Decoder(rotation=rotation, causal="attention.causal" not in keys).forward,
        score=score if rerank else None,
        listed=listed,
        conversion=conversion,
        note=note,
    )


_NARROW = Rotation(frequencies=frequencies(BASE, PLAIN_HEAD))
_WIDE = Rotation(frequencies=frequencies(BASE, HEAD_WIDTH))

FAMILIES: Final = (
    _make("qwen2", _NARROW, {}, head_width=PLAIN_HEAD, note="also bidirectional: gte-Qwen2"),
    _make("qwen2, bidirectional", _NARROW, BIDIRECTIONAL, head_width=PLAIN_HEAD, listed=False),
    _make(
        "qwen2vl",
        _NARROW,
        {"rope.dimension_sections": [2, 1, 1, 0]},
        head_width=PLAIN_HEAD,
        note="texts only",
    ),
    _make(
        "qwen3",
        _WIDE,
        {},
        rerank=True,
        conversion="yes, but not rerankers",
        note="also bidirectional: pplx-embed",
    ),
    _make("qwen3, bidirectional", _WIDE, BIDIRECTIONAL, listed=False),
    _make(
        "qwen3, linear scaling",
        Rotation(frequencies=frequencies(BASE, HEAD_WIDTH) / FACTOR),
        SCALING | {"rope.scaling.type": "linear"},
        listed=False,
    ),
    _make(
        "qwen3, yarn",
        yarn(BASE, HEAD_WIDTH, factor=FACTOR, original=ORIGINAL),
        SCALING | {"rope.scaling.type": "yarn"},
        listed=False,
    ),
    _make(
        "qwen3vl",
        Rotation(frequencies=frequencies(5e6, VISION_HEAD)),
        {
            "rope.freq_base": 5e6,
            "rope.dimension_sections": [24, 20, 20, 0],
            "n_deepstack_layers": 1,
        },
        head_width=VISION_HEAD,
        rerank=True,
        note="texts only",
    ),
)
