"""Finished units: the part put into place with its record, or its rows sent to a stream."""

import asyncio
import hashlib
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import msgspec

from embedd.bulk.compute import MixedBackendsError
from embedd.bulk.folder import RECORDS, JobFolder, hash_file, naming
from embedd.bulk.job import Job, decode_job
from embedd.bulk.parts import SUFFIXES, Output, Part, render_json, write_part
from embedd.bulk.reading import MOST_NAMES
from embedd.bulk.records import Failure
from embedd.bulk.units import Unit
from embedd.errors import ServiceError

SUCCESS: Final = "_SUCCESS"
ERRORS: Final = "errors.jsonl"
BACKEND: Final = f"{RECORDS}/backend"  # what computed the first part
JOB: Final = f"{RECORDS}/job.json"
READERS, AT_ONCE = 16, 1000  # records of a store that are read at a time
FAILURE_KEYS: Final = tuple(field.name for field in fields(Failure))
_PART: Final = re.compile(r"part-(\d{6,})\.[a-z]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a part, or several, came to.

    Args:
        rows: With a vector or several.
        vectors: Of them.
        errors: Rows without one.
        tokens: That were computed.
        cut: Texts that were cut.
        left_out: Some of the fields that rows have and the output has not, though it has all that
            were known when the job began.
    """

    rows: int = 0
    vectors: int = 0
    errors: int = 0
    tokens: int = 0
    cut: int = 0
    left_out: tuple[str, ...] = ()

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            rows=self.rows + other.rows,
            vectors=self.vectors + other.vectors,
            errors=self.errors + other.errors,
            tokens=self.tokens + other.tokens,
            cut=self.cut + other.cut,
            left_out=tuple(dict.fromkeys([*self.left_out, *other.left_out]))[:MOST_NAMES],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRecord:
    """What is known of a part besides its rows.

    Args:
        served_by: What computed it, as ``X-Embedd-Model`` says it; several backends, which
            only a job that allows it has, with `BETWEEN` between them.
        bytes: Of the file.
        sha256: Of the file.
        unit: What the part is of, see `identify`.
    """

    counts: Counts
    seconds: float
    served_by: str
    bytes: int = 0
    sha256: str = ""
    unit: str = ""
    failures: tuple[Failure, ...] = ()


class Sink(Protocol):
    """Where finished units go."""

    async def commit(self, unit: Unit, part: Part, record: PartRecord) -> None:
        """Keep *part* for good."""
        ...


class FolderSink:
    """Puts parts into a folder; a part that has its name is complete.

    Args:
        mixed: Whether parts may be of several backends; else the first part decides, also for
            other shards.
    """

    def __init__(self, folder: JobFolder, output: Output, *, mixed: bool = False) -> None:
        self._folder = folder
        self._output = output
        self._mixed = mixed
        self._writing = asyncio.Lock()  # one part at a time: what writes a table copies it
        self._known: tuple[bytes, frozenset[str]] = b"", frozenset()

    async def commit(self, unit: Unit, part: Part, record: PartRecord) -> None:
        """See `Sink`; repeating it gives the same file."""
        async with self._writing:
            await asyncio.to_thread(self._commit, unit, part, record)

    def _commit(self, unit: Unit, part: Part, record: PartRecord) -> None:
        if not self._folder.is_exclusive:
            self._check_job(record)
        if record.served_by and not self._mixed:  # nothing computes a part without vectors
            self._check_backend(record.served_by)

        def fill(path: Path) -> None:
            write_part(path, part, self._output)
            size, digest = path.stat().st_size, hash_file(path)
            # Before the part has its name, so that none is without a record.
            write_record(self._folder, unit.part, replace(record, bytes=size, sha256=digest))

        self._folder.add(part_name(unit.part, self._output), fill)

    def _check_job(self, record: PartRecord) -> None:
        """Check that no other command has taken the shard, or has begun another job."""
        self._folder.check_lock()
        data = self._folder.read(JOB)
        if data is not None and data != self._known[0]:
            job = decode_job(data)
            self._known = data, frozenset(identify_all(job) if job.planned else [""])
        if data is None or record.unit not in self._known[1]:
            raise ServiceError(f"another command has changed the job in {self._folder.root}")

    def _check_backend(self, served_by: str) -> None:
        before = read_backend(self._folder)
        if not before and self._folder.create(BACKEND, served_by.encode()):
            return
        before = before or read_backend(self._folder)  # another shard was first
        if before != served_by:
            raise MixedBackendsError(before, served_by)


class StreamSink:
    """Sends rows to a stream in the order of the units, and failures to another one."""

    def __init__(self, out: BinaryIO, errors: BinaryIO) -> None:
        self._out = out
        self._errors = errors
        self._next = 0
        self._turn = asyncio.Condition()

    async def commit(self, unit: Unit, part: Part, record: PartRecord) -> None:
        """See `Sink`; units must come to it with the numbers 0, 1, 2 …."""
        async with self._turn:
            await self._turn.wait_for(lambda: self._next == unit.part)
            await asyncio.to_thread(self._write, part, record)
            self._next += 1
            self._turn.notify_all()

    def _write(self, part: Part, record: PartRecord) -> None:
        with naming("stdout"):
            self._out.writelines(render_json(part))
            self._out.flush()
        self._errors.writelines(render_failures(record.failures))
        self._errors.flush()


def part_name(number: int, output: Output) -> str:
    """Return the name of the part of this number."""
    return f"part-{number:06d}{SUFFIXES[output]}"


def finished_parts(folder: JobFolder, output: Output) -> set[int]:
    """Return the numbers of the parts that have their name."""
    found = folder.list()
    names = (_PART.fullmatch(name) for name in found)
    numbers = (int(match[1]) for match in names if match)
    return {number for number in numbers if part_name(number, output) in found}


def complete_parts(folder: JobFolder, job: Job) -> set[int]:
    """Return the numbers of the parts of *job* that are complete.

    Each is as large as its record says: a copy of the folder may have been cut. In a store an
    upload may have been, or be of a command that had another job: there it is of its unit too.
    """
    output = job.options.output
    found = finished_parts(folder, output)
    if not found:
        return found
    sizes = folder.sizes()
    units = {} if folder.is_exclusive else dict(enumerate(identify_all(job)))

    def is_whole(number: int, record: PartRecord | None) -> bool:
        return (
            record is not None
            and record.bytes == sizes.get(part_name(number, output))
            and (folder.is_exclusive or record.unit == units.get(number, ""))  # a stream has none
        )

    numbers = sorted(found)
    records = read_records(folder, numbers)
    return {n for n, record in zip(numbers, records, strict=True) if is_whole(n, record)}


def identify(job: Job, unit: Unit) -> str:
    """Return what identifies the vectors of *unit*: all that decides them."""
    files = job.planned[unit.source].source.files
    if len(files) > 1:  # of documents: only those of the unit
        files = files[unit.range.start : unit.range.end]
    facts = (job.version, job.options, job.model, job.selection, unit, files)
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()[:32]


def identify_all(job: Job) -> Iterator[str]:
    """Yield the `identify` of each unit of *job*."""
    return (identify(job, unit) for unit in job.units())


def read_backend(folder: JobFolder) -> str:
    """Return what the first part was computed by; empty if there is none."""
    return (folder.read(BACKEND) or b"").decode()


def write_record(folder: JobFolder, number: int, record: PartRecord) -> None:
    """Write the record of a part."""
    folder.replace(f"{RECORDS}/part-{number:06d}.json", msgspec.json.encode(record))


def read_record(folder: JobFolder, number: int) -> PartRecord | None:
    """Return the record of a part; None if it is missing or damaged."""
    data = folder.read(f"{RECORDS}/part-{number:06d}.json")
    try:
        return None if data is None else msgspec.json.decode(data, type=PartRecord)
    except msgspec.MsgspecError:
        return None


def read_records(folder: JobFolder, numbers: Iterable[int]) -> Iterator[PartRecord | None]:
    """Yield the record of each part, see `read_record`; those of a store many at a time."""
    if folder.is_exclusive:
        yield from (read_record(folder, number) for number in numbers)
        return
    with ThreadPoolExecutor(READERS) as threads:
        left = iter(numbers)
        while some := list(islice(left, AT_ONCE)):
            yield from threads.map(lambda number: read_record(folder, number), some)


def render_failures(failures: Iterable[Failure]) -> Iterator[bytes]:
    """Yield each failure as a line of JSON, without the keys that do not apply."""
    for failure in failures:
        keys = {key: getattr(failure, key) for key in FAILURE_KEYS}
        yield msgspec.json.encode({k: v for k, v in keys.items() if v is not None}) + b"\n"
