"""A Ray cluster: its nodes, and the workers that are started on them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from embedd.bulk.runner import UNITS_IN_WORK
from embedd.config import without_ray_statistics
from embedd.errors import ServiceError, UnavailableError
from embedd.ray.probe import Probe, find_fault
from embedd.ray.protocol import LostWorkerError, Node
from embedd.ray.worker import Opened, Outcome, Task, UnitWorker

PROBE_SECONDS: Final = 120.0  # for the first process of a node to start, and to look
T = TypeVar("T")


class RayCluster:
    """The cluster that this process is connected to."""

    def nodes(self) -> list[Node]:
        """See `Cluster`."""
        found = [
            Node(
                id=one["NodeID"],
                name=one["NodeManagerHostname"],
                cores=int(one["Resources"].get("CPU", 0)),
            )
            for one in ray.nodes()
            if one["Alive"]
        ]
        return [one for one in found if one.cores]

    async def find_faults(self, probe: Probe, nodes: Sequence[Node]) -> list[str]:
        """See `Cluster`; a node that ends meanwhile lacks nothing, because it gets no work."""
        check = ray.remote(num_cpus=0, max_retries=0)(find_fault)
        answers = [
            _ask_fault(
                check.options(
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
                ).remote(probe)
            )
            for node in nodes
        ]
        faults = zip(nodes, await asyncio.gather(*answers), strict=True)
        return [f"{node.name}: {fault}" for node, fault in faults if fault]

    def start(self, task: Task) -> "RayWorker":
        """See `Cluster`."""
        actor = ray.remote(UnitWorker).options(
            num_cpus=task.cores,
            max_concurrency=UNITS_IN_WORK + 1,
            max_restarts=0,
            scheduling_strategy="SPREAD",
        )
        return RayWorker(actor.remote(task))


class RayWorker:
    """A `UnitWorker` in a process of the cluster."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def open(self) -> Opened:
        """See `Worker`."""
        opened: Opened = await _ask(self._actor.open.remote())
        return opened

    async def run(self, part: int, fingerprint: str) -> Outcome:
        """See `Worker`."""
        outcome: Outcome = await _ask(self._actor.run.remote(part, fingerprint))
        return outcome

    def end(self) -> None:
        """See `Worker`; also one that Ray has not started yet."""
        ray.kill(self._actor)


@asynccontextmanager
async def open_cluster(address: str) -> AsyncIterator[RayCluster]:
    """Yield the cluster at *address*; all workers end with the block.

    Args:
        address: ``host:port``, or ``auto``: the one of RAY_ADDRESS, or that runs on this machine.

    Raises:
        UnavailableError: There is none.
    """
    without_ray_statistics()
    # In a thread, because Ray replaces the handlers of signals in the main thread.
    await asyncio.to_thread(_connect, address)
    try:
        yield RayCluster()
    finally:
        await asyncio.to_thread(ray.shutdown)


def _connect(address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UnavailableError(
            f"no Ray cluster answers at {address}: {_first_line(error)}; start one with "
            "`ray start --head`, or name its address as host:port"
        ) from error


def count_cores() -> int | None:
    """Return how many cores Ray has given to this process; None if Ray did not start it."""
    if not ray.is_initialized():
        return None
    resources = ray.get_runtime_context().get_assigned_resources()
    return max(1, int(resources.get("CPU", 0)))


async def _ask(reference: Awaitable[T]) -> T:
    try:
        return await reference
    except RayTaskError as error:
        raise ServiceError(f"a worker failed: {_last_line(error)}") from error
    except RayError as error:
        raise LostWorkerError(_first_line(error)) from error


async def _ask_fault(reference: Awaitable[str]) -> str:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            return await _ask(reference)
    except TimeoutError:
        return f"has not answered for {PROBE_SECONDS:.0f} seconds"
    except ServiceError as error:
        return f"cannot run embedd: {error}"
    except LostWorkerError:
        return ""


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2]
