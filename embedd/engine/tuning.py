"""How a model computes: what is known of it on this machine, or a safe start."""

from dataclasses import dataclass

from embedd.engine.base import ModelSpec

SMALL = 256 << 20  # bytes of weights up to which one core computes a batch well
OUTPUTS = 512 << 20  # bytes that the replicas of a model may spend on outputs, all together
OUTPUT_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Settings that change speed and no vector beyond rounding.

    Args:
        batch_tokens: Tokens of a batch; None is the engine's own start value.
        replicas: Contexts that compute side by side, each with its share of the cores.
        rung: The fastest step of the ladder; None is the first.
        measured: Whether a calibration found it, on this machine.
    """

    replicas: int
    batch_tokens: int | None = None
    rung: str | None = None
    measured: bool = False


ONE_REPLICA = Tuning(replicas=1)


def choose_start(spec: ModelSpec, cores: int) -> Tuning:
    """Safe settings for a model that was never measured here.

    One core for each replica is best for small models: a lone thread meets no barrier.
    A large model streams its weights once for each batch, so its cores work on one.
    """
    outputs = 4 * (spec.vocabulary + spec.width) * min(OUTPUT_TOKENS, spec.context_length)
    affordable = max(1, OUTPUTS // max(outputs, 1))
    return Tuning(replicas=min(cores, affordable) if spec.weights <= SMALL else 1)
