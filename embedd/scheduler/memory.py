"""What a model will cost in memory, before it is loaded."""

import psutil

from embedd.engine.base import ModelSpec
from embedd.types import EngineChoice

INTERPRETER = 41 << 20  # resident bytes of a worker without a model, numpy included
COMPUTE = 32 << 20  # buffers of one encoder graph with flash attention at some hundred tokens
BATCH_TOKENS = 512
OPENVINO = 128 << 20  # what that engine's library takes
# It computes with copies of the weights in float32: one for a lone batch, that all cores
# share, and one for the replicas.
COPIES = 2
# Matrices that the engine repacks are copied beside the mapped file.
REPACKED = 1.5


def estimate_bytes(spec: ModelSpec, *, with_openvino: bool = False) -> int:
    """Resident bytes of a worker with this model loaded.

    The term of the outputs is llama.cpp's: for every token of the largest batch it
    holds a row of the vocabulary and one vector in float32.

    Args:
        with_openvino: OpenVINO may compute it, if the model does not say otherwise.
    """
    outputs = 4 * (spec.vocabulary + spec.width) * min(BATCH_TOKENS, spec.context_length)
    llama = int(spec.weights * REPACKED) + outputs
    openvino = OPENVINO + COPIES * 4 * spec.elements
    if spec.engine is EngineChoice.LLAMA or not (with_openvino or spec.engine):
        openvino = 0
    return INTERPRETER + max(llama, openvino) + COMPUTE


def measure_bytes(pid: int) -> int:
    """Resident bytes of a process, 0 when it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
