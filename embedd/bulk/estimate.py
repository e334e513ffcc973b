"""What a job will come to, from a sample of its rows: ``--dry-run``."""

import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from embedd.bulk.columns import INT, ROW, Column
from embedd.bulk.compute import Pool, numpy_type
from embedd.bulk.job import Job
from embedd.bulk.parts import (
    Output,
    Part,
    is_typed,
    make_part,
    output_columns,
    take_values,
    write_part,
)
from embedd.bulk.reading import Rows, open_reader
from embedd.bulk.runner import choose_error, describe
from embedd.bulk.unit import Embedded, embed_rows
from embedd.bulk.units import Unit

SAMPLED_UNITS: Final = 8
SAMPLED_ROWS: Final = 4_000
WARM_UP_ROWS: Final = 500  # that are embedded before the time counts
MOST_REPEATS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a job will come to.

    Args:
        bytes: Of the output.
        seconds: At the speed of the sample.
        sampled: Rows of the sample.
    """

    rows: int
    vectors: int
    tokens: int
    cut: int
    errors: int
    bytes: int
    seconds: float
    sampled: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """Some rows of a unit, each with a text of its own, and what the whole unit has.

    Args:
        texts: Rows with a text.
        failures: Rows that cannot be read.
        distinct: Texts that are computed, of which equal ones are computed once.
        characters: Of those.
    """

    unit: Unit
    rows: Rows
    texts: int
    failures: int
    distinct: int
    characters: int

    @property
    def of_texts(self) -> float:
        """How many rows of the unit each of the sample stands for."""
        return self.texts / max(1, len(self.rows.texts))

    @property
    def repeats(self) -> int:
        """How often the unit has each of its texts, which it is then compressed with."""
        return min(MOST_REPEATS, round(self.texts / max(1, self.distinct))) or 1

    @property
    def of_distinct(self) -> float:
        """How many computed texts each of the sample stands for."""
        return self.distinct / max(1, len(self.rows.texts))

    @property
    def of_characters(self) -> float:
        """How many computed characters each of the sample stands for."""
        return self.characters / max(1, sum(map(len, self.rows.texts)))


async def estimate(
    job: Job,
    units: Sequence[Unit],
    pool: Pool,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Estimate:
    """Return what *units* will come to; a sample of their rows is embedded for it.

    Raises:
        EmbeddError: What computes them fails, and not because of a text.
    """
    samples = await asyncio.to_thread(_read_samples, job, units)
    if sum(one.texts for one in samples) > sum(len(one.rows.texts) for one in samples):
        # The first batches of a model take longer, and stand for themselves alone.
        await _embed(job, [_take_first(samples[0].rows)], pool)
    start = clock()
    embedded = await _embed(job, [one.rows for one in samples], pool)
    seconds = clock() - start
    pairs = list(zip(samples, embedded, strict=True))
    # Lengths differ from unit to unit: what grows with the text is scaled by its bytes.
    by_rows = _ratio([one.range.rows for one in units], [one.unit.range.rows for one in samples])
    by_size = _ratio([one.range.size for one in units], [one.unit.range.size for one in samples])
    rows = by_rows * sum(one.texts + one.failures for one in samples)
    errors = by_rows * sum(
        one.failures + one.of_texts * (len(done.failures) - len(one.rows.failures))
        for one, done in pairs
    )
    tokens = by_size * sum(one.of_characters * done.tokens for one, done in pairs)
    vectors = rows - errors
    if job.options.wanted.chunk is not None:
        vectors = by_size * sum(one.of_texts * len(done.vectors) for one, done in pairs)
    size = await asyncio.to_thread(_measure, job, pairs, pool.served_by)
    files = len(units) if job.options.output is Output.FOLDER else 1
    computed = sum(done.tokens for _, done in pairs)
    return Estimate(
        rows=round(rows),
        vectors=round(vectors),
        tokens=round(tokens),
        cut=round(by_size * sum(one.of_distinct * done.cut for one, done in pairs)),
        errors=round(errors),
        bytes=round(size.vector * vectors + size.others * by_size + size.file * files),
        seconds=seconds * tokens / computed if computed else 0.0,
        sampled=sum(len(one.rows.texts) + len(one.rows.failures) for one in samples),
    )


async def _embed(job: Job, samples: Sequence[Rows], pool: Pool) -> list[Embedded]:
    empty = np.zeros((0, job.model.width), numpy_type(job.options.wanted.dtype))
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(embed_rows(rows, pool, lambda *_: None, empty=empty))
                for rows in samples
            ]
    except BaseExceptionGroup as failed:
        raise choose_error(failed) from failed
    return [task.result() for task in tasks]


def _take_first(rows: Rows) -> Rows:
    return Rows(
        file=rows.file,
        numbers=rows.numbers[:WARM_UP_ROWS],
        texts=rows.texts[:WARM_UP_ROWS],
        kept={},
    )


def _ratio(all_: Sequence[int], some: Sequence[int]) -> float:
    return sum(all_) / sum(some) if sum(some) else 0.0


def _read_samples(job: Job, units: Sequence[Unit]) -> list[_Sample]:
    """Rows of some units, all if they are few; the choice depends on the job alone."""
    if not units:
        return []
    step = max(1, len(units) // SAMPLED_UNITS)
    chosen = units[step // 2 :: step][:SAMPLED_UNITS]
    typed = is_typed(job.options.output)
    samples = []
    for unit in chosen:
        reader = open_reader(job.planned[unit.source].source, job.selection, typed=typed)
        try:
            samples.append(_thin(unit, reader.read(unit), SAMPLED_ROWS // len(chosen)))
        finally:
            reader.close()
    return samples


def _thin(unit: Unit, rows: Rows, most: int) -> _Sample:
    """At most *most* of *rows* with different texts, and those that fail in the same share."""
    first: dict[str, int] = {}
    for row, text in enumerate(rows.texts):
        first.setdefault(text, row)
    kept = list(first.values())
    failures = list(rows.failures)
    share = most / max(1, len(kept) + len(failures))
    if share < 1:
        chosen = random.Random(0)  # noqa: S311 - a sample, not a secret
        kept = sorted(chosen.sample(kept, round(share * len(kept))))
        failures = failures[: most - len(kept)]
    return _Sample(
        unit=unit,
        rows=Rows(
            file=rows.file,
            numbers=[rows.numbers[row] for row in kept],
            lines=[rows.lines[row] for row in kept] if rows.lines else None,
            texts=[rows.texts[row] for row in kept],
            kept={name: take_values(values, kept) for name, values in rows.kept.items()},
            id=rows.id,
            failures=failures,
        ),
        texts=len(rows.texts),
        failures=len(rows.failures),
        distinct=len(first),
        characters=sum(map(len, first)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bytes:
    """Bytes of the parts of a sample.

    Args:
        vector: Of a vector.
        others: Of the other columns of all units that were sampled.
        file: Of a file without rows.
    """

    vector: float
    others: float
    file: int


def _measure(job: Job, pairs: Sequence[tuple[_Sample, Embedded]], served_by: str) -> _Bytes:
    """Write the parts of a sample, to see how large they are."""
    columns = output_columns(job.selection, chunked=job.options.wanted.chunk is not None)
    facts = describe(job, served_by)
    of_vectors = others = 0.0
    count = file = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part"

        def measure(part: Part) -> int:
            write_part(path, part, job.options.output)
            return path.stat().st_size

        for sample, embedded in pairs:
            whole = _repeat(make_part(sample.rows, embedded, columns, facts), sample.repeats)
            alone = _without_columns(whole)
            bare = measure(alone) - measure(_without_rows(alone))
            file = measure(_without_rows(whole))
            of_vectors += bare
            others += sample.of_texts / sample.repeats * max(0, measure(whole) - file - bare)
            count += len(whole.vectors)
    return _Bytes(vector=of_vectors / max(1, count), others=others, file=file)


def _repeat(part: Part, times: int) -> Part:
    rows = list(range(len(part.vectors))) * times
    values = {name: take_values(values, rows) for name, values in part.values.items()}
    if ROW in values:
        values[ROW] = list(range(len(rows)))  # they are never equal
    return replace(part, values=values, vectors=part.vectors[rows])


def _without_columns(part: Part) -> Part:
    numbers = [0] * len(part.vectors)
    return replace(part, columns=[Column(name=ROW, type=INT)], values={ROW: numbers})


def _without_rows(part: Part) -> Part:
    values = {name: values[:0] for name, values in part.values.items()}
    return replace(part, values=values, vectors=part.vectors[:0])
