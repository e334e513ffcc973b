"""The self-test of a loaded model: computes before any request depends on it."""

import time
from typing import Final

from embedd.engine.protocol import Engine
from embedd.engine.worker.compute import encode_checked
from embedd.types import Vectors

# Tokens of the batch where this file, library and processor passed the test with a full one.
SHORT: Final = 256

SENTENCE = "Every worker computes this ordinary sentence before it serves requests."


def run_self_test(engine: Engine, *, full: bool = True) -> tuple[Vectors, float]:
    """Compute a sentence, then a batch; return its vector and the batch's seconds per token.

    llama.cpp built wrongly for this CPU may compute one token and die with more: so the
    batch that kills the worker is this one, before the model is announced.

    Args:
        full: Whether the batch is as large as the engine allows, instead of `SHORT`.

    Raises:
        EngineError: A vector is not finite or has norm 0.
    """
    info = engine.info
    [ids] = engine.tokenizer.tokenize([SENTENCE])
    ids = ids[: info.limit]
    tokens = info.max_batch_tokens if full else min(info.max_batch_tokens, SHORT)
    count = max(1, min(tokens // len(ids), info.max_sequences))
    vector = encode_checked(engine, [ids], None)
    start = time.perf_counter()
    encode_checked(engine, [ids] * count, None)
    return vector, (time.perf_counter() - start) / (count * len(ids))
