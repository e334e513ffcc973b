"""Child process that quantises one GGUF: ``python -m embedd.engine.llama.quantize``.

Arguments: source, target, number of the file type, threads. It prints a line ``<done> <total>``
per tensor on stdout, and exits with 0, or with 1 and the reason on stderr. Its parent is
`embedd.library.quantize`.
"""

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from embedd.engine.child_process import prepare_process
from embedd.engine.llama.binding import lib
from embedd.engine.llama.library import (
    WARNING_LEVEL,
    fill_params,
    open_library,
)

# llama.cpp logs each tensor: "[   3/  21]  blk.0.attn_k.weight - [ 32, 32 ...".
_TENSOR: Final = re.compile(rb"\[ *(\d+)/ *(\d+)\]")


def _log(level: int, text: bytes, _: object) -> None:
    # An exception in a callback leaves C with an undefined result: nothing here raises.
    match = _TENSOR.match(text)
    if match:
        _write(sys.stdout.fileno(), b"%s %s\n" % match.groups())
    elif level >= WARNING_LEVEL:
        _write(sys.stderr.fileno(), text)


def _write(descriptor: int, data: bytes) -> None:
    # The parent may have gone; the kernel ends this process soon after.
    with contextlib.suppress(OSError):
        os.write(descriptor, data)


# Module-level, because llama.cpp holds the address for the life of the process.
_log_callback = lib.llama_log_callback(_log)


def quantize(source: Path, target: Path, *, file_type: int, threads: int) -> bool:
    """Write *source*, quantised, to *target*; return False if llama.cpp refuses."""
    open_library()
    lib.llama_log_set(_log_callback, None)
    params = fill_params(
        lib.llama_model_quantize_default_params(), ftype=file_type, nthread=threads
    )
    status: int = lib.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(params)
    )
    return status == 0


def main(arguments: Sequence[str]) -> int:
    """Quantise according to *arguments*; return the exit status."""
    source, target, file_type, threads = arguments
    prepare_process()
    done = quantize(Path(source), Path(target), file_type=int(file_type), threads=int(threads))
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
