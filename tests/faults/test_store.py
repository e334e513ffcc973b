"""A server that is killed while it changes its store, and stores that cannot be written or read."""

import asyncio
import contextlib
import hashlib
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from embedd.store.disk import TEMPORARY_PREFIX
from tests.faults.client import ask
from tests.faults.conftest import Scale
from tests.faults.figures import Figures
from tests.faults.process import START, Home, mounted
from tests.loopback_hub import open_hub
from tests.tiny_models import write_tiny_bert

NAME = "hf.co/acme/tiny-bert-GGUF:Q8_0"
FILE = "tiny-bert-Q8_0.gguf"


def find_temporary(home: Home) -> list[Path]:
    return list(home.models.rglob(f"{TEMPORARY_PREFIX}*"))


async def change_until_killed(port: int, body: bytes) -> None:
    """Pull, create, copy and delete as fast as they go, until the server is gone."""

    async def repeat(*requests: tuple[str, object, str]) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                for route, data, method in requests:
                    await ask(port, route, data, method=method)

    digest = f"sha256:{_sha256(body)}"
    await asyncio.gather(
        repeat(("/api/pull", {"model": NAME}, "POST"), ("/api/delete", {"model": NAME}, "DELETE")),
        repeat(
            (f"/api/blobs/{digest}", body, "POST"),
            ("/api/create", {"model": "made", "files": {"x.gguf": digest}}, "POST"),
            ("/api/delete", {"model": "made"}, "DELETE"),
        ),
        repeat(
            ("/api/copy", {"source": "tiny", "destination": "copied"}, "POST"),
            ("/api/delete", {"model": "copied"}, "DELETE"),
        ),
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_a_kill_while_the_store_changes_loses_nothing_and_leaves_nothing(
    home: Home, scale: Scale, figures: Figures
) -> None:
    rounds = scale.choose(short=2, full=200)
    chosen = random.Random(3)
    created = write_tiny_bert(home.folder / "created.gguf", seed=9).read_bytes()
    data = write_tiny_bert(home.folder / "pulled.gguf", width=256, layers=2).read_bytes()
    broken = young = 0
    with open_hub() as hub:
        hub.add("acme/tiny-bert-GGUF", {FILE: data})
        home.outside = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home.folder / "huggingface")}
        for _ in range(rounds):
            server = home.start()
            changing = asyncio.create_task(change_until_killed(server.port, created))
            await asyncio.sleep(chosen.uniform(0.05, 0.8))
            server.kill()
            await changing
            verified = await asyncio.to_thread(home.run, "verify")
            broken += verified.returncode != 0
            young += len(find_temporary(home))
        with home.open() as server:
            left = find_temporary(home)
            for model in ("tiny", "other"):
                body = {"model": model, "input": "x"}
                assert (await ask(server.port, "/api/embed", body)).status == 200
            pulled = await ask(server.port, "/api/pull", {"model": NAME, "stream": False})
            assert pulled.json == {"status": "success"}
    figures.note("kills", rounds)
    figures.at_most("stores that verify complains about", broken, 0)
    figures.note("temporary files after kills", young)
    figures.at_most("those after the next start", len(left), 0)


async def test_a_full_disk_is_an_error_of_the_change_alone(home: Home, figures: Figures) -> None:
    """The store stays valid, what is stored is served, and a change works once there is room."""
    kept = home.folder / "kept"
    home.models.rename(kept)
    home.models.mkdir()
    data = write_tiny_bert(home.folder / "large.gguf", width=512, layers=2).read_bytes()
    with mounted(home.models, "-o", "size=6m"):
        shutil.copytree(kept, home.models, dirs_exist_ok=True)
        with home.open() as server:
            digest = f"sha256:{_sha256(data)}"
            answer = await ask(server.port, f"/api/blobs/{digest}", data)
            assert (answer.status, "space" in answer.json["error"]) == (500, True), answer.body
            figures.at_most("temporary files", len(find_temporary(home)), 0)
            body = {"model": "tiny", "input": "x"}
            assert (await ask(server.port, "/api/embed", body)).status == 200
            copy = {"source": "tiny", "destination": "copied"}
            assert (await ask(server.port, "/api/copy", copy)).status == 200
        assert home.run("verify").returncode == 0


async def test_a_store_that_cannot_be_written_is_served(home: Home) -> None:
    kept = home.folder / "kept"
    home.models.rename(kept)
    home.models.mkdir()
    with mounted(home.models):
        shutil.copytree(kept, home.models, dirs_exist_ok=True)
        await asyncio.to_thread(_protect, home.models)
        with home.open() as server:
            body = {"model": "tiny", "input": "x"}
            assert (await ask(server.port, "/api/embed", body)).status == 200
            copy = {"source": "tiny", "destination": "copied"}
            answer = await ask(server.port, "/api/copy", copy)
            assert (answer.status, "ead-only" in answer.json["error"]) == (500, True), answer.body


def _protect(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


@pytest.mark.parametrize("kind", ["a fifo", "a device", "a folder", "a loop of links"])
async def test_what_is_not_a_file_is_an_error_of_its_model_alone(kind: str, home: Home) -> None:
    [blob] = [path for path in home.models.rglob("sha256-*") if _is_weights(home, "tiny", path)]
    blob.unlink()
    match kind:
        case "a fifo":
            os.mkfifo(blob)
        case "a device":
            blob.symlink_to("/dev/zero")
        case "a folder":
            blob.mkdir()
        case _:
            blob.symlink_to(blob)
    with home.open() as server:
        async with asyncio.timeout(START):
            answer = await ask(server.port, "/api/embed", {"model": "tiny", "input": "x"})
            assert answer.status in {404, 500}, answer
            for path in ("/api/tags", "/api/ps", "/metrics", "/v1/models"):
                assert (await ask(server.port, path, method="GET")).status == 200
            await ask(server.port, "/api/show", {"model": "tiny"})
            other = {"model": "other", "input": "x"}
            assert (await ask(server.port, "/api/embed", other)).status == 200
            copy = {"source": "other", "destination": "copied"}
            assert (await ask(server.port, "/api/copy", copy)).status == 200
    verified = await asyncio.to_thread(home.run, "verify", "tiny")
    assert verified.returncode == 1, verified
    assert "Traceback" not in verified.stderr


def _is_weights(home: Home, name: str, path: Path) -> bool:
    return path.name == f"sha256-{_sha256((home.folder / f'{name}.gguf').read_bytes())}"
