"""The weights of a new model: converted from a checkpoint, quantised from a GGUF."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from embedd.convert import Checkpoint, WeightType
from embedd.engine.host.quantize import FileType
from embedd.errors import InvalidInputError
from embedd.gguf.header import GgufFacts, read_header_file
from embedd.library.progress import Progress, ReportProgress
from embedd.library.storage import Verify, convert
from embedd.store.blobs import Report
from embedd.store.disk import temporary_in

__all__ = ["FileType", "Quantize", "Weights", "parse_file_type"]

# What Ollama sends while no layer has a digest yet.
NO_DIGEST: Final = "0" * 19
_EXACT: Final = frozenset({"F32", "F16", "BF16"})
_CONVERTED: Final[Mapping[FileType, WeightType]] = {
    FileType.F32: WeightType.F32,
    FileType.F16: WeightType.F16,
    FileType.Q8_0: WeightType.Q8_0,
}


# Writes a GGUF with weights of that type to the second path; tells tensors done and in all.
Quantize: TypeAlias = Callable[[Path, Path, FileType, Report], None]


class Weights:
    """Makes GGUFs, and lets each prove that it computes."""

    def __init__(self, *, verify: Verify | None, quantize: Quantize | None) -> None:
        self._verify = verify
        self._quantize = quantize

    def convert(
        self, source: Path, target: Path, file_type: FileType | None, report: ReportProgress
    ) -> Checkpoint:
        """Write the checkpoint *source* as GGUF to *target*; f16 if nothing is said.

        Raises:
            ConversionError: It cannot be converted.
            ModelLoadError: What was made does not compute.
        """
        weights = _CONVERTED.get(file_type or FileType.F16)
        if weights is not None:
            return convert(
                source, target, weights, licence=None, verify=self._verify, report=report
            )
        whole = temporary_in(target.parent)
        try:
            converted = convert(
                source, whole, WeightType.F32, licence=None, verify=None, report=report
            )
            self.quantize(whole, target, file_type or FileType.F16, report)
        finally:
            whole.unlink(missing_ok=True)
        return converted

    def quantize(
        self, source: Path, target: Path, file_type: FileType, report: ReportProgress
    ) -> None:
        """Write the GGUF *source* with weights of *file_type* to *target*.

        Raises:
            InvalidInputError: Its weights are quantised already.
            ConversionError: llama.cpp cannot quantise it.
            ModelLoadError: What was made does not compute.
        """
        facts = read_header_file(source)
        if not {tensor.type for tensor in facts.tensors} <= _EXACT or self._quantize is None:
            raise InvalidInputError("quantization is only supported for F16, BF16 and F32 models")
        status = f"quantizing {_name_type(facts)} model to {file_type}"
        total = source.stat().st_size

        def tell(done: int, tensors: int) -> None:
            completed = total * done // max(tensors, 1)
            report(
                Progress(status=status, digest=NO_DIGEST, total=total, completed=completed or None)
            )

        tell(0, 1)
        self._quantize(source, target, file_type, tell)
        if self._verify is not None:
            self._verify(target)


def parse_file_type(text: str) -> FileType:
    """The type that *text* names, in any letter case.

    Raises:
        InvalidInputError: It names none.
    """
    wanted = text.upper()
    for file_type in FileType:
        if file_type.upper() == wanted:
            return file_type
    supported = ", ".join(FileType)
    raise InvalidInputError(
        f"unsupported quantization type {wanted} - supported types are {supported}"
    )


def _name_type(facts: GgufFacts) -> str:
    if facts.quantization in _EXACT:
        return facts.quantization
    return "F16" if any(tensor.type == "F16" for tensor in facts.tensors) else "F32"
