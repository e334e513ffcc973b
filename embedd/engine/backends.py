"""Backends: the engines and settings that a model may be computed with, in order of preference."""

from dataclasses import dataclass

OPENVINO = "openvino"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One step of the backends of engines and settings; the last is the safest.

    ``extra_buffers`` lets llama.cpp repack weights for AMX and its kin. With ``gpu`` it puts
    layers on a GPU, and uses flash attention where that has kernels for it.
    """

    name: str
    extra_buffers: bool
    flash_attention: bool
    engine: str = "llama"
    gpu: bool = False

    @property
    def is_reference(self) -> bool:
        """Whether nothing else can help where it fails: llama.cpp stands behind the others."""
        return self.engine != OPENVINO

    @property
    def has_fallback(self) -> bool:
        """Whether a model that it refuses may do on the backends below it."""
        return self.gpu or not self.is_reference


LLAMA_GPU = Backend(name="llama-gpu", extra_buffers=True, flash_attention=True, gpu=True)
OPENVINO_BACKEND = Backend(
    name="openvino", extra_buffers=False, flash_attention=False, engine=OPENVINO
)
LLAMA_BACKENDS = (
    Backend(name="llama", extra_buffers=True, flash_attention=True),
    Backend(name="llama-no-repack", extra_buffers=False, flash_attention=True),
    Backend(name="llama-safe", extra_buffers=False, flash_attention=False),
)
