"""A Ray cluster on loopback whose nodes can be killed, and a store with a tiny model."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

# Else Ray takes an address of the network for 127.0.0.1; it looks when it is imported.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
pytest.importorskip("ray", reason="needs the extra embedd-server[ray]")

import ray
from ray.cluster_utils import Cluster

from embedd.store.store import Store
from tests.tiny_models import write_tiny_bert
from tests.unit.stored import store_model

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0  # seconds: a dead node is noticed after some 15
STORE_BYTES = 80 << 20  # of Ray's objects, of each node
FAKE = "tests.cluster.fake_embedd"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Nodes:
    """A head without cores and workers with two cores each, all of this machine.

    Args:
        environment: Of their processes, and of those that they start.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        with self._set_environment():
            self._cluster = Cluster(
                initialize_head=True, head_node_args={"num_cpus": 0, **self._arguments()}
            )
        self._workers = [self._add(), self._add()]

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def kill_one(self) -> None:
        """End a node with all of its processes, at once."""
        self._cluster.remove_node(self._workers.pop(), allow_graceful=False)

    def restore(self) -> None:
        """Let the cluster have two nodes again."""
        while len(self._workers) < 2:
            self._workers.append(self._add())

    def close(self) -> None:
        ray.shutdown()
        self._cluster.shutdown()

    def _add(self) -> object:
        with self._set_environment():
            return self._cluster.add_node(num_cpus=2, **self._arguments())

    @contextmanager
    def _set_environment(self) -> Iterator[None]:
        before = dict(os.environ)
        os.environ.clear()
        os.environ.update(self._environment)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    @staticmethod
    def _arguments() -> dict[str, object]:
        return {
            "node_ip_address": "127.0.0.1",
            "object_store_memory": STORE_BYTES,
            "include_dashboard": False,
        }


@dataclass(frozen=True)
class Command:
    """``embedd bulk`` of one job, with what its environment has."""

    arguments: list[str]
    environment: dict[str, str]
    out: Path
    log: Path

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", FAKE, *self.arguments],
                env=self.environment,
                stderr=log,
                cwd=ROOT,
            )

    def finish(self, process: subprocess.Popen[bytes] | None = None, status: int = 3) -> bytes:
        """Wait for the end of the command, which is started if it does not run."""
        process = process or self.start()
        assert process.wait(PATIENCE) == status, self.log.read_text()
        return self.out.read_bytes()

    def count_parts(self) -> int:
        return len(list(Path(f"{self.out}.parts").glob("part-*")))


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of the commands and of the nodes: nothing of this machine's own."""
    folder = tmp_path_factory.mktemp("embedd")
    path = write_tiny_bert(folder / "tiny.gguf", context=512)
    store_model(Store(folder / "models"), "tiny", path)
    outside = {name: value for name, value in os.environ.items() if "EMBEDD_" not in name}
    return outside | {
        "EMBEDD_HOST": "127.0.0.1:1",
        "EMBEDD_MODELS": str(folder / "models"),
        "EMBEDD_STATE": str(folder / "state"),
        "EMBEDD_ENGINE": "llama",
        "EMBEDD_THREADS": "1",
        "EMBEDD_CACHE_BYTES": "0",
        # The folder at the end is where processes of these tests are known by.
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", ""), str(folder)]),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@pytest.fixture(scope="session")
def nodes(environment: dict[str, str]) -> Iterator[Nodes]:
    """A cluster of one head and two nodes."""
    opened = Nodes(environment)
    yield opened
    opened.close()


@pytest.fixture
def bulk(environment: dict[str, str], tmp_path: Path) -> Callable[..., Command]:
    """Makes commands for ``rows.jsonl``, each with an output of its own name."""

    def make(name: str, *options: str) -> Command:
        out = tmp_path / f"{name}.jsonl"
        arguments = ["bulk", "tiny", str(tmp_path / "rows.jsonl"), "-o", str(out), "--id", "id"]
        return Command(
            arguments=[*arguments, *options],
            environment=environment,
            out=out,
            log=tmp_path / f"{name}.log",
        )

    return make
