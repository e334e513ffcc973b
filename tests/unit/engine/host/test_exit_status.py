"""How a worker process ended: in words, and by which reason."""

import signal
from pathlib import Path

import pytest

from embedd.engine.host.errors import WorkerDiedError
from embedd.engine.host.exit_status import count_oom_kills, describe_exit
from embedd.metrics import DeathReason


@pytest.mark.parametrize(
    ("code", "stderr", "text"),
    [
        (0, b"", "exit status 0"),
        (1, b"first\nlast\n", "exit status 1: last"),
        (
            -6,
            b"/home/me/ggml/src/ggml.c:12: GGML_ASSERT(x)\n",
            "SIGABRT: ggml.c:12: GGML_ASSERT(x)",
        ),
        (
            -6,
            b"CUDA error: out of memory\n/home/me/ggml-cuda.cu:109: CUDA error\n",
            "SIGABRT: ggml-cuda.cu:109: CUDA error (CUDA error: out of memory)",
        ),
        (-9, b"", "SIGKILL"),
        (-99, b"", "exit status -99"),
    ],
)
def test_an_exit_status_is_described_in_words(code: int, stderr: bytes, text: str) -> None:
    assert describe_exit(code, stderr)[0] == f"the worker process ended with {text}"


@pytest.mark.parametrize(
    ("code", "kills", "of_memory"),
    [(-signal.SIGKILL, 1, True), (-signal.SIGKILL, 0, False), (-signal.SIGSEGV, 1, False)],
)
def test_only_a_kill_with_a_counter_that_rose_is_out_of_memory(
    code: int, kills: int, of_memory: bool
) -> None:
    message, reason = describe_exit(code, b"last words", oom_kills=kills)
    assert WorkerDiedError(message, reason).is_out_of_memory is of_memory
    assert (" (out of memory): last words" in message) is of_memory


def test_a_process_that_ends_with_a_memory_error_is_out_of_memory() -> None:
    message, reason = describe_exit(1, b"Traceback:\nMemoryError: no memory for a batch\n")
    assert WorkerDiedError(message, reason).is_out_of_memory
    assert message.endswith("exit status 1 (out of memory): MemoryError: no memory for a batch")


@pytest.mark.parametrize(
    ("code", "kills", "reason"),
    [
        (0, 0, DeathReason.EXITED),
        (1, 1, DeathReason.EXITED),
        (-signal.SIGABRT, 0, DeathReason.CRASHED),
        (-signal.SIGSEGV, 1, DeathReason.CRASHED),
        (-99, 0, DeathReason.CRASHED),
        (-signal.SIGTERM, 0, DeathReason.KILLED),
        (-signal.SIGKILL, 0, DeathReason.KILLED),
        (-signal.SIGKILL, 1, DeathReason.MEMORY),
    ],
)
def test_an_exit_status_has_a_reason(code: int, kills: int, reason: DeathReason) -> None:
    assert describe_exit(code, b"", oom_kills=kills)[1] is reason


@pytest.mark.parametrize(
    ("membership", "file"),
    [
        ("0::/system.slice/embedd\n", "system.slice/embedd/memory.events"),
        ("4:memory:/docker/abc\n0::/\n", "memory/docker/abc/memory.oom_control"),
        ("0::/not/visible/here\n", "memory.events"),
        ("", "memory.events"),
    ],
)
def test_the_counter_of_the_cgroup_is_found(membership: str, file: str, tmp_path: Path) -> None:
    counter = tmp_path / "cgroup" / file
    counter.parent.mkdir(parents=True)
    counter.write_text("low 0\noom 7\noom_kill 3\n")
    (tmp_path / "membership").write_text(membership)
    (tmp_path / "vmstat").write_text("oom_kill 100\n")
    arguments = (tmp_path / "membership", tmp_path / "cgroup", tmp_path / "vmstat")
    assert count_oom_kills(*arguments) == 3


def test_without_a_cgroup_the_counter_of_the_machine_is_read(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("nr_free_pages 1\noom_kill 5\n")
    assert count_oom_kills(tmp_path / "no", tmp_path / "none", tmp_path / "vmstat") == 5


def test_a_system_without_counters_counts_nothing(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("oom_kill many\n")
    assert count_oom_kills(tmp_path / "no", tmp_path / "none", tmp_path / "vmstat") == 0
    assert count_oom_kills(tmp_path / "no", tmp_path / "none", tmp_path / "nothing") == 0
