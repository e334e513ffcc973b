"""Memory: an estimate for a model before it is loaded, a measurement of a process."""

import psutil

from embedd.choices import EngineChoice, Precision
from embedd.engine.image_spec import SMALL_PIXELS, ImageSpec
from embedd.engine.spec import ModelSpec
from embedd.engine.tokenizer_place import LLAMA_TOKENIZER, TokenizerPlace, TokenizerVerdict

INTERPRETER = 41 << 20  # resident bytes of a worker without a model, numpy included
COMPUTE = 32 << 20  # buffers of one encoder graph with flash attention at some hundred tokens
BATCH_TOKENS = 512
# Matrices that llama.cpp repacks are copies beside the mapped file.
REPACKED = 1.5

OPENVINO = 64 << 20  # bytes of OpenVINO's libraries
WORD = 192  # bytes of llama.cpp's tokenizer for each token of its vocabulary
# Bytes of a model's own tokenizer for each token, before one was built and measured: of the
# largest kind, unigram.
OWN_WORD = 1800
# OpenVINO packs matrices, in the precision that it computes with, whenever it compiles a model:
# once for a single batch on all cores, once for the replicas.
COPIES = 2
PACKED = {Precision.F32: 4, Precision.BF16: 2}  # bytes of a packed weight
# Computations that have buffers of their own: the one that has all cores, and two at a time. Each
# has so many float32 vectors for each token of the largest batch.
COMPUTATIONS = 3
PADDED_TOKENS = 1024
VECTORS = 36
CHECK_TOKENS = 128  # of the texts by which OpenVINO is compared with llama.cpp

IMAGE_LIBRARY = 128 << 20  # resident bytes of a painting worker without a model
DECODED_BYTES = 6656  # of the decoder's buffer for each pixel that it decodes at a time
# Buffer of a step, as measured with SD1: attention grows with the square of the pixels, but for
# flash attention, which larger pictures take.
STEP_BYTES = 320
FLASH_STEP_BYTES = 480
ATTENTION_BYTES = 30 << 20  # of a picture of `ATTENTION_PIXELS`
ATTENTION_PIXELS = 256 * 256


def estimate_bytes(
    spec: ModelSpec,
    *,
    with_openvino: bool = False,
    precision: Precision = Precision.F32,
    tokenizer: TokenizerVerdict | None = LLAMA_TOKENIZER,
) -> int:
    """Return the resident bytes of a model: its worker, loading included, and its tokenizer.

    Args:
        with_openvino: Whether OpenVINO may compute it, if the model names no engine itself.
        precision: That OpenVINO would compute with, never `Precision.AUTO`.
        tokenizer: What is known of the model's own; None if it was never built.
    """
    most = int(spec.weights * REPACKED) + _count_outputs(spec, BATCH_TOKENS)
    if spec.engine is not EngineChoice.LLAMA and (with_openvino or spec.engine):
        most = max(most, _estimate_openvino(spec, PACKED[precision]))
    return INTERPRETER + most + COMPUTE + _estimate_tokenizer(spec, tokenizer)


def _estimate_tokenizer(spec: ModelSpec, verdict: TokenizerVerdict | None) -> int:
    """Return the bytes of the model's own tokenizer, in the server or in the worker."""
    if verdict is None:
        return OWN_WORD * spec.vocabulary
    return 0 if verdict.place is TokenizerPlace.LLAMA else verdict.size


def _estimate_openvino(spec: ModelSpec, packed: int) -> int:
    """Return the larger of what computing takes, and the comparison with llama.cpp at the load.

    Beside what it packs there are the weights: the mapped file, or float16 where it is quantised.
    """
    table = min(spec.vocabulary * spec.width, spec.elements)
    matrices = packed * (spec.elements - table)
    buffers = 4 * VECTORS * spec.width * min(PADDED_TOKENS, spec.context_length)
    held = OPENVINO + WORD * spec.vocabulary + (spec.weights if spec.exact else 2 * spec.elements)
    computing = COPIES * matrices + COMPUTATIONS * buffers
    comparing = matrices + buffers + spec.weights + _count_outputs(spec, CHECK_TOKENS)
    return held + max(computing, comparing)


def _count_outputs(spec: ModelSpec, tokens: int) -> int:
    """Return the bytes of llama.cpp's outputs: logits and a vector for each token of a batch."""
    return 4 * (spec.vocabulary + spec.width) * min(tokens, spec.context_length)


def estimate_image_bytes(spec: ImageSpec) -> int:
    """Return the resident bytes of a worker with this image model that paints its largest size."""
    pixels = spec.pixels
    if pixels > SMALL_PIXELS:
        step = FLASH_STEP_BYTES * pixels
    else:
        step = STEP_BYTES * pixels + int(ATTENTION_BYTES * (pixels / ATTENTION_PIXELS) ** 2)
    return spec.weights + IMAGE_LIBRARY + step + DECODED_BYTES * min(pixels, SMALL_PIXELS)


def measure_bytes(pid: int) -> int:
    """Return the resident bytes of a process, 0 if it has ended."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
