"""Other weights for a GGUF, by llama.cpp itself: every type that it has, and back to float32."""

import ctypes
from pathlib import Path

from llama_cpp import llama_cpp as lib

from embedd.engine.llama.library import fill_params, open_library
from embedd.gguf.types import FILE_TYPES

NUMBERS = {name: number for number, name in FILE_TYPES.items()}


def requantize(source: Path, target: Path, file_type: str, *, pure: bool) -> Path:
    """Write *source* with other weights; ``F32`` of quantised ones are what they stand for.

    *pure* has one type for all matrices; otherwise llama.cpp mixes them as it thinks best.
    """
    open_library()
    params = fill_params(
        lib.llama_model_quantize_default_params(),
        ftype=NUMBERS[file_type],
        nthread=1,
        allow_requantize=True,
        pure=pure,
    )
    files = str(source).encode(), str(target).encode()
    assert lib.llama_model_quantize(*files, ctypes.byref(params)) == 0
    return target
