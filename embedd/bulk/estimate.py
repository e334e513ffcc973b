"""What a job will come to, from a sample of its rows: ``--dry-run``."""

import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from embedd.bulk.columns import INT, ROW, Column
from embedd.bulk.compute import TOKENS_PER_CHARACTER, Numbers, Pool, numpy_type
from embedd.bulk.job import Job, describe_vectors
from embedd.bulk.parts import (
    Output,
    Part,
    is_typed,
    make_part,
    output_columns,
    write_part,
)
from embedd.bulk.reading import Rows, open_reader
from embedd.bulk.unit import Embedded, choose_error, embed_rows
from embedd.bulk.units import Unit

SAMPLED_UNITS: Final = 8
SAMPLED_ROWS: Final = 4_000
WARM_UP_ROWS: Final = 500  # that are embedded before the time counts
ORDERED_ROWS: Final = 2_000  # of a unit, for what is compressed of its vectors


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
        order: The first rows of the unit, each by the number of its text; those of the sample
            are the first numbers.
        columns: Bytes of all columns but the vectors, of the whole unit.
        vectors: Of which `columns` was measured.
    """

    unit: Unit
    rows: Rows
    texts: int
    failures: int
    distinct: int
    characters: int
    order: Sequence[int]
    columns: int = 0
    vectors: int = 0

    @property
    def of_texts(self) -> float:
        """How many rows of the unit each of the sample stands for."""
        return self.texts / max(1, len(self.rows.texts))

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
            rows = reader.read(unit)
        finally:
            reader.close()
        columns, vectors = _measure_columns(job, rows)
        sample = _thin(unit, rows, SAMPLED_ROWS // len(chosen))
        samples.append(replace(sample, columns=columns, vectors=vectors))
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
        kept = _choose_rows(kept, rows.texts, max(1, round(share * len(kept))))
        failures = failures[: most - len(kept)]
    numbers = {rows.texts[row]: number for number, row in enumerate(kept)}
    return _Sample(
        unit=unit,
        rows=Rows(
            file=rows.file,
            numbers=[rows.numbers[row] for row in kept],
            lines=[rows.lines[row] for row in kept] if rows.lines else None,
            texts=[rows.texts[row] for row in kept],
            kept={},
            failures=failures,
        ),
        texts=len(rows.texts),
        failures=len(rows.failures),
        distinct=len(first),
        characters=sum(map(len, first)),
        order=[numbers.setdefault(text, len(numbers)) for text in rows.texts[:ORDERED_ROWS]],
    )


def _choose_rows(rows: Sequence[int], texts: Sequence[str], count: int) -> list[int]:
    """Return *count* of *rows*, in order: one of each group whose texts are about as long.

    Lengths decide tokens, and which texts are cut: chosen from all rows alike, a sample of the
    few that are cut would often have too many or too few.
    """
    chosen = random.Random(0)  # noqa: S311 - a sample, not a secret
    by_length = sorted(rows, key=lambda row: len(texts[row]))
    bounds = [number * len(rows) // count for number in range(count + 1)]
    groups = (by_length[start:end] for start, end in pairwise(bounds))
    return sorted(chosen.choice(group) for group in groups if group)


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
    """Write vectors of a sample, to see how large they are."""
    of_vectors = others = 0.0
    count = 0
    for sample, embedded in pairs:
        vectors = _lay_out(sample, embedded)
        of_vectors += _measure_rows(job, _make_bare(vectors))
        count += len(vectors)
        others += sample.columns * sample.of_texts * len(embedded.vectors) / max(1, sample.vectors)
    columns = output_columns(job.selection, chunked=job.options.wanted.chunk is not None)
    empty = Part(
        columns=columns,
        values={column.name: [] for column in columns},
        vectors=np.zeros((0, job.model.width), numpy_type(job.options.wanted.dtype)),
        facts=describe_vectors(job, served_by),
    )
    return _Bytes(vector=of_vectors / max(1, count), others=others, file=_measure_file(job, empty))


def _measure_columns(job: Job, rows: Rows) -> tuple[int, int]:
    """Return the bytes of all columns but the vectors, and of how many vectors that is.

    All rows are written: how often values repeat decides what a column takes.
    """
    wanted = job.options.wanted
    counts = np.ones(len(rows.texts), np.intp)
    if wanted.chunk is not None:
        lengths = np.array([len(text) for text in rows.texts], np.float64)
        step = max(1, wanted.chunk - wanted.overlap) / TOKENS_PER_CHARACTER
        counts = np.maximum(1, np.ceil(lengths / step)).astype(np.intp)
    places = [(number, 1000 * number, 1000 * number + 999) for of in counts for number in range(of)]
    embedded = Embedded(
        rows=np.repeat(np.arange(len(rows.texts)), counts),
        vectors=np.zeros((int(counts.sum()), 1), numpy_type(wanted.dtype)),
        places=None if wanted.chunk is None else places,
        failures=(),
        tokens=0,
        cut=0,
    )
    columns = output_columns(job.selection, chunked=wanted.chunk is not None)
    whole = make_part(rows, embedded, columns, {})
    size = _measure_rows(job, whole) - _measure_rows(job, _make_bare(whole.vectors))
    return max(0, size), len(whole.vectors)


def _lay_out(sample: _Sample, embedded: Embedded) -> Numbers:
    """Return vectors in the order in which the unit has its texts: equal ones are compressed.

    Those of texts that are not in the sample have the numbers of others, in another order.
    """
    known = len(sample.rows.texts)
    if not len(embedded.vectors) or sample.distinct == sample.texts:
        return embedded.vectors
    starts = np.searchsorted(embedded.rows, np.arange(known + 1))
    chosen = np.random.default_rng(0)
    of_text: dict[int, Numbers] = {}
    for number in sample.order:
        if number not in of_text:
            like = number % known
            vectors = embedded.vectors[starts[like] : starts[like + 1]]
            of_text[number] = vectors if number < known else chosen.permuted(vectors, axis=1)
    return np.concatenate([of_text[number] for number in sample.order])


def _make_bare(vectors: Numbers) -> Part:
    """Return a part with nothing but *vectors* and a column that takes no room."""
    numbers = [0] * len(vectors)
    return Part(
        columns=[Column(name=ROW, type=INT)], values={ROW: numbers}, vectors=vectors, facts={}
    )


def _measure_rows(job: Job, part: Part) -> int:
    """Return the bytes of *part* without those of a file without rows."""
    values = {name: values[:0] for name, values in part.values.items()}
    empty = replace(part, values=values, vectors=part.vectors[:0])
    return _measure_file(job, part) - _measure_file(job, empty)


def _measure_file(job: Job, part: Part) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part"
        write_part(path, part, job.options.output)
        if job.options.output is Output.PARQUET:
            from embedd.bulk import tables  # noqa: PLC0415 - needs an extra

            # A file that is joined from parts has smaller row groups.
            joined = Path(folder) / "joined"
            tables.join_parts(joined, [path], part.facts, as_parquet=True)
            path = joined
        return path.stat().st_size
