"""Opens the engine, or the tokenizer alone, that a `Load` asks for."""

import contextlib
import importlib
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from embedd.engine.backends import Backend
from embedd.engine.ipc.messages import Failed, Fault, Load
from embedd.engine.protocol import Engine, Tokenizer, UnsuitableError
from embedd.engine.spec import ModelInfo, ModelSpec
from embedd.engine.tokenizer_place import TokenizerVerdict
from embedd.errors import EmbeddError, InsufficientMemoryError, ModelLoadError
from embedd.types import Pooling

ENGINES = {
    "llama": "embedd.engine.llama.engine:LlamaEngine",
    "openvino": "embedd.engine.openvino.engine:OpenVinoEngine",
    "fake": "embedd.engine.fake:FakeEngine",
}
TOKENIZERS = {
    "llama": "embedd.engine.llama.tokenizer:LlamaTokenizer",
    "openvino": "embedd.engine.llama.tokenizer:LlamaTokenizer",
    "fake": "embedd.engine.fake:FakeTokenizer",
}


def open_tokenizer(load: Load) -> Tokenizer:
    """Load the tokenizer of a model without its weights.

    Raises:
        ModelLoadError: The file or its tokenizer cannot be used.
    """
    tokenizer: Tokenizer = _find_class(TOKENIZERS[load.backend.engine]).load(load.spec)
    return tokenizer


def describe_tokenizer(tokenizer: Tokenizer, verdict: TokenizerVerdict) -> ModelInfo:
    """Facts of a model without weights: those that only weights have are 0."""
    return ModelInfo(
        width=0,
        limit=0,
        pooling=Pooling.NONE,
        special_tokens=tokenizer.special_tokens,
        vocabulary=tokenizer.vocabulary_size,
        max_batch_tokens=0,
        max_sequences=0,
        engine="",
        backend="",
        pair_template=tokenizer.pair_template,
        tokenizer=verdict.name,
    )


def prepare_engine(name: str) -> None:
    """Import the engine *name* and open its libraries: a `Load` then does not wait for them."""
    with contextlib.suppress(EmbeddError):  # the load fails too, and says why
        _find_class(ENGINES[name]).prepare()


def open_engine(load: Load, report: Callable[[float], None]) -> Engine:
    """Load a model on the engine and backend that it is to be computed with.

    Args:
        report: Called with the share (0 … 1) of the weights that is loaded.

    Raises:
        ModelLoadError: The model cannot be loaded.
        EngineError: This engine or backend cannot compute it.
    """
    if not load.backend.gpu:
        # Before the library is loaded: with a GPU in sight it computes large products there.
        os.putenv("CUDA_VISIBLE_DEVICES", "")
    engine: Engine = _find_class(ENGINES[load.backend.engine]).load(
        place_layers(load.spec, load.backend),
        load.backend,
        threads=load.cores,
        replicas=load.tuning.replicas,
        batch_tokens=load.tuning.batch_tokens,
        report=report,
    )
    return engine


def place_layers(spec: ModelSpec, backend: Backend) -> ModelSpec:
    """*spec* with no layers on a GPU unless *backend* computes there."""
    return spec if backend.gpu else replace(spec, gpu_layers=0)


def to_failure(id_: int, error: Exception) -> Failed:
    """The answer to a `Load` that failed with *error*."""
    if isinstance(error, InsufficientMemoryError | MemoryError):
        fault = Fault.MEMORY
    elif isinstance(error, ModelLoadError | UnsuitableError):
        fault = Fault.MODEL
    else:
        fault = Fault.SELF_TEST
    return Failed(id_, str(error) or "not enough memory", fault)


def _find_class(place: str) -> Any:
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
