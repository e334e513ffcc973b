"""What a dry run says of a job that it saw a sample of."""

import asyncio
import random
import string
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from embedd.bulk.compute import Pool, Wanted
from embedd.bulk.ending import ids_path
from embedd.bulk.estimate import SAMPLED_ROWS, estimate
from embedd.bulk.job import Options, plan
from embedd.bulk.parts import Output, choose_output
from embedd.bulk.sources import find_paths, make_sources
from embedd.bulk.summary import measure_output
from embedd.bulk.units import Limits
from embedd.errors import ServiceError
from embedd.types import Arrays, ChunkPlace
from tests.needs import require_arrow
from tests.unit.bulk.jobs import (
    BAD,
    MODEL,
    SERVED_BY,
    FakeCompute,
    run_job,
    vector_of,
    write_lines,
)

ROWS = 30_000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Texts of all lengths, of which a tenth is cut and a twentieth fails."""
    chosen = random.Random(5)
    path = tmp_path / "a.txt"
    with path.open("w") as file:
        for number in range(ROWS):
            length = chosen.choice([20, 60, 100, 150, 200, 300, 400, 600, 800, 1100])
            bad = BAD if chosen.random() < 0.05 else ""
            file.write(f"{number:06}{bad}".ljust(length, "x") + "\n")
    return path


def read_lengths(path: Path) -> list[int]:
    """Characters of the texts that do not fail."""
    return [len(line) for line in path.read_text().splitlines() if BAD not in line]


async def test_rows_tokens_cut_errors_and_bytes_are_near_to_what_then_comes(source: Path) -> None:
    options = Options(wanted=Wanted(model="fake"), output=Output.JSONL)
    paths = find_paths([str(source)])
    job = plan(options, MODEL, make_sources(paths), Limits(rows=1500))
    found = await estimate(job, job.units(), Pool([FakeCompute()]))
    assert found.rows == ROWS
    assert found.sampled == SAMPLED_ROWS
    lengths = read_lengths(source)
    assert found.vectors == pytest.approx(len(lengths), rel=0.05)
    assert found.tokens == pytest.approx(sum(one // 4 + 1 for one in lengths), rel=0.15)
    assert found.cut == pytest.approx(sum(one > 1000 for one in lengths), rel=0.15)
    assert found.errors == pytest.approx(ROWS - len(lengths), rel=0.25)
    assert found.seconds > 0


def write_uneven(path: Path, seed: int) -> None:
    """Texts that get longer, of which one in a hundred is cut."""
    chosen = random.Random(seed)
    with path.open("w") as file:
        for number in range(12_000):
            length = 8 + number // 100 + chosen.expovariate(1 / 200)
            file.write(f"{number:06}".ljust(int(length), "z") + "\n")


@pytest.mark.parametrize("seed", range(6))
async def test_the_number_of_texts_that_are_cut_is_within_5_percent_where_few_are(
    tmp_path: Path, seed: int
) -> None:
    source = tmp_path / "a.txt"
    write_uneven(source, seed)
    options = Options(wanted=Wanted(model="fake"), output=Output.JSONL)
    job = plan(options, MODEL, make_sources(find_paths([str(source)])), Limits(rows=6_000))
    found = await estimate(job, job.units(), Pool([FakeCompute()]))
    lengths = read_lengths(source)
    assert found.cut == pytest.approx(sum(one > 1000 for one in lengths), rel=0.05)
    assert found.tokens == pytest.approx(sum(one // 4 + 1 for one in lengths), rel=0.005)


async def test_the_one_text_among_many_bad_rows_is_in_the_sample(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "a text"}\n' + "{bad\n" * 3 * SAMPLED_ROWS)
    options = Options(wanted=Wanted(model="fake"), output=Output.JSONL)
    job = plan(options, MODEL, make_sources(find_paths([str(source)])), Limits())
    found = await estimate(job, job.units(), Pool([FakeCompute()]))
    assert (found.vectors, found.errors, found.tokens) == (1, 3 * SAMPLED_ROWS, 2)
    assert found.sampled == SAMPLED_ROWS


async def test_a_job_that_is_done_has_nothing_left(source: Path) -> None:
    options = Options(wanted=Wanted(model="fake"), output=Output.JSONL)
    job = plan(options, MODEL, make_sources(find_paths([str(source)])), Limits())
    found = await estimate(job, [], Pool([FakeCompute()]))
    assert (found.rows, found.tokens, found.seconds, found.sampled) == (0, 0, 0, 0)


def write_alike(path: Path) -> None:
    path.write_text(
        "".join(f"text {number} of {number % 7 * 'many '}words\n" for number in range(9000))
    )


def write_equal(path: Path) -> None:
    """Of 9,000 texts 90 are different."""
    path.write_text("".join(f"text {number % 90}\n" for number in range(9000)))


def write_growing(path: Path) -> None:
    """The last texts are long, so that their units have few rows."""
    with path.open("w") as file:
        file.writelines(
            f"{number}".ljust(4 + 4000 * (number > 7800), "y") + "\n" for number in range(9000)
        )


def write_often(path: Path) -> None:
    """Each text is there three times, at places far from each other."""
    chosen = random.Random(1)
    numbers = [number for number in range(3000) for _ in range(3)]
    chosen.shuffle(numbers)
    path.write_text("".join(f"text {number} of many words\n" for number in numbers))


@pytest.mark.parametrize("write", [write_alike, write_equal, write_growing, write_often])
@pytest.mark.parametrize("out", ["o.jsonl", "o.npy", "folder", "o.parquet", "o.arrow"])
async def test_tokens_and_bytes_are_within_15_percent_of_those_that_come(
    tmp_path: Path, out: str, write: Callable[[Path], None]
) -> None:
    if out not in {"o.jsonl", "o.npy"}:
        require_arrow()
    source, target = tmp_path / "a.txt", tmp_path / out
    write(source)
    limits = Limits(rows=800, bytes=100_000)
    output = choose_output(str(target))
    options = Options(wanted=Wanted(model="fake"), output=output)
    job = plan(options, MODEL, make_sources(find_paths([str(source)])), limits)
    found = await estimate(job, job.units(), Pool([FakeCompute()]))
    total = await asyncio.to_thread(run_job, [source], target, limits=limits)
    assert total is not None
    assert found.rows == total.rows
    assert found.tokens == pytest.approx(total.tokens, rel=0.15)
    assert found.cut == pytest.approx(total.cut, rel=0.15, abs=1)
    more = [ids_path(target)] if output is Output.NPY else []
    assert found.bytes == pytest.approx(measure_output(target, more), rel=0.15)


async def compute_chunks(texts: Sequence[str]) -> Arrays:
    """A vector for every ten characters of a text."""
    places = [
        ChunkPlace(input=index, start=start, end=start + 10, tokens=3)
        for index, text in enumerate(texts)
        for start in range(0, len(text), 10)
    ]
    vectors = [vector_of(f"{texts[one.input]} {one.start}") for one in places]
    return Arrays(
        vectors=np.array(vectors, np.float32),
        tokens=3 * len(places),
        chunks=places,
        served_by=SERVED_BY,
    )


@pytest.mark.parametrize("out", ["o.jsonl", "o.npy", "folder", "o.parquet", "o.arrow"])
@pytest.mark.parametrize("chunk", [None, 5])
async def test_bytes_of_a_column_that_repeats_are_those_of_the_whole_unit(
    tmp_path: Path, out: str, chunk: int | None
) -> None:
    require_arrow()
    chosen = random.Random(2)
    titles = ["".join(chosen.choices(string.ascii_letters, k=2000)) for _ in range(20)]
    rows = [{"text": f"text {n}", "title": titles[n % 20]} for n in range(20_000)]
    source, target = write_lines(tmp_path / "a.jsonl", rows), tmp_path / out
    output = choose_output(str(target))
    wanted = Wanted(model="fake", chunk=chunk)
    options = Options(wanted=wanted, output=output, text="text", keep="title")
    compute = FakeCompute() if chunk is None else compute_chunks
    job = plan(options, MODEL, make_sources(find_paths([str(source)])), Limits(rows=10_000))
    found = await estimate(job, job.units(), Pool([compute]))
    total = await asyncio.to_thread(
        run_job,
        [source],
        target,
        compute,
        limits=Limits(rows=10_000),
        wanted=wanted,
        text="text",
        keep="title",
    )
    assert total is not None
    assert found.vectors == pytest.approx(total.vectors, rel=0.15)
    more = [ids_path(target)] if output is Output.NPY else []
    assert found.bytes == pytest.approx(measure_output(target, more), rel=0.15)


async def test_an_error_of_no_text_is_raised_as_it_is(source: Path) -> None:
    def fail(_texts: Sequence[str]) -> None:
        raise ServiceError("out of order")

    options = Options(wanted=Wanted(model="fake"), output=Output.JSONL)
    job = plan(options, MODEL, make_sources(find_paths([str(source)])), Limits())
    with pytest.raises(ServiceError, match="out of order"):
        await estimate(job, job.units(), Pool([FakeCompute(before=fail)]))


@pytest.mark.parametrize("rows", [800, 50_000])
async def test_the_start_of_a_model_is_not_taken_for_its_speed(tmp_path: Path, rows: int) -> None:
    now, source = 0.0, tmp_path / "a.txt"
    write_alike(source)

    def take_time(texts: Sequence[str]) -> None:
        nonlocal now
        now += 0.001 * sum(len(one) // 4 + 1 for one in texts) + 1000 * (now == 0)

    options = Options(wanted=Wanted(model="fake"), output=Output.JSONL)
    job = plan(options, MODEL, make_sources(find_paths([str(source)])), Limits(rows=rows))
    pool = Pool([FakeCompute(before=take_time)])
    found = await estimate(job, job.units(), pool, clock=lambda: now)
    assert found.seconds == pytest.approx(0.001 * found.tokens, rel=0.001)
