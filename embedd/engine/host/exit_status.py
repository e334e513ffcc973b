"""How a worker process ended: a sentence for people and a reason for metrics."""

import contextlib
import re
import signal
from pathlib import Path

from embedd.metrics import DeathReason

FOLDERS = re.compile(r"(?:/[^\s/:]+)+/")
DRIVER_ERROR = re.compile(r"(?:CUDA|ROCm|MUSA) error: ")
COUNTER = "oom_kill"
# Signals that other processes send; the rest come from what the process itself did.
FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def describe_exit(code: int, stderr: bytes, *, oom_kills: int = 0) -> tuple[str, DeathReason]:
    """A sentence and the reason for exit status *code*, which is negative for a signal.

    The sentence ends with the last line of *stderr*, where a failed assertion stands, and with
    what a GPU's driver said before.

    Args:
        oom_kills: Processes that the kernel ended for lack of memory while it lived.
    """
    cause = f"exit status {code}"
    if code < 0:
        with contextlib.suppress(ValueError):
            cause = signal.Signals(-code).name
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    # The last line of a traceback names the exception.
    failed = bool(lines) and lines[-1].startswith("MemoryError")
    reason = DeathReason.MEMORY if failed else _choose_reason(code, oom_kills)
    if reason is DeathReason.MEMORY:
        cause += " (out of memory)"
    if lines:
        # An assertion names the folder that the library was built in, which helps no user.
        cause += f": {FOLDERS.sub('', lines[-1])}"
    if found := [line for line in lines[:-1] if DRIVER_ERROR.match(line)]:
        cause += f" ({found[-1]})"
    return f"the worker process ended with {cause}", reason


def _choose_reason(code: int, oom_kills: int) -> DeathReason:
    if code >= 0:
        return DeathReason.EXITED
    if code == -signal.SIGKILL and oom_kills > 0:
        return DeathReason.MEMORY
    return DeathReason.KILLED if -code in FROM_OUTSIDE else DeathReason.CRASHED


def count_oom_kills(
    membership: Path = Path("/proc/self/cgroup"),
    cgroups: Path = Path("/sys/fs/cgroup"),
    machine: Path = Path("/proc/vmstat"),
) -> int:
    """Processes that the kernel has ended for lack of memory; 0 where it does not count them.

    Those of this cgroup (version 2 or 1), which a worker shares; without a readable cgroup,
    those of the machine.
    """
    files = []
    with contextlib.suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            folder = cgroups / controllers / path.strip("/")
            files += [folder / "memory.events", folder / "memory.oom_control"]
    # In a container the path may be that of the host; its own cgroup then lies at the root.
    counts = map(_read_counter, [*files, cgroups / "memory.events", machine])
    return next((count for count in counts if count is not None), 0)


def _read_counter(file: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == COUNTER:
                return int(value)
    return None
