"""The weights of a new model: converted from a checkpoint, or quantised from another GGUF.

llama.cpp quantises in a process of its own, `embedd.engine.llama.quantize`, because it ends
the process on many faults.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, TypeAlias

from embedd.convert import WeightType, convert_checkpoint
from embedd.errors import ConversionError, InvalidInputError
from embedd.gguf.header import GgufFacts, read_header_file
from embedd.library.progress import ReportProgress, report_bytes
from embedd.ollama_api import ProgressLine
from embedd.store.blobs import Report
from embedd.store.disk import open_temporary

if TYPE_CHECKING:
    from embedd.convert.checkpoint import Checkpoint

KEPT_STDERR: Final = 2000  # characters: the reason is at the end
# What Ollama sends while no layer has a digest yet.
NO_DIGEST: Final = "0" * 19


class FileType(StrEnum):
    """Types that the weights of a GGUF can be quantised to, by Ollama's names."""

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
_EXACT: Final = frozenset({"F32", "F16", "BF16"})
_CONVERTED: Final[Mapping[FileType, WeightType]] = {
    FileType.F32: WeightType.F32,
    FileType.F16: WeightType.F16,
    FileType.Q8_0: WeightType.Q8_0,
}

# Loads a GGUF and encodes with it; raises ModelLoadError if that fails
# Of a new GGUF, and the name of the model that it becomes
Verify: TypeAlias = Callable[[Path, str], None]
# Writes the first path, quantised to the type, to the second; reports tensors done and in total
Quantize: TypeAlias = Callable[[Path, Path, FileType, Report], None]


class Weights:
    """Writes the GGUF of a new model and verifies that it computes."""

    def __init__(self, *, verify: Verify | None, quantize: Quantize | None) -> None:
        self._verify = verify
        self._quantize = quantize

    def convert(
        self,
        source: Path,
        target: Path,
        file_type: FileType | None,
        report: ReportProgress,
        *,
        name: str,
    ) -> "Checkpoint":
        """Write the checkpoint *source* of the model *name* as GGUF to *target*, by default as f16.

        Raises:
            ConversionError: It cannot be converted.
            ModelLoadError: The result does not compute.
        """
        weights = _CONVERTED.get(file_type or FileType.F16)
        if weights is not None:
            return convert(source, target, weights, name=name, verify=self._verify, report=report)
        with open_temporary(target.parent) as whole:
            checkpoint = convert(
                source, whole, WeightType.F32, name=name, verify=None, report=report
            )
            self.quantize(whole, target, file_type or FileType.F16, report, name=name)
        return checkpoint

    def quantize(
        self,
        source: Path,
        target: Path,
        file_type: FileType,
        report: ReportProgress,
        *,
        name: str,
    ) -> None:
        """Write the GGUF *source* of the model *name*, quantised to *file_type*, to *target*.

        Raises:
            InvalidInputError: Its weights are quantised already.
            ConversionError: llama.cpp cannot quantise it.
            ModelLoadError: The result does not compute.
        """
        facts = read_header_file(source)
        if not {tensor.type for tensor in facts.tensors} <= _EXACT or self._quantize is None:
            raise InvalidInputError("quantization is only supported for F16, BF16 and F32 models")
        status = f"quantizing {_type_name(facts)} model to {file_type}"
        total = source.stat().st_size

        def report_tensors(done: int, tensors: int) -> None:
            completed = total * done // max(tensors, 1)
            report(
                ProgressLine(
                    status=status, digest=NO_DIGEST, total=total, completed=completed or None
                )
            )

        report_tensors(0, 1)
        self._quantize(source, target, file_type, report_tensors)
        if self._verify is not None:
            self._verify(target, name)


def convert(
    source: Path,
    target: Path,
    weights: WeightType,
    *,
    name: str,
    licence: str | None = None,
    verify: Verify | None,
    report: ReportProgress,
) -> "Checkpoint":
    """Convert the checkpoint *source* of the model *name* to *target*, and *verify* the result."""
    report(ProgressLine(status="converting model"))
    checkpoint = convert_checkpoint(
        source,
        target,
        weights=weights,
        licence=licence,
        report=report_bytes(report, "converting model"),
    )
    if verify is not None:
        verify(target, name)
    if checkpoint.note:
        report(ProgressLine(status=checkpoint.note))
    return checkpoint


def quantize_gguf(
    source: Path,
    target: Path,
    file_type: FileType,
    *,
    environment: Mapping[str, str],
    threads: int,
    report: Callable[[int, int], None],
) -> None:
    """Write the GGUF *source*, quantised to *file_type*, to *target*, in a child process.

    Args:
        environment: Of the child process.
        report: Called with the tensors done and the tensors in total; it may raise to stop.

    Raises:
        ConversionError: llama.cpp refuses, or its process dies; *target* is then absent or
            incomplete.
    """
    module = "embedd.engine.llama.quantize"
    # -P: the user's folder must not provide modules.
    command = [sys.executable, "-P", "-m", module, str(source), str(target)]
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


def parse_file_type(text: str) -> FileType:
    """The type that *text* names, in any letter case.

    Raises:
        InvalidInputError: There is no such type.
    """
    wanted = text.upper()
    for file_type in FileType:
        if file_type.upper() == wanted:
            return file_type
    supported = ", ".join(FileType)
    raise InvalidInputError(
        f"unsupported quantization type {wanted} - supported types are {supported}"
    )


def _type_name(facts: GgufFacts) -> str:
    if facts.quantization in _EXACT:
        return facts.quantization
    return "F16" if any(tensor.type == "F16" for tensor in facts.tensors) else "F32"


def _end_of(stderr: IO[bytes]) -> str:
    stderr.seek(0)
    text = stderr.read().decode("utf-8", "replace").strip()
    return "; ".join(text[-KEPT_STDERR:].splitlines()) or "the process died"
