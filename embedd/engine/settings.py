"""Settings of a loaded model that decide its speed, and safe start values for them."""

from dataclasses import dataclass

from embedd.engine.spec import ModelSpec

SMALL = 256 << 20  # bytes of weights up to which one core is enough for a batch
OUTPUTS = 512 << 20  # bytes that the outputs of all replicas of a model may take
OUTPUT_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Settings that decide a model's speed; vectors differ by rounding only.

    Args:
        replicas: Batches computed at the same time, each with its share of the cores.
        batch_tokens: Most tokens of a batch; None is the engine's own default.
        backend: Name of the fastest backend; None is the first.
        measured: Whether a calibration chose them, on this machine.
    """

    replicas: int
    batch_tokens: int | None = None
    backend: str | None = None
    measured: bool = False


# Attention is computed over the square of a whole batch: on an H100 batches of 512 or 1024 tokens
# were the fastest with models of 22 M to 335 M parameters (`benchmarks.gpu`).
GPU_BATCH_TOKENS = 1024
GPU_OUTPUTS = 1 << 30  # bytes of host memory that the outputs of a GPU batch may take

ONE_REPLICA = Tuning(replicas=1)


def choose_gpu_batch(vocabulary: int, width: int) -> int:
    """Return a safe number of tokens for a GPU batch: each one costs a row of the vocabulary."""
    affordable = GPU_OUTPUTS // (4 * max(1, vocabulary + width))
    return max(OUTPUT_TOKENS, min(GPU_BATCH_TOKENS, affordable))


def choose_start(spec: ModelSpec, cores: int, *, gpu: bool = False) -> Tuning:
    """Return safe settings for a model that was not calibrated on this machine.

    One core for each replica is best for small models: a single thread waits at no barrier.
    A large model reads its weights once for each batch, so all cores work on one batch.
    """
    if gpu:
        return ONE_REPLICA
    outputs = 4 * (spec.vocabulary + spec.width) * min(OUTPUT_TOKENS, spec.context_length)
    affordable = max(1, OUTPUTS // max(outputs, 1))
    return Tuning(replicas=min(cores, affordable) if spec.weights <= SMALL else 1)
