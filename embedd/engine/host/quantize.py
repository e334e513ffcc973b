"""Quantising a GGUF with llama.cpp, in a process of its own that may die."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import IO, Final

from embedd.errors import ConversionError

KEPT_STDERR: Final = 2000  # characters: the reason is at the end


class FileType(StrEnum):
    """What the weights of a GGUF can become, by Ollama's names."""

    F32 = "F32"
    F16 = "F16"
    Q4_K_S = "Q4_K_S"
    Q4_K_M = "Q4_K_M"
    Q8_0 = "Q8_0"


_NUMBERS: Final[Mapping[FileType, int]] = {  # llama.cpp's enum llama_ftype
    FileType.F32: 0,
    FileType.F16: 1,
    FileType.Q8_0: 7,
    FileType.Q4_K_S: 14,
    FileType.Q4_K_M: 15,
}


def quantize_gguf(
    source: Path,
    target: Path,
    file_type: FileType,
    *,
    environment: Mapping[str, str],
    threads: int,
    report: Callable[[int, int], None],
) -> None:
    """Write the GGUF *source* with weights of *file_type* to *target*.

    Args:
        report: Gets tensors done and tensors in all; it may raise to stop.

    Raises:
        ConversionError: llama.cpp refuses or dies; *target* is then absent or incomplete.
    """
    module = "embedd.engine.llama.quantize"
    command = [sys.executable, "-m", module, str(source), str(target)]
    command += [str(_NUMBERS[file_type]), str(threads)]
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
        ) as process,
    ):
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            for line in process.stdout:
                done, total = line.split()
                report(int(done), int(total))
            status = process.wait()
        finally:
            process.kill()
        if status != 0:
            raise ConversionError(f"llama.cpp cannot quantize to {file_type}: {_end_of(stderr)}")


def _end_of(stderr: IO[bytes]) -> str:
    stderr.seek(0)
    text = stderr.read().decode("utf-8", "replace").strip()
    return "; ".join(text[-KEPT_STDERR:].splitlines()) or "the process died"
