"""A bulk job whose units are done on the nodes of a Ray cluster."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import click

from embedd.bulk.commit import JOB, Counts, finished_parts
from embedd.bulk.finished import check_apart, check_outside
from embedd.bulk.folder import JobFolder
from embedd.bulk.opening import folder_of
from embedd.bulk.parts import Output
from embedd.bulk.sources import STDIN, Format, find_paths
from embedd.cli.bulk.display import describe_computer
from embedd.cli.bulk.running import Request, Run, Work, check_format, complete, hold_lock, say
from embedd.errors import ExtraMissingError, InvalidInputError, ServiceError, UnavailableError
from embedd.ray.dispatch import Dispatcher
from embedd.ray.probe import open_probe
from embedd.ray.worker import Outcome, Task, fingerprint_of

if TYPE_CHECKING:
    from embedd.ray.protocol import Cluster, Node

NOTICE_SECONDS: Final = 30.0
SIGHT_SECONDS: Final = 90  # until a part is seen here: NFS caches folders for up to 60 s


async def run_on_ray(request: Request, address: str, threads: int | None) -> int:
    """Do what the command says on the cluster at *address*, and return its exit status.

    Args:
        threads: Cores of a worker; None: those of the smallest node.

    Raises:
        EmbeddError: An input, an option, a node or what computes is at fault; finished parts
            stay.
    """
    if request.options.output is Output.STDOUT or STDIN in request.inputs:
        raise InvalidInputError("--ray needs files: stdin and stdout are of this machine alone")
    if find_spec("ray") is None:
        raise ExtraMissingError("--ray", "ray")
    from embedd.ray.cluster import open_cluster

    async with open_cluster(address) as cluster:
        return await run_on_cluster(request, cluster, threads)


async def run_on_cluster(request: Request, cluster: "Cluster", threads: int | None) -> int:
    """See `run_on_ray`."""
    nodes = cluster.nodes()
    cores = threads or _choose_cores(nodes)
    nodes = [node for node in nodes if node.cores >= cores]
    if not nodes:
        click.echo(f"no node has {cores} cores: waiting for one to join the cluster", err=True)
    form = None if request.form is None else Format(request.form)
    found = await asyncio.to_thread(find_paths, request.inputs, form)
    check_format(request.form, [form for _, form in found])
    inputs = [path for path, _ in found]
    check_apart(inputs, request.target, is_folder=request.options.output is Output.FOLDER)
    check_outside(request.inputs, request.target)
    index, of = request.shard
    target, output = request.target.absolute(), request.options.output
    folder = folder_of(target, output, f"{index}-of-{of}", notify=say)
    async with hold_lock(folder):
        return await _run_locked(request, cluster, folder, inputs, nodes=nodes, cores=cores)


async def _run_locked(
    request: Request,
    cluster: "Cluster",
    folder: JobFolder,
    inputs: Sequence[str],
    *,
    nodes: Sequence["Node"],
    cores: int,
) -> int:
    with open_probe(folder, inputs) as probe:
        faults = await cluster.find_faults(probe, nodes)
        if faults:
            raise UnavailableError("\n".join(faults))
        task = Task(
            probe=probe,
            shard=folder.shard,
            output=request.options.output,
            wanted=request.options.wanted,
            servers=tuple(request.servers),
            cores=cores,
            mixed=request.mixed,
        )
        room = sum(node.cores // cores for node in nodes)
        dispatcher = Dispatcher(lambda: cluster.start(task), room=room, mixed=request.mixed)
        try:
            return await _run(
                request, dispatcher, folder, f"{len(nodes)}, cores of a worker: {cores}"
            )
        finally:
            dispatcher.close()


async def _run(request: Request, dispatcher: Dispatcher, folder: JobFolder, place: str) -> int:
    notice = asyncio.get_running_loop().call_later(NOTICE_SECONDS, _say_it_waits)
    try:
        model, served_by = await dispatcher.open()
    finally:
        notice.cancel()
    say(describe_computer(request.options.wanted.model, served_by, f"Ray, nodes: {place}"))
    return await complete(request, model, folder, lambda work: _make_run(work, dispatcher, folder))


def _say_it_waits() -> None:
    click.echo(
        "no worker is ready yet: its cores may be in use (`ray status` shows by what), or it "
        "pulls the model",
        err=True,
    )


def _choose_cores(nodes: Sequence["Node"]) -> int:
    if not nodes:
        raise InvalidInputError(
            "no node of the cluster has cores yet: say with --threads how many a worker uses"
        )
    return min(node.cores for node in nodes)


def _make_run(work: Work, dispatcher: Dispatcher, folder: JobFolder) -> Run:
    """Return what does *work* on the workers of *dispatcher*."""
    fingerprint = fingerprint_of(folder.read(JOB) or b"")
    ranges = {unit.part: unit.range for unit in work.units or ()}

    total = Counts()

    def report(outcome: Outcome) -> None:
        nonlocal total
        counts = outcome.counts
        total += counts
        rows = counts.rows + counts.errors
        planned = ranges[outcome.part]
        work.progress.skip(planned.rows - rows)
        work.progress.add(rows, counts.tokens, counts.cut, counts.errors, planned.size)
        work.progress.finish_part()
        if counts.errors:
            work.budget.add(counts.errors, outcome.examples)

    async def run(stop: asyncio.Event) -> Counts:
        await dispatcher.run(list(ranges), fingerprint, report, stop)
        if work.progress.is_complete:
            await wait_for_parts(folder, work.job.options.output, ranges)
        return total

    return run


async def wait_for_parts(
    folder: JobFolder,
    output: Output,
    parts: Collection[int],
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Return once *parts*, which other machines have written, are seen here.

    Raises:
        ServiceError: One is not after `SIGHT_SECONDS`.
    """
    for _ in range(SIGHT_SECONDS):
        missing = set(parts) - finished_parts(folder, output)
        if not missing:
            return
        await sleep(1.0)
    raise ServiceError(
        f"part {min(missing)} is written, and is not in {folder.root} after {SIGHT_SECONDS} s: "
        "check that all nodes have the same folder there, and run the same command again"
    )
