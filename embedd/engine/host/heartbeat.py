"""Whether a worker process answers pings, and whether it does anything at all."""

from typing import Final

import psutil

from embedd.metrics import DeathReason

INTERVAL: Final = 1.0  # seconds between two checks
# A check after a time in which the server did not run, as on a suspended machine, counts no more.
LONGEST: Final = 2.0  # seconds
# Checks in a row that a worker does not answer, after which it is ended: if it uses no processor,
# and if it does, because it may hold the interpreter's lock for long while it builds a tokenizer.
MAX_IDLE: Final = 10
MAX_BUSY: Final = 60
# Checks in a row after which the health check reports it.
MAX_UNREPORTED: Final = 3
IDLE_SHARE: Final = 0.05  # of one core, below which a process counts as idle


class Activity:
    """Tells whether a process uses the processor.

    Args:
        pid: Its process id.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._process: psutil.Process | None = None
        self._used = 0.0

    def is_idle(self, seconds: float) -> bool:
        """Return whether it used no processor in the *seconds* since the last call.

        One that waits for a core or for a disk is not idle. False if the system does not say.
        """
        try:
            if self._process is None:
                self._process = psutil.Process(self._pid)
            times = self._process.cpu_times()
            status = self._process.status()
        except (psutil.Error, OSError):  # no such process, or no descriptor left to look
            return False
        before, self._used = self._used, times.user + times.system
        if self._used - before >= IDLE_SHARE * seconds:
            return False
        return status not in (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP)


class Heartbeat:
    """Counts the checks in a row that a worker has not answered.

    Checks are counted, not seconds: while the server itself does not run, none is missed.
    """

    def __init__(self) -> None:
        self._missed = 0
        self._idle = 0

    @property
    def is_silent(self) -> bool:
        """Whether the worker has missed so many checks that it is worth a report."""
        return self._missed >= MAX_UNREPORTED

    def check(self, *, answered: bool, idle: bool, loading: bool) -> DeathReason | None:
        """Count a check; return why the worker is to be ended, or None.

        Args:
            answered: Whether anything came from the worker since the last check.
            idle: Whether it used no processor since then.
            loading: Whether it loads a model: then it may be busy for as long as its load
                makes progress.
        """
        if answered:
            self._missed = self._idle = 0
            return None
        self._missed += 1
        self._idle += idle
        if self._idle >= MAX_IDLE:
            return DeathReason.STOPPED
        return DeathReason.STUCK if self._missed >= MAX_BUSY and not loading else None
