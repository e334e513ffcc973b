"""What a dry run says of a job that it saw a sample of."""

import random
from pathlib import Path

import pytest

from embedd.bulk.compute import Pool, Wanted
from embedd.bulk.estimate import SAMPLED_ROWS, estimate
from embedd.bulk.job import Options, plan
from embedd.bulk.parts import Output
from embedd.bulk.sources import find_paths, make_sources
from embedd.bulk.units import Limits
from tests.unit.bulk.jobs import BAD, MODEL, FakeCompute, run_job

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


async def test_a_job_that_is_done_has_nothing_left(source: Path) -> None:
    options = Options(wanted=Wanted(model="fake"), output=Output.FOLDER)
    job = plan(options, MODEL, make_sources(find_paths([str(source)])), Limits())
    found = await estimate(job, [], Pool([FakeCompute()]))
    assert (found.rows, found.tokens, found.seconds, found.sampled) == (0, 0, 0, 0)


def test_the_bytes_of_vectors_in_json_are_near_to_those_of_the_output(tmp_path: Path) -> None:
    source = tmp_path / "b.txt"
    source.write_text("".join(f"{number}\n" for number in range(500)))
    run_job([source], tmp_path / "o.jsonl", keep="none")
    lines = (tmp_path / "o.jsonl").read_bytes().splitlines()
    size = sum(len(line.partition(b"[")[2]) for line in lines)
    assert size == pytest.approx(500 * MODEL.width * 12.3, rel=0.15)
