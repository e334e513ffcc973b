"""In a worker: opens the engine or the vocabulary of a message, answers for a tokenizer."""

import importlib
import os
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from embedd.engine.backends import Backend
from embedd.engine.ipc import messages
from embedd.engine.ipc.facts import split_ids, to_spec
from embedd.engine.protocol import Engine, Tokenizer
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

TokenizerCall: TypeAlias = messages.Tokenize | messages.Detokenize | messages.Spell


def answer_call(
    tokenizer: Tokenizer, message: TokenizerCall, ids: TokenIds
) -> tuple[messages.FromWorker, TokenIds | None]:
    """What a tokenizer says to *message*, whose array is *ids*: a message and its array.

    Raises:
        EngineError: An id is outside the vocabulary.
    """
    match message:
        case messages.Tokenize():
            rows = tokenizer.tokenize(
                message.texts,
                add_special=message.add_special,
                parse_special=message.parse_special,
            )
            array = np.concatenate(rows) if rows else np.empty(0, np.int32)
            return messages.Tokens(message.id, [len(one) for one in rows]), array
        case messages.Detokenize():
            sequences = split_ids(ids.data, message.lengths)
            texts = tokenizer.detokenize(sequences, special=message.special)
            return messages.Texts(message.id, texts), None
        case messages.Spell():
            pieces = tokenizer.token_pieces(ids)
            spelled = [piece.text for piece in pieces]
            return messages.Pieces(
                message.id, spelled, [piece.is_special for piece in pieces]
            ), None


def open_tokenizer(message: messages.Load) -> Tokenizer:
    """The vocabulary of the model that *message* names, without its weights."""
    tokenizer: Tokenizer = _find_class(TOKENIZERS[message.engine]).load_vocabulary(to_spec(message))
    return tokenizer


def open_engine(message: messages.Load, report: Callable[[float], None]) -> Engine:
    """Load the model that *message* names, on the engine and the backend that it names."""
    if not message.gpu:
        # Before the library is loaded: with a GPU in sight it computes large products there.
        os.putenv("CUDA_VISIBLE_DEVICES", "")
    backend = Backend(
        name=message.backend,
        extra_buffers=message.extra_buffers,
        flash_attention=message.flash_attention,
        gpu=message.gpu,
        precision=message.precision,
    )
    engine: Engine = _find_class(ENGINES[message.engine]).load(
        to_spec(message),
        backend,
        threads=message.cores,
        replicas=message.replicas,
        batch_tokens=message.batch_tokens,
        report=report,
    )
    return engine


def _find_class(place: str) -> Any:
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
