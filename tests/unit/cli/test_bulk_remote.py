"""``embedd bulk`` with an output in an object store: what is said, and what a kill leaves."""

import pickle
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from embedd.bulk.remote import RemotePath
from embedd.bulk.remote_folder import RemoteFolder
from embedd.cli.tables import format_size
from embedd.ray.probe import find_fault, open_probe
from tests.loopback_store import Fault, LoopbackStore
from tests.unit.bulk.remote_jobs import store
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_server import FakeServer
from tests.unit.cli.test_bulk_on_ray import Do, cluster, do, texts
from tests.unit.ray.fake_cluster import LocalCluster

__all__ = ["cluster", "do", "store", "texts"]

# The command with small units, and with locks that do not wait for long.
COMMAND = """
import sys
from embedd import cli
from embedd.bulk import lease, opening, units
lease.BEAT, lease.STALE, lease.SETTLE = 0.05, 0.2, 0.01
opening.Limits = lambda: units.Limits(rows=3)
sys.exit(cli.run(sys.argv[1:]))
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FakeServer) -> Path:
    del server
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.txt"
    path.write_text("".join(f"text {number}\n" for number in range(20)))
    return path


def test_a_folder_and_a_file_of_a_store_are_outputs(
    embedd: Run, source: Path, store: LoopbackStore
) -> None:
    first = embedd("bulk", "all-minilm", str(source), "-o", store.uri("out/"))
    assert first.status == 0, first.err
    assert "out/_SUCCESS" in store.objects
    assert "FROM 's3://bucket/out/*.parquet'" in first.err
    size = len(store.objects["out/part-000000.parquet"])
    assert f", {format_size(size)}" in first.err
    for words in ("20 rows, ", "nothing left to do: 20 rows, "):
        result = embedd("bulk", "all-minilm", str(source), "-o", store.uri("o.jsonl"))
        assert result.status == 0, result.err
        assert words in result.err
    assert len(store.objects["o.jsonl"].splitlines()) == 20
    other = embedd("bulk", "all-minilm", str(source), "-o", store.uri("o.jsonl"), "--limit", "3")
    assert other.status == 1
    assert "s3://bucket/o.jsonl is of another job: limit was not set and is 3" in other.err


def test_rows_from_stdin_go_to_a_store(embedd: Run, source: Path, store: LoopbackStore) -> None:
    del source
    result = embedd(
        "bulk", "all-minilm", "-", "--format", "txt", "-o", store.uri("o.jsonl"), stdin=b"a\nb\n"
    )
    assert result.status == 0, result.err
    assert [msgspec.json.decode(one)["text"] for one in store.objects["o.jsonl"].splitlines()] == [
        "a",
        "b",
    ]


def test_rows_that_fail_are_listed_in_the_store(
    embedd: Run, source: Path, store: LoopbackStore
) -> None:
    source.write_text("one\nbad\n")
    result = embedd("bulk", "all-minilm", str(source), "-o", store.uri("out"))
    assert result.status == 3
    assert "rows without a vector: s3://bucket/out/errors.jsonl" in result.err
    assert b"a bad text" in store.objects["out/errors.jsonl"]


def test_a_dry_run_leaves_the_store_alone(embedd: Run, source: Path, store: LoopbackStore) -> None:
    result = embedd("bulk", "all-minilm", str(source), "-o", store.uri("out/"), "--dry-run")
    assert result.status == 0, result.err
    assert not store.objects


def test_a_store_that_refuses_is_one_line(embedd: Run, source: Path, store: LoopbackStore) -> None:
    store.faults.append(Fault("PUT", "job.json", status=403, code="AccessDenied"))
    result = embedd("bulk", "all-minilm", str(source), "-o", store.uri("out/"))
    assert result.status == 1
    assert "Error: s3://bucket/out/_embedd/job.json cannot be written: " in result.err
    assert "ACCESS_DENIED" in result.err
    assert "AWS_ACCESS_KEY_ID" in result.err
    assert "Traceback" not in result.err
    assert not store.names()  # the lock too is given back


def test_requests_are_not_answered_in_a_store(embedd: Run, source: Path) -> None:
    result = embedd(
        "bulk", "all-minilm", str(source), "-o", "s3://bucket/o.jsonl", "--format", "openai-batch"
    )
    assert result.status == 1
    assert "s3://bucket/o.jsonl is of a store: copy it" in result.err


def test_the_nodes_of_a_cluster_write_to_a_store(
    do: Do, cluster: LocalCluster, texts: Path, store: LoopbackStore
) -> None:
    store.objects["out/.tmp-1-of-1-probe-old"] = b"of a command that was killed"
    assert do(store.uri("out/")) == 0
    assert cluster.tasks
    assert all(pickle.loads(pickle.dumps(task)) == task for task in cluster.tasks)  # noqa: S301 - our own
    assert texts_in(store) == texts.read_text().splitlines()
    assert "out/_SUCCESS" in store.objects
    assert not [name for name in store.names() if "probe" in name]


@pytest.mark.parametrize("method", ["HEAD", "PUT"])
def test_a_node_that_may_not_use_the_store_says_so(store: LoopbackStore, method: str) -> None:
    with open_probe(RemoteFolder(RemotePath(store.uri("out/"))), []) as probe:
        assert find_fault(probe) == ""
        store.faults.append(Fault(method, "", status=403, code="AccessDenied"))
        assert "ACCESS_DENIED" in find_fault(probe)
        assert find_fault(replace(probe, name="gone")).startswith("does not see the files")
    assert not store.names()


@pytest.mark.parametrize("seed", [1])
@pytest.mark.parametrize("name", ["out/", "o.jsonl"])
def test_a_command_that_is_killed_at_any_point_goes_on_and_every_row_is_there_once(
    source: Path, store: LoopbackStore, name: str, seed: int
) -> None:
    chance = random.Random(seed)
    command = [sys.executable, "-c", COMMAND, "bulk", "all-minilm", str(source), "-o"]

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [*command, store.uri(name)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    kills = 0
    for _ in range(4):
        process, before, most = start(), len(store.asked), chance.randrange(1, 120)
        while len(store.asked) - before < most and process.poll() is None:
            time.sleep(0.001)
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills
    process = start()
    output, _ = process.communicate()
    assert process.returncode == 0, output.decode()
    key = "o.jsonl" if name == "o.jsonl" else "out/_SUCCESS"
    assert key in store.objects
    texts = source.read_text().split("\n")[:-1]
    if name == "o.jsonl":
        rows = [msgspec.json.decode(line) for line in store.objects["o.jsonl"].splitlines()]
        assert [row["row"] for row in rows] == list(range(20))
        assert [row["text"] for row in rows] == texts
        assert store.names() == {"o.jsonl", "o.jsonl.job.json"}
    else:
        assert texts_in(store) == texts
        assert not [one for one in store.names() if "lock" in one]


def texts_in(store: LoopbackStore) -> list[str]:
    """The texts of all parts in order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = sorted(one for one in store.names("out/") if one.startswith("part-"))
    tables = [pq.read_table(pa.BufferReader(store.objects[f"out/{one}"])) for one in names]
    return [text for table in tables for text in table["text"].to_pylist()]
