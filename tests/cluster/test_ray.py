"""Bulk jobs and pipelines on a Ray cluster of which nodes are killed, and commands too."""

import asyncio
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import ray

from embedd.bulk.folder import Folder
from embedd.engine.fake import SLOW
from embedd.errors import UnavailableError
from embedd.ray.cluster import open_cluster
from embedd.ray.probe import open_probe
from tests.cluster.conftest import Command, Nodes, wait_until
from tests.cluster.fake_worker import FakeEmbed

ROWS = 8_000
Bulk = Callable[..., Command]


def write_rows(path: Path, count: int = ROWS) -> None:
    """Rows of which some have the text of another; one has none; each unit takes a moment."""
    chosen = random.Random(3)
    texts = [f"text {chosen.randrange(count)}" for _ in range(count - 1)]
    for index in range(0, count - 1, 50):
        texts[index] = f"{SLOW}{texts[index]}"
    rows: list[dict[str, Any]] = [
        {"id": f"k{number}", "text": text} for number, text in enumerate(texts)
    ]
    rows.append({"id": "last", "text": None})
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def find_processes(environment: dict[str, str], name: str) -> list[psutil.Process]:
    """Processes with *name* in their command line that a command or a node has started."""
    found = []
    for one in psutil.process_iter():
        with suppress(psutil.Error):
            is_own = one.environ().get("PYTHONPATH") == environment["PYTHONPATH"]
            if is_own and name in " ".join(one.cmdline()):
                found.append(one)
    return found


def test_rows_are_there_once_though_a_node_and_the_command_are_killed(
    nodes: Nodes, bulk: Bulk, tmp_path: Path
) -> None:
    write_rows(tmp_path / "rows.jsonl")
    expected = bulk("expected", "--local").finish()
    job = bulk("cluster", "--ray", nodes.address, "--threads", "2")
    process = job.start()
    wait_until(lambda: job.count_parts() >= 10 or process.poll() is not None)
    nodes.kill_one()
    seen = job.count_parts()
    wait_until(lambda: job.count_parts() >= seen + 20 or process.poll() is not None)
    assert process.poll() is None, job.log.read_text()
    process.kill()
    process.wait()
    parts = {path: path.stat().st_ino for path in Path(f"{job.out}.parts").glob("part-*")}
    assert len(parts) < ROWS // 100
    assert job.finish() == expected
    nodes.restore()
    wait_until(lambda: not find_processes(job.environment, "embedd.engine.worker"))


def test_a_worker_that_is_killed_is_replaced(nodes: Nodes, bulk: Bulk, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 4_000)
    expected = bulk("expected", "--local").finish()
    job = bulk("cluster", "--ray", nodes.address, "--threads", "1")
    process = job.start()
    wait_until(lambda: job.count_parts() >= 3 or process.poll() is not None)
    workers = find_processes(job.environment, "ray::FakeWorker")  # those that start, too
    assert workers, job.log.read_text()
    for worker in workers[::2]:
        worker.kill()
    assert process.poll() is None
    assert job.finish(process) == expected


def test_an_interrupted_command_finishes_its_parts_and_goes_on(
    nodes: Nodes, bulk: Bulk, tmp_path: Path
) -> None:
    write_rows(tmp_path / "rows.jsonl", 2_000)
    expected = bulk("expected", "--local").finish()
    job = bulk("cluster", "--ray", nodes.address, "--threads", "2")
    process = job.start()
    wait_until(lambda: job.count_parts() >= 3 or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130, job.log.read_text()
    assert "finishing the parts in work" in job.log.read_text()
    assert 3 <= job.count_parts() < 20
    assert not list(Path(f"{job.out}.parts").glob(".tmp-*part*"))
    assert job.finish() == expected


def test_a_pipeline_of_ray_data_gets_vectors(nodes: Nodes, environment: dict[str, str]) -> None:
    texts = [f"text {number % 70}" for number in range(200)]
    ray.init(address=nodes.address, log_to_driver=False, logging_level="error")
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = [{"id": number, "text": text} for number, text in enumerate(texts)]
        found = (
            ray.data.from_items([*rows, {"id": 200, "text": None}], override_num_blocks=4)
            .map_batches(
                FakeEmbed,
                fn_constructor_kwargs={"model": "tiny", "text": "text"},
                batch_format="pyarrow",
                batch_size=50,
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=2),
                num_cpus=1,
            )
            .take_all()
        )
    finally:
        ray.shutdown()
    assert sorted(row["id"] for row in found) == list(range(201))
    vectors = {row["id"]: row["embedding"] for row in found}
    assert vectors.pop(200) is None
    assert {len(vector) for vector in vectors.values()} == {8}
    assert all(list(vectors[number]) == list(vectors[number % 70]) for number in vectors)
    wait_until(lambda: not find_processes(environment, "embedd.engine.worker"))


def test_nodes_are_asked_for_the_files_and_for_their_embedd(nodes: Nodes, tmp_path: Path) -> None:
    async def ask() -> None:
        async with open_cluster(nodes.address) as cluster:
            found = cluster.nodes()
            assert [node.cores for node in found] == [2, 2]
            with open_probe(Folder(tmp_path), []) as probe:
                assert await cluster.find_faults(probe, found) == []
                other = replace(probe, content="other")
                faults = await cluster.find_faults(other, found)
                assert len(faults) == 2
                assert all("does not see the files" in fault for fault in faults)
                faults = await cluster.find_faults(replace(probe, version="0.0"), found)
                assert all("and the command 0.0: install the same" in one for one in faults)

    asyncio.run(ask())


def test_an_address_without_a_cluster_is_an_error(bulk: Bulk, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 10)
    job = bulk("cluster", "--ray", "no address")

    async def connect() -> None:
        async with open_cluster("no address"):
            pass

    with pytest.raises(UnavailableError, match="no Ray cluster answers at no address"):
        asyncio.run(connect())
    assert job.start().wait(120) == 1
    assert "start one with `ray start --head`" in job.log.read_text()
