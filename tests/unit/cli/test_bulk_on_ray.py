"""``embedd bulk --ray`` on a cluster that is this process, and what is refused without one."""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from embedd.bulk import opening
from embedd.bulk.compute import Wanted
from embedd.bulk.folder import Folder
from embedd.bulk.job import Options
from embedd.bulk.parts import Output, choose_output
from embedd.bulk.runner import ErrorBudgetError
from embedd.bulk.units import Limits
from embedd.cli.bulk import on_ray
from embedd.cli.bulk.on_ray import SIGHT_SECONDS, run_on_cluster, wait_for_parts
from embedd.cli.bulk.running import Request
from embedd.errors import InvalidInputError, ServiceError, UnavailableError
from embedd.ray.protocol import Node
from embedd.ray.worker import Outcome
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_server import FakeServer
from tests.unit.ray.fake_cluster import LocalCluster, LocalWorker

NODES = [Node(id="1", name="a", cores=2), Node(id="2", name="b", cores=5)]
Do = Callable[..., int]


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(opening, "Limits", partial(Limits, rows=2))
    path = tmp_path / "a.txt"
    path.write_text("".join(f"text {number}\n" for number in range(9)))
    return path


@pytest.fixture
def cluster() -> LocalCluster:
    return LocalCluster(NODES)


@pytest.fixture
def do(server: FakeServer, texts: Path, cluster: LocalCluster) -> Do:
    """Runs the command on *cluster* and returns its exit status."""

    def run(out: str = "o.jsonl", *, threads: int | None = None, **changes: object) -> int:
        target = out if "://" in out else str(texts.with_name(out))
        values: dict[str, object] = {
            "inputs": [str(texts)],
            "out": target,
            "options": Options(wanted=Wanted(model="all-minilm"), output=choose_output(target)),
            "form": None,
            "shard": (1, 1),
            "restart": False,
            "mixed": False,
            "servers": [server.url],
            "local": False,
            "most_errors": None,
            "progress": "none",
            "dry_run": False,
        }
        request = Request(**(values | changes))  # type: ignore[arg-type]  # of tests
        return asyncio.run(asyncio.wait_for(run_on_cluster(request, cluster, threads), 30))

    return run


