"""Bulk jobs of which the command, a worker or the server is killed: every row is there once."""

import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest

from tests.faults.conftest import Scale
from tests.faults.figures import Figures
from tests.faults.process import Home, mounted, repeat, wait_until
from tests.faults.small_units import ROWS

ROOT = Path(__file__).parents[2]
PARTS = 12
FAKE, REAL = "tests.faults.fake_embedd", "tests.faults.small_units"
WITHIN_A_PART = 0.1  # seconds within which a kill comes after a part


def write_rows(path: Path) -> list[str]:
    """Rows with ids, some of them twice, some with the text of another; one has none."""
    chosen = random.Random(3)
    texts = [f"text {chosen.randrange(900)}" for _ in range(PARTS * ROWS - 1)]
    rows: list[dict[str, Any]] = [
        {"id": f"k{number // 2}", "text": text} for number, text in enumerate(texts)
    ]
    rows.append({"id": "last", "text": None})
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    return texts


@pytest.fixture(autouse=True)
def _no_commands_left() -> Iterator[None]:
    """Commands that still run at the end of a test that failed are killed."""
    yield
    for child in psutil.Process().children():
        if {FAKE, REAL} & set(child.cmdline()):
            child.kill()
            child.wait()


class Job:
    """A job whose command is started, killed and started again; *model* is the one that it uses.

    With `tiny` the engine is the fake one.
    """

    def __init__(
        self, home: Home, source: Path, out: Path, *options: str, model: str = "tiny"
    ) -> None:
        self.out = out
        self._settings = {"ENGINE": "llama", "THREADS": "1"} if model == "tiny" else {}
        self._home = home
        module = FAKE if model == "tiny" else REAL
        self._command = [sys.executable, "-m", module, "bulk", model, str(source), "-o", str(out)]
        self._command += ["--id", "id", "--progress", "none", *options]
        self._log = home.folder / "bulk.log"

    def start(self) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            return subprocess.Popen(
                self._command, env=self._home.environment(**self._settings), stderr=log
            )

    def finish(self) -> bytes:
        """Run the command to its end, where a killed one did not come there; return the output."""
        return self.out.read_bytes() if self.out.exists() else self.wait(self.start())

    def wait(self, process: subprocess.Popen[bytes]) -> bytes:
        assert process.wait(100) == 3, self._log.read_text()  # one row has no text
        return self.out.read_bytes()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def count_parts(self) -> int:
        return len(list(Path(f"{self.out}.parts").glob("part-*")))

    def wait_for_parts(
        self, process: subprocess.Popen[bytes], count: int, chosen: random.Random
    ) -> None:
        """Return at any moment after so many parts, or when the command has ended."""
        wait_until(lambda: self.count_parts() >= count or process.poll() is not None, 100)
        time.sleep(chosen.random() * WITHIN_A_PART)


def kill_children(process: subprocess.Popen[bytes]) -> int:
    """Kill the workers of a command from outside; return how many."""
    children = psutil.Process(process.pid).children()
    for child in children:
        child.kill()
    return len(children)


def test_a_command_that_is_killed_goes_on_where_it_was(
    home: Home, scale: Scale, figures: Figures
) -> None:
    source = home.folder / "rows.jsonl"
    texts = write_rows(source)
    expected = Job(home, source, home.folder / "expected.jsonl", "--local").finish()
    rows = [msgspec.json.decode(line) for line in expected.splitlines()]
    assert [row["text"] for row in rows] == texts
    same = 0
    kills: list[int] = []
    rounds = scale.choose(short=1, full=30)
    for number in repeat(rounds, kills):
        job = Job(home, source, home.folder / f"{number}.jsonl", "--local")
        chosen = random.Random(number)
        for count in sorted(chosen.sample(range(PARTS), 2)):
            process = job.start()
            job.wait_for_parts(process, count, chosen)
            kills.append(process.poll() is None)
            process.kill()
            process.wait()
        same += job.finish() == expected
    figures.at_least("kills", sum(kills), 1)
    figures.at_least("outputs equal to the undisturbed one", same, number + 1)


