"""The installed command ``embedd pull`` against a loopback hub: killed, refused, at odds."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from embedd.config import Settings
from embedd.runtime import verify_gguf
from embedd.store.store import Store
from tests.conftest import MakeSettings
from tests.loopback_hub import Fault, LoopbackHub, Repo, open_hub
from tests.tiny_models import write_tiny_bert, write_tiny_decoder

NAME = "hf.co/acme/tiny-bert-GGUF:Q8_0"
FILE = "tiny-bert-Q8_0.gguf"
LIMIT = 60.0  # seconds that anything may take on a busy machine


@dataclass(frozen=True)
class World:
    """A hub with one model, and a machine that pulls from it."""

    hub: LoopbackHub
    repo: Repo
    settings: Settings
    home: Path

    @property
    def data(self) -> bytes:
        return self.repo.files[FILE]

    @property
    def blobs(self) -> list[Path]:
        folder = self.settings.models / "blobs"
        return sorted(folder.iterdir()) if folder.is_dir() else []

    @property
    def kept(self) -> int:
        """Bytes of the partial download."""
        return sum(path.stat().st_size for path in self.blobs if path.name.endswith("-partial"))

    def start(self, **environment: str) -> subprocess.Popen[str]:
        ours = {
            "EMBEDD_HOST": "127.0.0.1:1",  # where no server is
            "EMBEDD_MODELS": str(self.settings.models),
            "EMBEDD_STATE": str(self.settings.state),
            "HF_ENDPOINT": self.hub.url,
            "HF_HOME": str(self.home),
        }
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("HF_", "EMBEDD_"))
        }
        return subprocess.Popen(
            [sys.executable, "-m", "embedd", "pull", NAME],
            env=inherited | ours | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def pull(self, **environment: str) -> tuple[int, str]:
        """Exit status and what was printed on stderr."""
        process = self.start(**environment)
        _, printed = process.communicate(timeout=LIMIT)
        return process.returncode, printed

    def wait_for(self, what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT
        while not what():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def hold_at_half(self) -> Fault:
        """Let the next transfer of the whole file stop at its middle."""
        # The header's range is too short to come so far.
        fault = Fault("/storage/", hold=len(self.data) // 2, times=2)
        self.hub.faults.append(fault)
        return fault


@pytest.fixture
def world(tmp_path: Path, make_settings: MakeSettings) -> Iterator[World]:
    data = write_tiny_bert(tmp_path / "made.gguf", width=256, layers=2).read_bytes()
    with open_hub() as hub:
        repo = hub.add("acme/tiny-bert-GGUF", {FILE: data}, license="mit")
        yield World(hub, repo, make_settings(), tmp_path / "huggingface")


def test_after_kill_9_at_half_a_pull_goes_on_and_fetches_nothing_twice(world: World) -> None:
    size = len(world.data)
    world.hold_at_half()
    process = world.start()
    assert world.hub.holding.wait(LIMIT)
    # The client writes whole pieces of 256 KiB; the last one may still be incomplete.
    world.wait_for(lambda: world.kept >= size // 2 - (256 << 10))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=LIMIT)
    kept, requests = world.kept, len(world.hub.requests("/storage/"))
    assert 0 < kept < size
    assert list(Store(world.settings.models).manifests.names()) == []
    world.hub.release.set()
    world.wait_for(lambda: world.hub.served > 0)
    served = world.hub.served

    status, printed = world.pull()
    assert status == 0, printed
    later = world.hub.requests("/storage/")[requests:]
    assert [seen.range for seen in later] == [f"bytes={kept}-"]
    assert world.hub.served - served <= size - kept + (1 << 20)  # what the dead one still drew
    blob = Store(world.settings.models).layout.blob(f"sha256:{sha256(world.data)}")
    assert sha256(blob.read_bytes()) == sha256(world.data)
    assert world.kept == 0
    verify_gguf(blob, "tiny", settings=replace(world.settings, threads=1))  # it embeds


def test_two_processes_fetch_one_blob_once(world: World) -> None:
    world.hold_at_half()
    first = world.start()
    assert world.hub.holding.wait(LIMIT)
    asked = len(world.hub.requests("/storage/"))
    located = len(world.hub.requests("/resolve/"))
    second = world.start()
    # It has asked for the digest; next it finds the partial file locked, and waits.
    world.wait_for(lambda: len(world.hub.requests("/resolve/")) > located)
    world.hub.release.set()
    for process in (first, second):
        _, printed = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, printed
    assert len(world.hub.requests("/storage/")) == asked
    assert world.kept == 0


def gate(world: World) -> None:
    world.repo.gated = True


def damage(world: World) -> None:
    data = world.data[:-1] + bytes([world.data[-1] ^ 1])
    world.hub.faults.append(Fault("/storage/", data=data, times=9))


def chat(world: World) -> None:
    path = world.settings.models.parent / "llm.gguf"
    world.repo.files[FILE] = write_tiny_decoder(path).read_bytes()


def leave(_: World) -> None:
    """Nothing is wrong with the hub."""


@pytest.mark.parametrize(
    ("damage", "environment", "message"),
    [
        (gate, {}, "403: Access is restricted: accept its terms on its page, and set HF_TOKEN"),
        (leave, {"HF_HUB_OFFLINE": "1"}, "unset HF_HUB_OFFLINE"),
        (damage, {}, "digest mismatch, file must be downloaded again: want sha256:"),
        (chat, {}, "does not support embeddings"),
    ],
)
def test_what_cannot_be_pulled_says_why_and_leaves_nothing(
    world: World,
    damage: Callable[[World], None],
    environment: dict[str, str],
    message: str,
) -> None:
    damage(world)
    status, printed = world.pull(**environment)
    assert status == 1
    assert "Error: " in printed
    assert message in " ".join(printed.split())
    assert "Traceback" not in printed
    assert world.blobs == []


def test_the_token_goes_to_the_hub_alone_and_no_second_copy_is_kept(world: World) -> None:
    world.repo.token = "secret"
    status, printed = world.pull(HF_TOKEN="secret")
    assert status == 0, printed
    assert {seen.token for seen in world.hub.requests("/storage/")} == {None}
    assert not [path for path in world.home.rglob("*") if path.is_file()]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
