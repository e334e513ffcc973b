"""How far vectors may be from those that exact arithmetic gives, by the backend that serves."""

from dataclasses import dataclass

from embedd.engine.backends import OPENVINO_BF16


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """Largest differences of unit vectors of all-minilm with f32 or f16 weights.

    Args:
        number: Of each number to the exact one.
        exact: Of the cosine to that of exact vectors, which is 1.
        batched: Of the cosine of two computations of one text, in different batches.
    """

    number: float
    exact: float
    batched: float


F32 = Tolerance(number=2e-4, exact=1e-6, batched=1e-6)
# Measured over 1,005 texts of 2 to 256 tokens with avx512_bf16 and without AMX, as 1 - cosine to
# f32: mean 1.6e-5, max 6.0e-5; alone against batched mean 1.8e-7, max 1.3e-5; largest difference
# of a number 2.0e-3, some 1.7 times that where a vector is cut to a third and scaled. With
# amx_bf16: mean 1.6e-5, max 5.8e-5; alone against batched max 5e-6.
BF16 = Tolerance(number=4e-3, exact=1e-4, batched=4e-5)


def find_tolerance(backend: str) -> Tolerance:
    """Return the tolerance of vectors that this backend computes."""
    return BF16 if backend == OPENVINO_BF16.name else F32
