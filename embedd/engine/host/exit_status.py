"""How a worker ended, and by whose doing."""

import contextlib
import re
import signal
from dataclasses import dataclass
from pathlib import Path

from embedd.metrics import DeathReason

FOLDERS = re.compile(r"(?:/[^\s/:]+)+/")
COUNTER = "oom_kill"
# Signals that others send; the rest come from what the process itself did.
FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


@dataclass(frozen=True, slots=True)
class Death:
    """The end of a worker process.

    Args:
        cause: The signal or the exit status, in a word or two.
        last_line: Of what it wrote, without folders; an abort's assertion is there.
    """

    cause: str
    last_line: str = ""
    reason: DeathReason = DeathReason.CRASHED

    @property
    def of_memory(self) -> bool:
        """The kernel ended it, for there was no memory left."""
        return self.reason is DeathReason.MEMORY

    def __str__(self) -> str:
        last = f": {self.last_line}" if self.last_line else ""
        why = " (out of memory)" if self.of_memory else ""
        return f"the worker process ended with {self.cause}{why}{last}"


def describe_death(code: int, stderr: bytes, *, oom_kills: int = 0) -> Death:
    """The end of a process with exit status *code*, negative for a signal.

    Args:
        oom_kills: Processes that the kernel ended for memory while it lived.
    """
    cause = f"exit status {code}"
    if code < 0:
        with contextlib.suppress(ValueError):
            cause = signal.Signals(-code).name
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    # An assertion names the folder that the library was built in: of no use to anybody.
    last = FOLDERS.sub("", lines[-1]) if lines else ""
    return Death(cause, last, _choose_reason(code, oom_kills))


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
    """Processes that the kernel ended for want of memory so far; 0 where it does not tell.

    Those of this cgroup (version 2 or 1), which a worker shares; where there is none to be
    seen, those of the machine.
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
