"""Bulk jobs and pipelines on a Ray cluster of which nodes are killed, and commands too."""

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil

from embedd.engine.fake import SLOW
from tests.cluster.conftest import Command, Nodes, wait_until

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


def find_engines(job: Command) -> list[psutil.Process]:
    """Worker processes of embedd that *job*, or a node, has started."""
    found = []
    for one in psutil.process_iter():
        with suppress(psutil.Error):
            is_own = one.environ().get("PYTHONPATH") == job.environment["PYTHONPATH"]
            if is_own and "embedd.engine.worker" in one.cmdline():
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
    wait_until(lambda: not find_engines(job))
