"""What a model will cost in memory, before it is loaded."""

import psutil

from embedd.engine.spec import ModelSpec
from embedd.types import EngineChoice

INTERPRETER = 41 << 20  # resident bytes of a worker without a model, numpy included
COMPUTE = 32 << 20  # buffers of one encoder graph with flash attention at some hundred tokens
BATCH_TOKENS = 512
# Matrices that the engine repacks are copied beside the mapped file.
REPACKED = 1.5

OPENVINO = 64 << 20  # what that engine's libraries take
WORD = 192  # bytes that a tokenizer takes for each token of its vocabulary
# OpenVINO computes with matrices in float32, and packs them anew whenever it compiles: for a lone
# batch, that all cores share, and for the replicas.
COPIES = 1 + 2
# Buffers of one computation, of the largest batch that it computes well: so many float32 vectors
# for each of its tokens. One computes alone, two side by side.
COMPUTATIONS = 3
PADDED_TOKENS = 1024
VECTORS = 36
CHECK_TOKENS = 128  # of the texts by which both engines are compared


def estimate_bytes(spec: ModelSpec, *, with_openvino: bool = False) -> int:
    """Resident bytes of a worker with this model loaded, or while it loads if that is more.

    Args:
        with_openvino: OpenVINO may compute it, if the model does not say otherwise.
    """
    most = int(spec.weights * REPACKED) + _count_outputs(spec, BATCH_TOKENS)
    if spec.engine is not EngineChoice.LLAMA and (with_openvino or spec.engine):
        most = max(most, _estimate_openvino(spec))
    return INTERPRETER + most + COMPUTE


def _estimate_openvino(spec: ModelSpec) -> int:
    """What it takes with all that is computed at once, or in the first load beside llama.cpp.

    The table of the tokens stays in the mapped file, or becomes float16 where it is quantised.
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
    """For every token of its largest batch llama.cpp holds a row of the vocabulary and a vector."""
    return 4 * (spec.vocabulary + spec.width) * min(tokens, spec.context_length)


def measure_bytes(pid: int) -> int:
    """Resident bytes of a process, 0 when it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