def test_the_output_is_that_of_one_machine(
    embedd: Run, do: Do, server: FakeServer, texts: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = embedd(
        "bulk", "all-minilm", str(texts), "-o", str(texts.with_name("one.jsonl")), "--server",
        server.url,
    )  # fmt: skip
    assert result.status == 0
    assert do() == 0
    assert "Ray, nodes: 2, cores of a worker: 2" in capfd.readouterr().err
    assert texts.with_name("o.jsonl").read_bytes() == texts.with_name("one.jsonl").read_bytes()
    assert not list(texts.parent.glob("*.parts"))


def test_the_smallest_node_says_how_many_cores_a_worker_has(do: Do, cluster: LocalCluster) -> None:
    assert do() == 0
    assert {task.cores for task in cluster.tasks} == {2}


def test_the_command_may_say_how_many_cores_a_worker_has(do: Do, cluster: LocalCluster) -> None:
    assert do(threads=5) == 0
    assert {task.cores for task in cluster.tasks} == {5}


def test_a_cluster_without_cores_needs_to_know_how_many_a_worker_has(
    do: Do, cluster: LocalCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.found = []
    with pytest.raises(InvalidInputError, match="--threads"):
        do()
    assert do(threads=3) == 0
    assert "no node has 3 cores: waiting" in capfd.readouterr().err


def test_a_node_that_does_not_see_the_folder_is_named_before_anything_is_computed(
    do: Do, cluster: LocalCluster, server: FakeServer
) -> None:
    cluster.faults = ["b does not see the files"]
    before = len(server.asked)
    with pytest.raises(UnavailableError, match="b does not see the files"):
        do()
    assert server.asked[before:] == []


def test_an_interrupted_job_goes_on_with_the_same_command(
    do: Do, texts: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts.write_text("".join(f"text {number}\n" for number in range(80)))
    run = LocalWorker.run

    async def interrupt(self: LocalWorker, part: int, fingerprint: str) -> Outcome:
        outcome = await run(self, part, fingerprint)
        if part == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return outcome

    with monkeypatch.context() as patch:
        patch.setattr(LocalWorker, "run", interrupt)
        assert do() == 130
    assert "run the same command to continue" in capfd.readouterr().err
    done = len(list(texts.with_name("o.jsonl.parts").glob("part-*")))
    assert 1 <= done < 40
    assert do() == 0
    assert len(texts.with_name("o.jsonl").read_bytes().splitlines()) == 80


def test_a_restart_throws_away_what_is_there(do: Do, texts: Path) -> None:
    assert do() == 0
    assert do() == 0  # nothing is left to do
    texts.write_text("one\n")
    with pytest.raises(InvalidInputError, match="--restart"):
        do()
    assert do(restart=True) == 0
    assert len(texts.with_name("o.jsonl").read_bytes().splitlines()) == 1


def test_shards_of_a_job_may_be_of_a_cluster(do: Do, texts: Path) -> None:
    assert do(shard=(1, 2)) == 0
    assert not texts.with_name("o.jsonl").exists()
    assert do(shard=(2, 2)) == 0
    assert len(texts.with_name("o.jsonl").read_bytes().splitlines()) == 9


def test_a_shard_of_a_cluster_whose_rows_failed_has_the_status_3(
    do: Do, texts: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    texts.write_bytes(b"one\n\xff\nthree\nfour\n")
    assert do(shard=(1, 2)) == 3
    assert "this shard is done: 1 row, " in capfd.readouterr().err
    assert do(shard=(2, 2)) == 3


def test_rows_that_fail_are_in_the_list_of_errors(do: Do, texts: Path) -> None:
    texts.write_bytes(b"one\n\xff\nthree\n")
    with pytest.raises(ErrorBudgetError, match=rf"{texts}, line 2: not UTF-8"):
        do(most_errors=0)
    assert do() == 3
    assert "UTF-8" in texts.with_name("o.jsonl.errors.jsonl").read_text()


def test_lines_without_content_are_not_shown_as_rows(
    do: Do, texts: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = texts.with_name("a.jsonl")
    source.write_text('\n{"text": "a"}\n\n{"text": "b"}\n')
    assert do(inputs=[str(source)], progress="json") == 0
    *_, line = [line for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    shown = json.loads(line)
    assert (shown["rows"], shown["of"]) == (2, 2)


def test_a_part_that_fails_ends_the_command_and_those_that_are_done_stay(
    do: Do, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def fail(self: LocalWorker, part: int, fingerprint: str) -> Outcome:
        del self, fingerprint
        return Outcome(part=part, host="b", fault="disk full")

    monkeypatch.setattr(LocalWorker, "run", fail)
    with pytest.raises(ServiceError, match="on b: disk full"):
        do()
    assert "Finished parts are kept" in capfd.readouterr().err


def test_a_worker_that_is_waited_for_is_no_silence(
    do: Do, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(on_ray, "NOTICE_SECONDS", 0.0)
    assert do() == 0
    assert "no worker is ready yet" in capfd.readouterr().err


async def test_parts_that_another_machine_wrote_are_waited_for(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    waits: list[float] = []

    async def appear(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            (tmp_path / "part-000001.jsonl").touch()

    await wait_for_parts(folder, Output.JSONL, [1], sleep=appear)
    assert len(waits) == 3


async def test_a_part_that_never_appears_is_an_error(tmp_path: Path) -> None:
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    with pytest.raises(ServiceError, match="part 1 is written, and is not in"):
        await wait_for_parts(Folder(tmp_path), Output.JSONL, [2, 1], sleep=note)
    assert sum(waits) == SIGHT_SECONDS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "-"], "--ray needs files"),
        (["--local"], "--ray excludes --local and --dry-run"),
        (["--dry-run"], "--ray excludes --local and --dry-run"),
    ],
)
def test_what_a_cluster_cannot_do_is_refused(
    embedd: Run, texts: Path, options: list[str], message: str
) -> None:
    out = str(texts.with_name("o.jsonl"))
    result = embedd("bulk", "all-minilm", str(texts), "-o", out, "--ray", "auto", *options)
    assert result.status in (1, 2)
    assert message in result.err


def test_without_the_extra_the_error_says_what_to_install(
    embedd: Run, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "find_spec", lambda _: None)
    out = str(texts.with_name("o.jsonl"))
    result = embedd("bulk", "all-minilm", str(texts), "-o", out, "--ray", "auto")
    assert result.status == 1
    assert "pip install 'embedd-server[ray]'" in result.err
