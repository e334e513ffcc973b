"""What a node does for a bulk job: units are read, embedded and committed where it runs."""

import asyncio
import hashlib
import socket
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from embedd.bulk.commit import JOB, Counts, FolderSink, PartRecord, read_backend
from embedd.bulk.compute import Pool, Wanted
from embedd.bulk.folder import JobFolder
from embedd.bulk.job import Job, Model, decode_job
from embedd.bulk.opening import open_folder
from embedd.bulk.parts import Output, Part, is_typed
from embedd.bulk.progress import Progress
from embedd.bulk.reading import Reader, Rows, open_reader
from embedd.bulk.runner import ErrorBudget, name_some, run_unit
from embedd.bulk.units import Unit
from embedd.computers import Connect, open_computers
from embedd.config import Settings, parse_host, read_settings
from embedd.errors import EmbeddError, ModelNotFoundError, ServiceError
from embedd.ray.probe import Probe, find_fault
from embedd.runtime import find_spec, open_library


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a worker needs before it knows the job.

    Args:
        shard: Whose temporary files those of this worker are; see `Folder`.
        servers: URLs; none: the worker computes.
        cores: For its runtime.
        mixed: Whether vectors may be of several backends.
    """

    probe: Probe
    shard: str
    output: Output
    wanted: Wanted
    servers: tuple[str, ...] = ()
    cores: int
    mixed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A worker that is ready, or why it is not.

    Args:
        host: Name of its machine.
        served_by: What computes, as ``X-Embedd-Model`` says it.
        fault: Empty, or what is wrong; the other values are unknown then.
    """

    host: str
    model: Model | None = None
    served_by: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a part came to, or why there is none.

    Args:
        examples: Some of its rows that failed, with their files and faults.
        fault: Empty, or why the part as a whole failed.
    """

    part: int
    host: str
    counts: Counts = field(default_factory=Counts)
    examples: Sequence[str] = ()
    fault: str = ""


class UnitWorker:
    """Does units of a job in the process that makes it; it raises nothing of embedd's own.

    Errors are values here: they pass from one machine to another, where only their text counts.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._host = socket.gethostname()
        self._stack = AsyncExitStack()
        self._folder = open_folder(task.probe.root, task.shard)
        self._pool: Pool | None = None
        self._served_by = ""
        self._job: tuple[str, Job, list[Unit]] | None = None
        self._reader: tuple[int, Reader] | None = None
        self._reading = asyncio.Lock()

    async def open(self) -> Opened:
        """Check the machine and load the model; one that is not stored is pulled."""
        task = self._task
        fault = await asyncio.to_thread(find_fault, task.probe)
        if fault:
            return Opened(host=self._host, fault=fault)
        settings = replace(read_settings(), threads=task.cores)
        try:
            if not task.servers:
                await asyncio.to_thread(provide_model, settings, task.wanted.model)
            computers = await self._stack.enter_async_context(
                open_computers(
                    settings,
                    task.wanted,
                    [parse_host(url) for url in task.servers],
                    connect=make_connect(settings),
                    mixed=task.mixed,
                )
            )
        except (EmbeddError, OSError) as error:
            return Opened(host=self._host, fault=str(error))
        self._served_by = computers.served_by
        backend = read_backend(self._folder) or computers.served_by
        self._pool = Pool(computers.computes, served_by=backend, mixed=task.mixed)
        return Opened(host=self._host, model=computers.model, served_by=computers.served_by)

    async def run(self, part: int, fingerprint: str) -> Outcome:
        """Do one unit of the job whose record has *fingerprint*; repeating it is harmless."""
        try:
            record = await self._run(part, fingerprint)
        except (EmbeddError, OSError) as error:
            return Outcome(part=part, host=self._host, fault=str(error))
        examples = name_some(record.failures)
        return Outcome(part=part, host=self._host, counts=record.counts, examples=examples)

    async def close(self) -> None:
        """End what computes."""
        self._close_reader()
        await self._stack.aclose()

    async def _run(self, part: int, fingerprint: str) -> PartRecord:
        if self._pool is None:
            raise ServiceError("the worker has not been opened")
        start = time.perf_counter()
        job, units = self._read_job(fingerprint)
        unit = units[part]
        async with self._reading:  # the file of one source is open at a time
            rows = await asyncio.to_thread(self._read, job, unit)
        sink = FencedSink(
            FolderSink(self._folder, self._task.output, mixed=self._task.mixed),
            self._folder,
            fingerprint,
        )
        return await run_unit(
            job,
            unit,
            rows,
            pool=self._pool,
            sink=sink,
            progress=Progress(rows=None, size=None, parts=None),
            budget=ErrorBudget(),
            start=start,
        )

    def _read_job(self, fingerprint: str) -> tuple[Job, list[Unit]]:
        if self._job is None or self._job[0] != fingerprint:
            job = decode_job(read_fenced(self._folder, fingerprint))
            self._job = fingerprint, job, job.units()
        return self._job[1:]

    def _read(self, job: Job, unit: Unit) -> Rows:
        if self._reader is None or self._reader[0] != unit.source:
            self._close_reader()
            source = job.planned[unit.source].source
            typed = is_typed(job.options.output)
            self._reader = unit.source, open_reader(source, job.selection, typed=typed)
        return self._reader[1].read(unit)

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader[1].close()
            self._reader = None


class FencedSink:
    """Commits parts as long as their job is that of the folder.

    A worker may outlive its command by seconds: meanwhile another command may have begun a new
    job in the folder, to which its parts do not belong.
    """

    def __init__(self, sink: FolderSink, folder: JobFolder, fingerprint: str) -> None:
        self._sink = sink
        self._folder = folder
        self._fingerprint = fingerprint

    async def commit(self, unit: Unit, part: Part, record: PartRecord) -> None:
        """See `Sink`."""
        await asyncio.to_thread(read_fenced, self._folder, self._fingerprint)
        await self._sink.commit(unit, part, record)


def fingerprint_of(record: bytes) -> str:
    """Return what identifies the record of a job."""
    return hashlib.sha256(record).hexdigest()


def read_fenced(folder: JobFolder, fingerprint: str) -> bytes:
    """Return the record of the job of *folder*.

    Raises:
        ServiceError: It is not the one that has *fingerprint*.
    """
    record = folder.read(JOB) or b""
    if fingerprint_of(record) != fingerprint:
        raise ServiceError(f"another command has changed the job in {folder.root}")
    return record


def provide_model(settings: Settings, name: str) -> None:
    """Pull the model *name* if the store of this machine does not have it."""
    try:
        find_spec(settings, name)
    except ModelNotFoundError:
        open_library(settings).pull(name)


def make_connect(settings: Settings) -> Connect:
    """Return what opens clients with the API key of this machine's settings."""
    from embedd.client import Client  # noqa: PLC0415 - only a job with servers needs it

    return lambda address: Client(address, key=settings.client_key)
