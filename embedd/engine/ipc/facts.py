"""Facts of models as messages between the server and a worker, and back."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import msgspec
import numpy as np

from embedd.engine.backends import Backend
from embedd.engine.ipc import messages
from embedd.engine.spec import ModelInfo, ModelSpec
from embedd.engine.tuning.settings import ONE_REPLICA, Tuning
from embedd.tokenizers.truncation import PairTemplate, SpecialTokens
from embedd.types import TokenIds

NO_BACKEND = Backend(name="", extra_buffers=False, flash_attention=False)


def split_ids(array: bytes | memoryview, lengths: Sequence[int]) -> list[TokenIds]:
    """Sequences of these lengths, whose ids lie end to end in *array*."""
    ids = np.frombuffer(array, np.int32)
    ends = accumulate(lengths)
    return [ids[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def to_load(
    spec: ModelSpec, backend: Backend, threads: int, tuning: Tuning, tolerance: float | None = None
) -> messages.Load:
    """Load *spec* with these settings; its vectors may be *tolerance* from llama.cpp's."""
    return messages.Load(
        engine=backend.engine,
        path=str(spec.path),
        pooling=spec.pooling,
        context_length=spec.context_length,
        gpu_layers=spec.gpu_layers if backend.gpu else 0,
        gpu=backend.gpu,
        main_gpu=spec.main_gpu,
        use_mmap=spec.use_mmap,
        backend=backend.name,
        extra_buffers=backend.extra_buffers,
        flash_attention=backend.flash_attention,
        cores=spec.threads or threads,
        replicas=tuning.replicas,
        batch_tokens=tuning.batch_tokens,
        parts=list(map(str, spec.parts)),
        tolerance=tolerance,
        precision=backend.precision,
    )


def to_vocabulary_load(spec: ModelSpec) -> messages.Load:
    """Load the vocabulary of *spec* and nothing else."""
    message = to_load(spec, NO_BACKEND, 1, ONE_REPLICA)
    return msgspec.structs.replace(message, vocabulary_only=True)


def to_spec(message: messages.Load) -> ModelSpec:
    """What a worker must know of the model that *message* names."""
    return ModelSpec(
        name="",
        digest="",
        path=Path(message.path),
        pooling=message.pooling,
        context_length=message.context_length,
        vocabulary=0,
        width=0,
        weights=0,
        gpu_layers=message.gpu_layers,
        main_gpu=message.main_gpu,
        use_mmap=message.use_mmap,
        parts=tuple(map(Path, message.parts)),
    )


def to_ready(
    info: ModelInfo,
    replicas: int,
    distance: float | None = None,
    *,
    seconds_per_token: float = 0.0,
) -> messages.Ready:
    """A loaded model says what it is, and how fast its self-test was."""
    pair = info.pair
    return messages.Ready(
        width=info.width,
        limit=info.limit,
        pooling=info.pooling,
        prefix=info.frame.prefix,
        suffix=info.frame.suffix,
        vocabulary=info.vocabulary,
        max_batch_tokens=info.max_batch_tokens,
        max_sequences=info.max_sequences,
        replicas=replicas,
        gpu_bytes=info.gpu_bytes,
        pair=None
        if pair is None
        else messages.Pair(
            pair.prefix, pair.middle, pair.suffix, pair.query_lead, pair.document_lead
        ),
        labels=info.labels,
        seconds_per_token=seconds_per_token,
        distance=distance,
        padded=info.padded,
    )


def to_info(ready: messages.Ready, engine: str, backend: str) -> ModelInfo:
    """What a loaded model said."""
    pair = ready.pair
    return ModelInfo(
        width=ready.width,
        limit=ready.limit,
        pooling=ready.pooling,
        frame=SpecialTokens(prefix=ready.prefix, suffix=ready.suffix),
        vocabulary=ready.vocabulary,
        max_batch_tokens=ready.max_batch_tokens,
        max_sequences=ready.max_sequences,
        engine=engine,
        backend=backend,
        replicas=ready.replicas,
        gpu_bytes=ready.gpu_bytes,
        pair=None
        if pair is None
        else PairTemplate(
            prefix=pair.prefix,
            middle=pair.middle,
            suffix=pair.suffix,
            query_lead=pair.query_lead,
            document_lead=pair.document_lead,
        ),
        labels=ready.labels,
        distance=ready.distance,
        padded=ready.padded,
    )
