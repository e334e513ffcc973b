"""The values that the labels of metrics can have."""

from enum import StrEnum


class Unload(StrEnum):
    """Why a model was unloaded."""

    EXPIRED = "expired"  # idle for its keep_alive
    ASKED = "asked"  # keep_alive 0, stopped or deleted
    EVICTED = "evicted"  # another model needed its memory
    SHUTDOWN = "shutdown"  # the server ended
    BROKEN = "broken"  # its worker could not be restarted


class LoadFailure(StrEnum):
    """Why a model was not loaded."""

    MEMORY = "memory"  # it needs more than there is, or than the budget
    TIMEOUT = "timeout"  # no progress
    MODEL = "model"  # its file cannot be used, or no backend computes it
    INTERNAL = "internal"  # anything else


class DeathReason(StrEnum):
    """How a worker ended."""

    MEMORY = "memory"  # the kernel ended it: out of memory
    STUCK = "stuck"  # the watchdog ended it: it computed for too long, or did not answer
    STOPPED = "stopped"  # the watchdog ended it: it did nothing, as when another process stops it
    KILLED = "killed"  # by a signal from outside
    CRASHED = "crashed"  # by a signal that it caused
    EXITED = "exited"  # with an exit status


class Overload(StrEnum):
    """Which limit a refused request would have passed."""

    WAIT = "wait"  # the time until its first batch could start
    LOADS = "loads"  # requests that wait for models to load
    PICTURES = "pictures"  # that wait for a model that paints another one


class Awaited(StrEnum):
    """What a request waits for."""

    LOAD = "load"
    BATCH = "batch"
    PICTURE = "picture"  # that is painted before
