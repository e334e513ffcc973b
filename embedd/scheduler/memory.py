"""Memory: an estimate for a model before it is loaded, a measurement of a process."""

import psutil

from embedd.engine.spec import ModelSpec
from embedd.types import EngineChoice

INTERPRETER = 41 << 20  # resident bytes of a worker without a model, numpy included
COMPUTE = 32 << 20  # buffers of one encoder graph with flash attention at some hundred tokens
BATCH_TOKENS = 512
# Matrices that llama.cpp repacks are copies beside the mapped file.
REPACKED = 1.5

OPENVINO = 64 << 20  # bytes of OpenVINO's libraries
WORD = 192  # bytes of a tokenizer for each token of its vocabulary
# OpenVINO computes with matrices in float32 and packs them again whenever it compiles a model:
# once for a single batch on all cores, once for the replicas.
COPIES = 1 + 2
# Computations that have buffers of their own: the one that has all cores, and two at a time. Each
# has so many float32 vectors for each token of the largest batch.
COMPUTATIONS = 3
PADDED_TOKENS = 1024
VECTORS = 36
CHECK_TOKENS = 128  # of the texts by which OpenVINO is compared with llama.cpp


def estimate_bytes(spec: ModelSpec, *, with_openvino: bool = False) -> int:
    """Return the resident bytes of a worker with this model, loading included.

    Args:
        with_openvino: Whether OpenVINO may compute it, if the model names no engine itself.
    """
    most = int(spec.weights * REPACKED) + _count_outputs(spec, BATCH_TOKENS)
    if spec.engine is not EngineChoice.LLAMA and (with_openvino or spec.engine):
        most = max(most, _estimate_openvino(spec))
    return INTERPRETER + most + COMPUTE


def _estimate_openvino(spec: ModelSpec) -> int:
    """Return the larger of what computing takes, and the comparison with llama.cpp at the load.

    The token embeddings stay in the mapped file, or become float16 where they are quantised.
    """
    table = min(spec.vocabulary * spec.width, spec.elements)
    share = spec.weights * table // max(spec.elements, 1)
    matrices = 4 * (spec.elements - table)
    buffers = 4 * VECTORS * spec.width * min(PADDED_TOKENS, spec.context_length)
    held = OPENVINO + WORD * spec.vocabulary + (share if spec.exact else 2 * table)
    computing = COPIES * matrices + COMPUTATIONS * buffers
    comparing = 2 * matrices + buffers + spec.weights + _count_outputs(spec, CHECK_TOKENS)
    return held + max(computing, comparing)


def _count_outputs(spec: ModelSpec, tokens: int) -> int:
    """Return the bytes of llama.cpp's outputs: logits and a vector for each token of a batch."""
    return 4 * (spec.vocabulary + spec.width) * min(tokens, spec.context_length)


def measure_bytes(pid: int) -> int:
    """Return the resident bytes of a process, 0 if it has ended."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