def test_a_command_goes_on_where_its_disk_was_full(home: Home, figures: Figures) -> None:
    source = home.folder / "rows.jsonl"
    write_rows(source)
    expected = Job(home, source, home.folder / "expected.jsonl", "--local").finish()
    disk = home.folder / "disk"
    disk.mkdir()
    size = len(expected)
    full = []
    with mounted(disk, "-o", f"size={size // 2}"):
        job = Job(home, source, disk / "o.jsonl", "--local")
        # Half of the parts, then all but not the whole beside them, then everything.
        for room in (None, size * 7 // 4, size * 3):
            if room is not None:
                subprocess.run(["mount", "-o", f"remount,size={room}", str(disk)], check=True)
            status = job.start().wait(100)
            full.append((status, "the disk is full" in job.log, job.count_parts()))
            left = [one.name for one in disk.rglob(".tmp-*")]
            assert left == []
        assert job.out.read_bytes() == expected
    assert [(status, said) for status, said, _ in full] == [(1, True), (1, True), (3, False)]
    assert 0 < full[0][2] < full[1][2] == PARTS
    figures.note("parts before the disk was full", full[0][2])


def test_a_job_outlives_its_worker(home: Home, scale: Scale, figures: Figures) -> None:
    source = home.folder / "rows.jsonl"
    write_rows(source)
    expected = Job(home, source, home.folder / "expected.jsonl", "--local").finish()
    same = 0
    kills: list[int] = []
    rounds = scale.choose(short=1, full=30)
    for number in repeat(rounds, kills):
        job = Job(home, source, home.folder / f"{number}.jsonl", "--local")
        process = job.start()
        job.wait_for_parts(process, 1 + number % (PARTS // 2), random.Random(number))
        kills.append(kill_children(process))
        same += job.wait(process) == expected
    figures.at_least("kills", sum(kills), 1)
    figures.at_least("outputs equal to the undisturbed one", same, number + 1)


def test_a_job_waits_for_a_server_that_was_killed(
    home: Home, scale: Scale, figures: Figures
) -> None:
    source = home.folder / "rows.jsonl"
    write_rows(source)
    home.module = FAKE
    server = home.start(ENGINE="llama", THREADS="1")
    try:
        url = f"http://127.0.0.1:{server.port}"
        Job(home, source, home.folder / "expected.jsonl", "--server", url).finish()
        expected = (home.folder / "expected.jsonl").read_bytes()
        same = 0
        rounds = scale.choose(short=1, full=30)
        for number in range(rounds):
            job = Job(home, source, home.folder / f"{number}.jsonl", "--server", url)
            process = job.start()
            job.wait_for_parts(process, 1 + number % (PARTS // 2), random.Random(number))
            server.kill()
            server = home.start(HOST=f"127.0.0.1:{server.port}", ENGINE="llama", THREADS="1")
            same += job.wait(process) == expected
    finally:
        server.kill()
    figures.at_least("outputs equal to the undisturbed one", same, rounds)


def read_rows(data: bytes) -> tuple[list[Any], Any]:
    """The rows of an output without their vectors, and these."""
    rows = [msgspec.json.decode(line) for line in data.splitlines()]
    vectors = np.array([row.pop("embedding") for row in rows])
    return rows, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_vectors_of_the_default_model_are_those_of_an_undisturbed_job(
    tmp_path: Path, default_store: Path, scale: Scale, figures: Figures
) -> None:
    (tmp_path / "models").mkdir()
    for folder in ("blobs", "manifests"):
        (tmp_path / "models" / folder).symlink_to(default_store / folder)
    home = Home(tmp_path, inside={"PRECISION": "f32", "THREADS": "1"}, module=REAL)
    source = tmp_path / "rows.jsonl"
    write_rows(source)
    server = home.start()
    try:
        url = f"http://127.0.0.1:{server.port}"
        options = ("--server", url)
        undisturbed = Job(home, source, tmp_path / "e.jsonl", *options, model="all-minilm")
        rows, expected = read_rows(undisturbed.finish())
        least = 1.0
        kills: list[int] = []
        for number in repeat(scale.choose(short=1, full=10), kills):
            job = Job(home, source, tmp_path / f"{number}.jsonl", *options, model="all-minilm")
            chosen = random.Random(number)
            before = sorted(chosen.sample(range(PARTS - 2), 3))
            process = job.start()
            for what, count in zip(chosen.sample(range(3), 3), before, strict=True):
                job.wait_for_parts(process, count, chosen)
                kills.append(process.poll() is None)
                if what == 0:
                    process.kill()
                    process.wait()
                    process = job.start()
                elif what == 1:
                    server.kill_workers()
                else:
                    server.kill()
                    server = home.start(HOST=f"127.0.0.1:{server.port}")
            found, vectors = read_rows(job.wait(process))
            assert found == rows
            least = min(least, (vectors * expected).sum(axis=1).min())
    finally:
        server.kill()
    figures.at_least("kills of command, worker and server", sum(kills), 1)
    figures.at_least("least cosine to the undisturbed vectors", least, 0.99999)


@pytest.mark.parametrize("out", ["out", "x.parquet", "x.npy", "x.jsonl", "x.arrow"])
def test_memory_does_not_grow_with_the_rows(scale: Scale, figures: Figures, out: str) -> None:
    pytest.importorskip("pyarrow")
    rows = scale.choose(short=150_000, full=1_000_000)
    command = [sys.executable, "-m", "benchmarks.bulk", "memory", "--rows", str(rows)]
    command += ["--output", out]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = re.search(r"peak (\d+) MiB, (\d+) MiB when the third unit began", said)
    assert found, said
    figures.at_most(f"peak of a job that writes {out}", int(found[1]), 286, "MiB")  # 300 MB
    growth = int(found[1]) - int(found[2])
    figures.at_most("its growth after the second unit", growth, 60, "MiB")


def test_the_plan_of_a_large_file_takes_no_memory(scale: Scale, figures: Figures) -> None:
    size = scale.choose(short=64 << 20, full=2 << 30)
    command = [sys.executable, "-m", "benchmarks.bulk", "plan", "--bytes", str(size)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = re.search(r"peak (\d+) MiB before, (\d+) MiB after", said)
    assert found, said
    figures.at_most("peak of the process", int(found[2]), 120, "MiB")
    figures.at_most("of which the plan takes", int(found[2]) - int(found[1]), 32, "MiB")


def test_two_shards_work_side_by_side(home: Home) -> None:
    source = home.folder / "rows.jsonl"
    write_rows(source)
    expected = Job(home, source, home.folder / "expected.jsonl", "--local").finish()
    out = home.folder / "o.jsonl"
    jobs = [Job(home, source, out, "--local", "--shard", f"{number}/2") for number in (1, 2)]
    processes = [job.start() for job in jobs]
    assert sorted(process.wait(100) for process in processes) in ([0, 3], [3, 3])
    assert out.read_bytes() == expected
