"""The self-test of a loaded model: computes before any request depends on it."""

import time

from embedd.engine.protocol import Engine
from embedd.engine.worker.compute import encode_checked
from embedd.types import Vectors

SENTENCE = "Every worker computes this ordinary sentence before it serves requests."


def run_self_test(engine: Engine) -> tuple[Vectors, float]:
    """Compute a sentence, then a full batch; return its vector and the batch's seconds per token.

    llama.cpp built wrongly for this CPU may compute one token and die with more: so the
    batch that kills the worker is this one, before the model is announced.

    Raises:
        EngineError: A vector is not finite or has norm 0.
    """
    info = engine.info
    [ids] = engine.tokenizer.tokenize([SENTENCE])
    ids = ids[: info.limit]
    count = max(1, min(info.max_batch_tokens // len(ids), info.max_sequences))
    vector = encode_checked(engine, [ids], None)
    start = time.perf_counter()
    encode_checked(engine, [ids] * count, None)
    return vector, (time.perf_counter() - start) / (count * len(ids))
