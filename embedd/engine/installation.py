"""Which engines are installed here, found out without importing them."""

import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from embedd.errors import EngineError
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


def read_library_instructions(environment: Mapping[str, str]) -> frozenset[str]:
    """Return the sets of instructions that llama.cpp was built for, in its own words.

    It is loaded in a process of its own, which a library for another CPU ends.

    Raises:
        EngineError: The library cannot be loaded, or ended its process.
    """
    # -P: the user's folder must not provide modules.
    command = [sys.executable, "-P", "-m", "embedd.engine.llama.system_info"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise EngineError(f"llama.cpp ended its process ({name}): it was built for another CPU")
    if done.returncode:
        last = done.stderr.strip().splitlines()
        raise EngineError(last[-1] if last else "llama.cpp cannot be loaded")
    return frozenset(re.findall(r"(\w+) = 1\b", done.stdout))


def describe_build() -> str:
    """Return the versions of the installed engines and the processor: speed depends on them."""
    from importlib.metadata import version  # noqa: PLC0415 - imports much, and servers start

    libraries = find_llama_libraries().glob("libllama*")
    sizes = sorted(f"{file.name}:{file.stat().st_size}" for file in libraries)
    openvino = version("openvino") if has_openvino() else "none"
    llama = f"{version('llama-cpp-python')} {' '.join(sizes)}"
    return f"{llama} openvino={openvino} {describe_processor()}"
