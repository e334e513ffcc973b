"""What a model will cost in memory, before it is loaded."""

import psutil

from embedd.engine.base import ModelSpec

INTERPRETER = 41 << 20  # resident bytes of a worker without a model, numpy included
COMPUTE = 32 << 20  # buffers of one encoder graph with flash attention at some hundred tokens
BATCH_TOKENS = 512
# Matrices that the engine repacks are copied beside the mapped file.
REPACKED = 1.5


def estimate_bytes(spec: ModelSpec) -> int:
    """Resident bytes of a worker with this model loaded.

    The term of the outputs is llama.cpp's: for every token of the largest batch it
    holds a row of the vocabulary and one vector in float32.
    """
    outputs = 4 * (spec.vocabulary + spec.width) * min(BATCH_TOKENS, spec.context_length)
    return INTERPRETER + int(spec.weights * REPACKED) + outputs + COMPUTE


def measure_bytes(pid: int) -> int:
    """Resident bytes of a process, 0 when it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
