"""How a model computes: what is known of it on this machine, or a safe start."""

from dataclasses import dataclass

from embedd.engine.spec import ModelSpec

SMALL = 256 << 20  # bytes of weights up to which one core computes a batch well
OUTPUTS = 512 << 20  # bytes that the replicas of a model may spend on outputs, all together
OUTPUT_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Settings that change speed and no vector beyond rounding.

    Args:
        batch_tokens: Tokens of a batch; None is the engine's own start value.
        replicas: Contexts that compute side by side, each with its share of the cores.
        backend: The fastest step of the backends; None is the first.
        measured: Whether a calibration found it, on this machine.
    """

    replicas: int
    batch_tokens: int | None = None
    backend: str | None = None
    measured: bool = False


GPU_BATCH_TOKENS = 4096
GPU_OUTPUTS = 1 << 30  # bytes of memory of the host that the outputs of a GPU's batch may take

ONE_REPLICA = Tuning(replicas=1)


def choose_gpu_batch(vocabulary: int, width: int) -> int:
    """Tokens of a batch on a GPU that was never measured: each costs a row of the vocabulary."""
    affordable = GPU_OUTPUTS // (4 * max(1, vocabulary + width))
    return max(OUTPUT_TOKENS, min(GPU_BATCH_TOKENS, affordable))


def choose_start(spec: ModelSpec, cores: int, *, gpu: bool = False) -> Tuning:
    """Safe settings for a model that was never measured here.

    One core for each replica is best for small models: a lone thread meets no barrier.
    A large model streams its weights once for each batch, so its cores work on one.
    """
    if gpu:
        return ONE_REPLICA
    outputs = 4 * (spec.vocabulary + spec.width) * min(OUTPUT_TOKENS, spec.context_length)
    affordable = max(1, OUTPUTS // max(outputs, 1))
    return Tuning(replicas=min(cores, affordable) if spec.weights <= SMALL else 1)
