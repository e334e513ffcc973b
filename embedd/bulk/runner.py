"""Runs units: read, embedded and committed, some at a time."""

import asyncio
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Final, TypeAlias

import numpy as np

from embedd.bulk.commit import Counts, PartRecord, Sink, identify
from embedd.bulk.compute import Pool, Wanted, numpy_type
from embedd.bulk.job import BETWEEN, Job, describe_vectors
from embedd.bulk.parts import is_typed, make_part, output_columns
from embedd.bulk.progress import Progress
from embedd.bulk.reading import Rows, open_reader
from embedd.bulk.records import Failure
from embedd.bulk.stdin import ReadingStoppedError
from embedd.bulk.unit import choose_error, embed_rows
from embedd.bulk.units import Unit
from embedd.errors import ServiceError

# Units with their rows, each read when its turn comes.
UnitsWithRows: TypeAlias = Generator[tuple[Unit, Rows], None, None]

UNITS_IN_WORK = 2  # for each server: one is computed while another is read or written


NAMED: Final = 5  # rows that failed, in the error that stops a job


class ErrorBudgetError(ServiceError):
    """More rows failed than the job allows."""


@dataclass(slots=True, kw_only=True)
class ErrorBudget:
    """How many rows may fail.

    Args:
        most: None: any number.
        count: Rows that have failed, in parts of earlier runs too.
    """

    most: int | None = None
    count: int = 0

    def add(self, failed: int, examples: Sequence[str]) -> None:
        """Count rows that failed, of which *examples* name some with their files and faults.

        Raises:
            ErrorBudgetError: They are more than allowed.
        """
        self.count += failed
        if self.most is not None and self.count > self.most:
            raise ErrorBudgetError(
                f"rows that failed: {self.count}, allowed: {self.most} (--errors, --max-errors): "
                "allow more, or mend the rows and begin anew with --restart:\n  "
                + "\n  ".join(examples)
            )


def name_some(failures: Sequence[Failure]) -> list[str]:
    """Return the first of *failures* in words."""
    return [str(one) for one in failures[:NAMED]]


def read_units(job: Job, units: Iterable[Unit]) -> UnitsWithRows:
    """Yield *units* of *job* with their rows; the file of one source is open at a time."""
    typed = is_typed(job.options.output)
    for source, some in groupby(units, key=lambda unit: unit.source):
        reader = open_reader(job.planned[source].source, job.selection, typed=typed)
        with closing(reader):
            for unit in some:
                yield unit, reader.read(unit)


async def run_units(
    job: Job,
    work: UnitsWithRows,
    *,
    pool: Pool,
    sink: Sink,
    progress: Progress,
    budget: ErrorBudget,
    stop: asyncio.Event,
) -> Counts:
    """Run units in order, some at a time, until they are done or *stop* is set.

    When it is set, the units in work are finished and no others begun.

    Args:
        work: Units with their rows, each read when its turn comes; see `read_units`.

    Raises:
        EmbeddError: A unit failed, as a whole; those in work are given up.
    """
    progress.count_waits = lambda: pool.waits
    room = asyncio.Semaphore(UNITS_IN_WORK * pool.size)
    total = Counts()
    is_read = False

    async def finish(unit: Unit, rows: Rows, start: float) -> None:
        nonlocal total
        try:
            record = await run_unit(
                job,
                unit,
                rows,
                pool=pool,
                sink=sink,
                progress=progress,
                budget=budget,
                start=start,
            )
            total += record.counts
        finally:
            room.release()

    try:
        async with asyncio.TaskGroup() as group:
            while not stop.is_set():
                await room.acquire()
                start = time.perf_counter()
                if stop.is_set():
                    break
                try:
                    read = await _read_next(work)
                except ReadingStoppedError:
                    break
                if read is None:
                    is_read = True
                    break
                unit, rows = read
                group.create_task(finish(unit, rows, start))
    except BaseExceptionGroup as errors:
        raise choose_error(errors) from errors
    finally:
        work.close()
    if is_read:
        progress.end()
    return total


async def _read_next(work: UnitsWithRows) -> tuple[Unit, Rows] | None:
    """The next unit, read in a thread, which has ended when this call has."""
    reading = asyncio.ensure_future(asyncio.to_thread(next, work, None))
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        while not reading.done():
            with suppress(asyncio.CancelledError):  # nothing ends a thread
                await asyncio.wait([reading])
        raise


async def run_unit(
    job: Job,
    unit: Unit,
    rows: Rows,
    *,
    pool: Pool,
    sink: Sink,
    progress: Progress,
    budget: ErrorBudget,
    start: float,
) -> PartRecord:
    """Embed the *rows* of a unit and commit its part; repeating it is harmless."""
    wanted = job.options.wanted
    empty = np.zeros((0, job.model.width), numpy_type(wanted.dtype))

    def report(done: int, tokens: int, cut: int, failed: int, share: float) -> None:
        progress.add(done, tokens, cut, failed, share * unit.range.size)

    progress.skip(unit.range.rows - len(rows.texts) - len(rows.failures))
    embedded = await embed_rows(rows, pool, report, empty=empty, advice=_advise(wanted))
    if embedded.failures:
        budget.add(len(embedded.failures), name_some(embedded.failures))
    columns = output_columns(job.selection, chunked=wanted.chunk is not None)
    served_by = BETWEEN.join(embedded.served_by) or pool.served_by
    record = PartRecord(
        counts=Counts(
            rows=len(rows.texts) + len(rows.failures) - len(embedded.failures),
            vectors=len(embedded.vectors),
            errors=len(embedded.failures),
            tokens=embedded.tokens,
            cut=embedded.cut,
            left_out=tuple(rows.left_out) if job.keeps_all else (),
        ),
        seconds=round(time.perf_counter() - start, 3),
        served_by=served_by,
        unit=identify(job, unit) if job.planned else "",
        failures=tuple(embedded.failures),
    )
    facts = describe_vectors(job, served_by)
    part = await asyncio.to_thread(make_part, rows, embedded, columns, facts)
    await sink.commit(unit, part, record)
    progress.finish_part()
    return record


def _advise(wanted: Wanted) -> str:
    """Return what to do about a text that is too long, by the options of the command."""
    if wanted.cut:  # and still too long: the prompt takes all tokens
        return "shorten the model's prompt, or leave it out with --input-type none"
    return "shorten it, or use --too-long cut, or --chunk"
