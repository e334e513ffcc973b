"""Backends: the engines and settings that a model may be computed with, in order of preference."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from embedd.choices import Precision
from embedd.errors import ModelLoadError

OPENVINO = "openvino"
NO_BF16 = (
    "OpenVINO cannot compute in bf16 on this CPU, which has neither bf16 instructions nor AVX-512 "
    "to emulate them: set EMBEDD_PRECISION, or PARAMETER precision, to auto or f32"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """An engine with its settings.

    Args:
        name: As in logs, metrics and headers.
        extra_buffers: Whether llama.cpp repacks weights for AMX and similar instructions.
        flash_attention: Whether llama.cpp uses it; with ``gpu`` only where the GPU has kernels
            for it.
        gpu: Whether llama.cpp puts layers on a GPU.
        precision: Of OpenVINO's arithmetic, never `Precision.AUTO`; None for llama.cpp.
    """

    name: str
    extra_buffers: bool
    flash_attention: bool
    engine: str = "llama"
    gpu: bool = False
    precision: Precision | None = None

    @property
    def is_reference(self) -> bool:
        """Whether its vectors count as correct, so that those of others are compared with them."""
        return self.engine != OPENVINO

    @property
    def has_fallback(self) -> bool:
        """Whether the next backend may load a model that this one refuses."""
        return self.gpu or not self.is_reference


LLAMA_GPU = Backend(name="llama-gpu", extra_buffers=True, flash_attention=True, gpu=True)
OPENVINO_F32, OPENVINO_BF16 = (
    Backend(
        name=f"openvino-{precision}",
        extra_buffers=False,
        flash_attention=False,
        engine=OPENVINO,
        precision=precision,
    )
    for precision in (Precision.F32, Precision.BF16)
)
LLAMA_BACKENDS = (
    Backend(name="llama", extra_buffers=True, flash_attention=True),
    Backend(name="llama-no-repack", extra_buffers=False, flash_attention=True),
    Backend(name="llama-safe", extra_buffers=False, flash_attention=False),
)

# Names of CPU features as in /proc/cpuinfo. OpenVINO emulates bf16 with AVX-512; some CPUs
# without it convert bf16 beside AVX-VNNI, which Linux does not list: OpenVINO itself knows.
NATIVE_BF16 = frozenset({"avx512_bf16", "amx_bf16"})
MAY_COMPUTE_BF16 = NATIVE_BF16 | {"avx512f", "avx_vnni"}


def choose_precision(wish: Precision, cpu_features: AbstractSet[str]) -> Precision:
    """Return *wish*, or for `Precision.AUTO` bf16 where the CPU has instructions for it."""
    if wish is not Precision.AUTO:
        return wish
    return Precision.BF16 if NATIVE_BF16 & cpu_features else Precision.F32


def choose_openvino(wish: Precision, cpu_features: AbstractSet[str]) -> Backend:
    """Return OpenVINO's backend that computes with the wanted precision.

    Raises:
        ModelLoadError: The CPU cannot compute in bf16.
    """
    if choose_precision(wish, cpu_features) is Precision.F32:
        return OPENVINO_F32
    if not MAY_COMPUTE_BF16 & cpu_features:
        raise ModelLoadError(NO_BF16)
    return OPENVINO_BF16
