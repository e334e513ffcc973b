"""A cluster in this process: workers do what a test says, or are those of the real thing."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from embedd.bulk.commit import Counts
from embedd.bulk.job import Model
from embedd.ray.probe import Probe, find_fault
from embedd.ray.protocol import LostWorkerError, Node
from embedd.ray.worker import Opened, Outcome, Task, UnitWorker

MODEL = Model(digest="0123456789ab", prefix="", width=4)
SERVED_BY = "0123456789ab;engine=fake;backend=llama;tokenizer=llama"
OPENED = Opened(host="a", model=MODEL, served_by=SERVED_BY)
LOST = LostWorkerError("the node has ended")


@dataclass
class FakeWorker:
    """Opens and runs as it is told; see `FakeWorkers`."""

    number: int
    workers: "FakeWorkers"
    in_work: int = 0
    is_lost: bool = False
    has_ended: bool = False

    async def open(self) -> Opened:
        await asyncio.sleep(0)
        opened = self.workers.opens(self.number)
        if opened is None:
            await asyncio.Event().wait()  # for a node that never comes
            raise LOST
        return opened

    async def run(self, part: int, fingerprint: str) -> Outcome:
        assert fingerprint == "the job"
        self.in_work += 1
        self.workers.most_in_work = max(self.workers.most_in_work, self.in_work)
        self.workers.begun.append((self.number, part))
        for _ in range(1 + (part * 7 + self.number) % 3):
            await asyncio.sleep(0)
        outcome = None if self.is_lost else self.workers.runs(self, part)
        if outcome is None:
            self.is_lost = True
            raise LOST
        self.in_work -= 1
        return outcome

    def end(self) -> None:
        self.has_ended = True


def open_all(number: int) -> Opened | None:
    """All workers open."""
    del number
    return OPENED


def run_all(worker: FakeWorker, part: int) -> Outcome | None:
    """All parts succeed."""
    del worker
    return Outcome(part=part, host="a", counts=Counts(rows=1, vectors=1))


@dataclass
class FakeWorkers:
    """Workers whose behaviour a test chooses.

    Attributes:
        opens: What the worker of this number says; None: it is never ready; may raise.
        runs: What a part comes to; None: the worker is lost.
        begun: Workers and their parts, in the order in which they were given to them.
    """

    opens: Callable[[int], Opened | None] = open_all
    runs: Callable[[FakeWorker, int], Outcome | None] = run_all
    started: list[FakeWorker] = field(default_factory=list)
    begun: list[tuple[int, int]] = field(default_factory=list)
    most_in_work: int = 0

    def start(self) -> FakeWorker:
        self.started.append(FakeWorker(len(self.started), self))
        return self.started[-1]


@dataclass
class LocalCluster:
    """Nodes that are this process: workers are real, and see this machine's files.

    Attributes:
        found: The nodes.
        faults: What they lack besides.
        tasks: Of all workers that were started.
    """

    found: list[Node]
    faults: list[str] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    workers: list[UnitWorker] = field(default_factory=list)

    def nodes(self) -> list[Node]:
        return self.found

    async def find_faults(self, probe: Probe, nodes: Sequence[Node]) -> list[str]:
        own = [f"{node.name}: {fault}" for node in nodes if (fault := find_fault(probe))]
        return own + self.faults

    def start(self, task: Task) -> "LocalWorker":
        self.tasks.append(task)
        return LocalWorker(UnitWorker(task))


class LocalWorker:
    """A `UnitWorker` of this process."""

    def __init__(self, worker: UnitWorker) -> None:
        self._worker = worker
        self._closing: asyncio.Task[None] | None = None

    async def open(self) -> Opened:
        return await self._worker.open()

    async def run(self, part: int, fingerprint: str) -> Outcome:
        return await self._worker.run(part, fingerprint)

    def end(self) -> None:
        self._closing = self._closing or asyncio.ensure_future(self._worker.close())
