"""Preparation of child processes that run native code: workers and quantisation."""

import contextlib
import ctypes
import resource
import signal
import sys
from pathlib import Path

OOM_SCORE = 500  # above the server's: the kernel ends a child first
PR_SET_PDEATHSIG = 1


def prepare_process() -> None:
    """Disable core dumps, ignore SIGINT, SIGTERM and SIGHUP, be the OOM killer's first choice.

    On Linux the process also ends when its parent does.
    """
    # Ctrl-C, a terminal that closes and a service manager's SIGTERM reach the whole process
    # group; the server decides when a worker ends, so that running requests can finish.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
