"""What a job needs of a cluster: nodes that can be asked, and workers that can be started."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from embedd.errors import UnavailableError
from embedd.ray.probe import Probe
from embedd.ray.worker import Opened, Outcome, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine of a cluster.

    Args:
        cores: Of which it has that many for workers, free or not.
    """

    id: str
    name: str
    cores: int


class LostWorkerError(UnavailableError):
    """A worker has ended, or its node has."""


class Worker(Protocol):
    """A `UnitWorker` on some node; starting it may have to wait for one."""

    async def open(self) -> Opened:
        """See `UnitWorker.open`.

        Raises:
            LostWorkerError: It has ended.
        """
        ...

    async def run(self, part: int, fingerprint: str) -> Outcome:
        """See `UnitWorker.run`.

        Raises:
            LostWorkerError: It has ended.
        """
        ...

    def end(self) -> None:
        """End its process, if that still runs."""
        ...


class Cluster(Protocol):
    """Several nodes."""

    def nodes(self) -> list[Node]:
        """Return the nodes that are alive and have cores."""
        ...

    async def find_faults(self, probe: Probe, nodes: Sequence[Node]) -> list[str]:
        """Return what *nodes* lack for a job: nothing for those that can do it."""
        ...

    def start(self, task: Task) -> Worker:
        """Return a worker, which starts where there is room, now or later."""
        ...
