"""What a job will come to, from a sample of its rows: ``--dry-run``."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from embedd.bulk.compute import Pool, numpy_type
from embedd.bulk.job import Job
from embedd.bulk.parts import Output, is_typed
from embedd.bulk.reading import Rows, open_reader
from embedd.bulk.unit import embed_rows
from embedd.bulk.units import Unit

SAMPLED_UNITS: Final = 8
SAMPLED_ROWS: Final = 4_000
# Bytes of a number in the output; JSON has some 12 digits and signs for each.
NUMBER_BYTES: Final = {Output.JSONL: 12.3, Output.STDOUT: 12.3}
COMPRESSED: Final = 0.84  # of float32 by byte stream split and zstd, measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a job will come to.

    Args:
        bytes: Of the vectors in the output.
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


async def estimate(job: Job, units: Sequence[Unit], pool: Pool) -> Estimate:
    """Return what *units* will come to; a sample of their rows is embedded for it."""
    total = sum(unit.range.rows for unit in units)
    sample = await asyncio.to_thread(_read_sample, job, units)
    empty = np.zeros((0, job.model.width), numpy_type(job.options.wanted.dtype))
    rows = tokens = cut = errors = vectors = 0
    seconds = 0.0
    for read in sample:
        start = time.perf_counter()
        embedded = await embed_rows(read, pool, lambda *_: None, empty=empty)
        seconds += time.perf_counter() - start
        rows += len(read.texts) + len(read.failures)
        tokens += embedded.tokens
        cut += embedded.cut
        errors += len(embedded.failures)
        vectors += len(embedded.vectors)
    factor = total / rows if rows else 0.0
    return Estimate(
        rows=total,
        vectors=round(vectors * factor),
        tokens=round(tokens * factor),
        cut=round(cut * factor),
        errors=round(errors * factor),
        bytes=round(vectors * factor * _bytes_of_vector(job)),
        seconds=seconds * factor,
        sampled=rows,
    )


def _bytes_of_vector(job: Job) -> float:
    dtype, output = job.options.wanted.dtype, job.options.output
    size = NUMBER_BYTES.get(output, float(numpy_type(dtype).itemsize))
    if output in (Output.FOLDER, Output.PARQUET) and dtype == "float32":
        size *= COMPRESSED
    return job.model.width * size


def _read_sample(job: Job, units: Sequence[Unit]) -> list[Rows]:
    """Rows of some units, all if they are few; the choice depends on the job alone."""
    if not units:
        return []
    step = max(1, len(units) // SAMPLED_UNITS)
    chosen = units[step // 2 :: step][:SAMPLED_UNITS]
    typed = is_typed(job.options.output)
    most = SAMPLED_ROWS // len(chosen)
    sample = []
    for unit in chosen:
        reader = open_reader(job.planned[unit.source].source, job.selection, typed=typed)
        try:
            sample.append(_thin(reader.read(unit), most))
        finally:
            reader.close()
    return sample


def _thin(rows: Rows, most: int) -> Rows:
    """At most *most* of *rows*, those that fail in the same share."""
    count = len(rows.texts) + len(rows.failures)
    if count <= most:
        return rows
    kept = sorted(random.Random(0).sample(range(count), most))  # noqa: S311 - a sample, not a secret
    good = [one for one in kept if one < len(rows.texts)]
    return Rows(
        file=rows.file,
        numbers=[rows.numbers[one] for one in good],
        texts=[rows.texts[one] for one in good],
        kept={},
        failures=[rows.failures[one - len(rows.texts)] for one in kept if one >= len(rows.texts)],
    )
