"""Closed sets of reasons and their kin: what labels of metrics may be."""

from enum import StrEnum


class Unload(StrEnum):
    """Why a model left the memory."""

    EXPIRED = "expired"  # idle for its keep_alive
    ASKED = "asked"  # keep_alive 0, stopped or deleted
    EVICTED = "evicted"  # another one needed the room
    BROKEN = "broken"  # its worker could not be brought back


class LoadFailure(StrEnum):
    """Why a model did not come into memory."""

    MEMORY = "memory"  # it needs more than there is, or than it may have
    TIMEOUT = "timeout"  # no progress
    MODEL = "model"  # its file cannot be used, or no backend computes it
    INTERNAL = "internal"  # anything else


class DeathReason(StrEnum):
    """How a worker ended."""

    MEMORY = "memory"  # the kernel ended it, for there was none left
    STUCK = "stuck"  # the watchdog ended it: it did not stop a batch that took too long
    KILLED = "killed"  # by a signal from outside
    CRASHED = "crashed"  # by a signal of its own doing
    EXITED = "exited"  # with a status


class Overload(StrEnum):
    """What was full when a request was refused."""

    TOKENS = "tokens"  # those that wait for a batch
    LOADS = "loads"  # requests that wait for models to load


class Awaited(StrEnum):
    """What a request waits for."""

    LOAD = "load"
    BATCH = "batch"
