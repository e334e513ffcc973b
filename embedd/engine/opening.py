"""In a worker: opens the engine or the vocabulary of a message, answers for a tokenizer."""

import importlib
import os
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from embedd.engine import wire
from embedd.engine.base import Engine, Rung, Tokenizer
from embedd.engine.messages import split_ids, to_spec
from embedd.types import TokenIds

ENGINES = {
    "llama": "embedd.engine.llama.engine:LlamaEngine",
    "openvino": "embedd.engine.openvino.engine:OpenVinoEngine",
    "fake": "embedd.engine.fake:FakeEngine",
}
TOKENIZERS = {
    "llama": "embedd.engine.llama.vocabulary:LlamaVocabulary",
    "openvino": "embedd.engine.llama.vocabulary:LlamaVocabulary",
    "fake": "embedd.engine.fake:FakeEngine",
}

TokenizerCall: TypeAlias = wire.Tokenize | wire.Detokenize | wire.Spell


def answer_call(
    tokenizer: Tokenizer, message: TokenizerCall, ids: TokenIds
) -> tuple[wire.FromWorker, TokenIds | None]:
    """What a tokenizer says to *message*, whose array is *ids*: a message and its array.

    Raises:
        EngineError: An id is outside the vocabulary.
    """
    match message:
        case wire.Tokenize():
            rows = tokenizer.tokenize(
                message.texts,
                add_special=message.add_special,
                parse_special=message.parse_special,
            )
            array = np.concatenate(rows) if rows else np.empty(0, np.int32)
            return wire.Tokens(message.id, [len(one) for one in rows]), array
        case wire.Detokenize():
            sequences = split_ids(ids.data, message.lengths)
            texts = tokenizer.detokenize(sequences, special=message.special)
            return wire.Texts(message.id, texts), None
        case wire.Spell():
            pieces = tokenizer.spell(ids)
            spelled = [piece.text for piece in pieces]
            return wire.Pieces(message.id, spelled, [piece.is_special for piece in pieces]), None


def open_tokenizer(message: wire.Load) -> Tokenizer:
    """The vocabulary of the model that *message* names, without its weights."""
    tokenizer: Tokenizer = _find_class(TOKENIZERS[message.engine]).load_vocabulary(to_spec(message))
    return tokenizer


def open_engine(message: wire.Load, report: Callable[[float], None]) -> Engine:
    """Load the model that *message* names, on the engine and the rung that it names."""
    if not message.gpu:
        # Before the library is loaded: with a GPU in sight it computes large products there.
        os.putenv("CUDA_VISIBLE_DEVICES", "")
    rung = Rung(
        name=message.rung,
        extra_buffers=message.extra_buffers,
        flash_attention=message.flash_attention,
        gpu=message.gpu,
    )
    engine: Engine = _find_class(ENGINES[message.engine]).load(
        to_spec(message),
        rung,
        threads=message.cores,
        replicas=message.replicas,
        batch_tokens=message.batch_tokens,
        report=report,
    )
    return engine


def _find_class(place: str) -> Any:
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
