"""Quantising in a process of its own: every type, refusals, and a caller who stops."""

from pathlib import Path

import psutil
import pytest

from embedd.config import worker_environment
from embedd.errors import ConversionError
from embedd.gguf.header import read_header_file
from embedd.library.quantize import FileType, quantize_gguf
from tests.tiny_models import write_tiny_bert


class StoppedError(Exception):
    pass


def ignore(_done: int, _total: int) -> None:
    pass


@pytest.mark.parametrize("file_type", [FileType.F16, FileType.Q4_K_M])
def test_the_weights_become_what_was_asked_for(tmp_path: Path, file_type: FileType) -> None:
    source = write_tiny_bert(tmp_path / "a.gguf", width=256)
    reported: list[tuple[int, int]] = []
    quantize_gguf(
        source,
        tmp_path / "b.gguf",
        file_type,
        environment=worker_environment(),
        threads=1,
        report=lambda done, total: reported.append((done, total)),
    )
    facts = read_header_file(tmp_path / "b.gguf")
    assert facts.quantization == file_type
    assert facts.pooling == read_header_file(source).pooling
    assert reported == [(done, len(facts.tensors)) for done in range(1, len(facts.tensors) + 1)]


def test_a_file_that_llama_cpp_refuses_is_an_error_with_its_reason(tmp_path: Path) -> None:
    source = tmp_path / "a.gguf"
    source.write_bytes(b"GGUF, it says")
    with pytest.raises(ConversionError, match=r"^llama\.cpp cannot quantize to Q8_0: gguf_init"):
        quantize_gguf(
            source,
            tmp_path / "b.gguf",
            FileType.Q8_0,
            environment=worker_environment(),
            threads=1,
            report=ignore,
        )


def test_a_report_that_raises_ends_the_process(tmp_path: Path) -> None:
    def stop(_done: int, _total: int) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        quantize_gguf(
            write_tiny_bert(tmp_path / "a.gguf"),
            tmp_path / "b.gguf",
            FileType.F16,
            environment=worker_environment(),
            threads=1,
            report=stop,
        )
    commands = [" ".join(child.cmdline()) for child in psutil.Process().children()]
    assert not [command for command in commands if "quantize" in command]


def test_the_users_folder_provides_no_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ctypes", "numpy", "embedd", "llama_cpp"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('from the wrong folder')")
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "q8.gguf"
    quantize_gguf(
        write_tiny_bert(tmp_path / "tiny.gguf"),
        target,
        FileType.Q8_0,
        environment=worker_environment(),
        threads=1,
        report=lambda _done, _total: None,
    )
    assert read_header_file(target).quantization == "Q8_0"
