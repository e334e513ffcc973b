"""The boundary to llama.cpp: version check, log, and parameter structures.

ctypes checks little: a misspelt parameter is accepted and changes nothing, memory is
not kept alive, and a library of another version reads shifted structures. This module and
`context` guard against all three; no pointer leaves this package.
"""

import contextlib
import ctypes
import os
import re
import sys
from collections import deque
from functools import cache
from pathlib import Path
from typing import Protocol

from embedd.engine.llama.binding import lib
from embedd.errors import EngineError

WARNING_LEVEL = 3
CONTINUATION_LEVEL = 5
KEPT_LINES = 50

# Of `llama_context_default_params` in the pinned release. Any other value means that the
# structures of library and binding differ; the flags stand at the end, where every shift shows.
EXPECTED_DEFAULTS = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_threads": 4,
    "flash_attn_type": -1,
    "offload_kqv": True,
    "no_perf": True,
    "op_offload": True,
    "swa_full": True,
}

# Prefixes of the names of buffers in host memory.
HOST_BUFFERS = ("CPU", "AMX", "BLAS")
_BUFFER = re.compile(r"(\S+) (?:model|KV|compute|output) buffer size = +([0-9.]+) MiB")

# What ggml logs before it ends the process because a call to a GPU's driver failed.
_FATAL = re.compile(r"(?:CUDA|ROCm|MUSA) error: ")


class Ggml(Protocol):
    """The functions of ggml that find its backends: one for the CPU, further ones for GPUs."""

    def ggml_backend_reg_count(self) -> int:
        """Return how many backends there are."""
        ...

    def ggml_backend_load_all_from_path(self, folder: bytes, /) -> None:
        """Load the best backend of each kind in *folder* that runs on this machine."""
        ...


_gpu_bytes: list[int] = []
_lines: deque[str] = deque(maxlen=KEPT_LINES)


def _keep_line(level: int, text: bytes, _: object) -> None:
    # An exception in a callback leaves C with an undefined result: nothing here raises.
    line = text.decode("utf-8", "replace").strip()
    if (found := _BUFFER.search(line)) and _is_on_gpu(found[1]):
        _gpu_bytes.append(int(float(found[2]) * (1 << 20)))
    if line and WARNING_LEVEL <= level <= CONTINUATION_LEVEL:
        _lines.append(line)
    if _FATAL.match(line):
        _write_last_words(line)


def _write_last_words(line: str) -> None:
    """Write to stderr why the process is about to be ended, which is all that is left of it."""
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), f"{line}\n".encode())


def _is_on_gpu(buffer: str) -> bool:
    return not buffer.startswith(HOST_BUFFERS) and not buffer.endswith("_Host")


def take_gpu_bytes() -> int:
    """Return the bytes that llama.cpp logged as allocated on GPUs since the last call."""
    total = sum(_gpu_bytes)
    _gpu_bytes.clear()
    return total


# Module-level, because llama.cpp holds the address for the life of the process.
_keep_line_callback = lib.llama_log_callback(_keep_line)


@cache
def open_library() -> None:
    """Initialise llama.cpp in this process, once.

    Raises:
        EngineError: The library does not match the binding, or has no backend for this CPU.
    """
    check_defaults(lib.llama_context_default_params())
    lib.llama_log_set(_keep_line_callback, None)
    # By the handle of libllama, which finds the ggml that this one uses. llama_cpp's own handle
    # can be a second copy of the library with backends of its own: wheels hold no links.
    load_backends(lib._lib, Path(lib.__file__).with_name("lib"))  # noqa: SLF001 - no public name
    lib.llama_backend_init()


def load_backends(ggml: Ggml, folder: Path) -> None:
    """Load the backends in *folder*, unless they are part of the library.

    A portable library (``GGML_BACKEND_DL``) comes with a backend for each kind of CPU, and
    chooses the best one that runs on this one.

    Raises:
        EngineError: No backend in *folder* runs on this CPU.
    """
    if ggml.ggml_backend_reg_count() == 0:
        ggml.ggml_backend_load_all_from_path(str(folder).encode())
    if ggml.ggml_backend_reg_count() == 0:
        raise EngineError(
            f"llama.cpp has no backend for this CPU in {folder}; "
            "build llama-cpp-python on this machine"
        )


def check_defaults(defaults: ctypes.Structure) -> None:
    """Check that the library's default parameters are those of the pinned release.

    Raises:
        EngineError: The library does not match the binding.
    """
    for name, expected in EXPECTED_DEFAULTS.items():
        found = getattr(defaults, name, None)
        if found != expected:
            raise EngineError(
                f"the llama.cpp library does not match llama-cpp-python: {name} is {found}, "
                f"expected {expected}; reinstall llama-cpp-python and unset LLAMA_CPP_LIB_PATH"
            )


def find_gpu() -> None:
    """Check that llama.cpp can put layers on a GPU.

    Raises:
        EngineError: llama.cpp was built without GPU support, or finds no GPU.
    """
    open_library()
    take_gpu_bytes()
    if not lib.llama_supports_gpu_offload():
        raise EngineError("llama.cpp finds no GPU")


def take_log_lines() -> list[str]:
    """Return llama.cpp's last warnings and errors, and forget them.

    They are the only explanation that it gives when a call returns NULL.
    """
    lines = list(_lines)
    _lines.clear()
    return lines


def fill_params(params: ctypes.Structure, **values: object) -> ctypes.Structure:
    """Set fields of a parameter structure and return it.

    Raises:
        TypeError: The structure has no such field; ctypes would silently create an attribute.
    """
    known = {field[0] for field in params._fields_}
    for name, value in values.items():
        if name not in known:
            raise TypeError(f"{type(params).__name__} has no field {name!r}")
        setattr(params, name, value)
    return params
