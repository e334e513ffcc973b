"""Which engines are installed here, found out without importing them."""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from embedd.machine import describe_processor

GPU_LIBRARIES = ("cuda", "hip", "metal", "musa", "sycl", "vulkan")


def has_openvino() -> bool:
    """Return whether OpenVINO is installed."""
    return find_spec("openvino") is not None


def has_diffusion() -> bool:
    """Return whether the library that paints is installed."""
    return find_spec("stable_diffusion_cpp") is not None


def find_llama_libraries() -> Path:
    """Return the folder of llama.cpp's shared libraries."""
    found = find_spec("llama_cpp")
    return Path(found.origin).parent / "lib" if found and found.origin else Path()


def has_gpu_build(libraries: Path) -> bool:
    """Return whether the llama.cpp in the folder *libraries* was built for a GPU.

    Whether the machine has one is found out by the worker that loads them.
    """
    names = {file.name.partition(".")[0] for file in libraries.glob("*ggml-*")}
    return any(name.removeprefix("lib").removeprefix("ggml-") in GPU_LIBRARIES for name in names)


def describe_build() -> str:
    """Return the versions of the installed engines and the processor: speed depends on them."""
    libraries = find_llama_libraries().glob("libllama*")
    sizes = sorted(f"{file.name}:{file.stat().st_size}" for file in libraries)
    openvino = version("openvino") if has_openvino() else "none"
    llama = f"{version('llama-cpp-python')} {' '.join(sizes)}"
    return f"{llama} openvino={openvino} {describe_processor()}"
