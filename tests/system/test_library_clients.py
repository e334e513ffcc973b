"""Managing models with the official client, on a real server; a store that Ollama made."""

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import ollama
import pytest
import pytest_asyncio

from embedd import cli
from embedd.store.store import Store
from tests.conftest import MakeSettings
from tests.system.serving import Server, open_server
from tests.tiny_models import write_tiny_bert, write_tiny_checkpoint


@pytest_asyncio.fixture
async def server(make_settings: MakeSettings) -> AsyncIterator[Server]:
    async with open_server(make_settings()) as opened:
        yield opened


@pytest_asyncio.fixture
async def client(server: Server) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(server.url) as opened:
        yield opened


async def test_the_official_client_manages_models(
    client: ollama.AsyncClient, tmp_path: Path
) -> None:
    path = write_tiny_bert(tmp_path / "tiny.gguf", width=256, heads=4, weights="f16")
    digest = await client.create_blob(path)
    steps = [
        step.status
        async for step in await client.create("tiny", files={"tiny.gguf": digest}, stream=True)
    ]
    assert (steps[0], steps[-1]) == ("parsing GGUF", "success")
    done = await client.create(
        "small", from_="tiny", quantize="q4_K_M", parameters={"num_ctx": 16}, license="MIT"
    )
    assert done.status == "success"
    shown = await client.show("small")
    assert shown.modelinfo is not None
    assert shown.modelinfo["bert.context_length"] == 64
    assert shown.details is not None
    assert shown.details.quantization_level == "Q4_K_M"
    assert shown.capabilities == ["embedding"]
    assert shown.parameters == f"{'num_ctx':<30} 16"
    assert shown.license == "MIT"
    assert (await client.copy("small", "twin")).status == "success"
    one = (await client.embed("small", "hello world")).embeddings[0]
    two = (await client.embed("twin", "hello world")).embeddings[0]
    assert list(one) == list(two)
    assert [model.model for model in (await client.ps()).models] == ["small:latest"]
    assert (await client.delete("small")).status == "success"
    assert [model.model for model in (await client.ps()).models] == ["small:latest"]
    assert (await client.delete("twin")).status == "success"
    assert (await client.ps()).models == []
    assert [model.model for model in (await client.list()).models] == ["tiny:latest"]
    with pytest.raises(ollama.ResponseError, match="model 'twin' not found") as caught:
        await client.delete("twin")
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="pull model manifest: file does not exist"):
        await client.pull("nope")


async def test_the_official_client_makes_a_model_of_a_checkpoint(
    client: ollama.AsyncClient, tmp_path: Path
) -> None:
    folder = write_tiny_checkpoint(tmp_path / "checkpoint")
    files = {
        str(path.relative_to(folder)): await client.create_blob(path)
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert (await client.create("mine", files=files, quantize="q8_0")).status == "success"
    assert len((await client.embed("mine", ["hello", "world"])).embeddings) == 2


async def test_the_default_model_is_pulled_streamed_and_again(
    client: ollama.AsyncClient,
) -> None:
    lines = [step async for step in await client.pull("all-minilm", stream=True)]
    statuses = list(dict.fromkeys(line.status for line in lines))
    assert statuses[0] == "pulling manifest"
    assert statuses[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    completed = [line.completed or 0 for line in lines if line.status == statuses[1]]
    assert completed == sorted(completed)
    assert (await client.pull("all-minilm")).status == "success"
    assert len((await client.embed("all-minilm", "hello")).embeddings[0]) == 384
    again = [step async for step in await client.pull("all-minilm", stream=True)]
    cached = [line for line in again if line.digest]
    assert cached
    assert all(line.completed == line.total for line in cached)


def snapshot(root: Path) -> dict[str, tuple[int, str]]:
    return {
        str(path.relative_to(root)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in root.rglob("*")
    }


def lay_out_by_hand(root: Path, gguf: Path) -> None:
    """What Ollama leaves on disk: a model, its layers, and a download it did not finish."""
    (root / "blobs").mkdir(parents=True)

    def blob(kind: str, data: bytes) -> dict[str, object]:
        name = hashlib.sha256(data).hexdigest()
        (root / f"blobs/sha256-{name}").write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{name}", "size": len(data)}

    image = "application/vnd.ollama.image."
    layers = [
        blob(f"{image}model", gguf.read_bytes()) | {"from": "/somewhere"},
        blob(f"{image}license", b"Apache License"),
        blob(f"{image}params", b'{"num_ctx":16}'),
    ]
    config = blob(
        "application/vnd.docker.container.image.v1+json",
        b'{"model_format":"gguf","model_family":"bert","file_type":"F32","unknown":1}',
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": config,
        "layers": layers,
    }
    place = root / "manifests/registry.ollama.ai/library/tiny/latest"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(manifest, indent=1))
    (root / f"blobs/sha256-{'a' * 64}-partial-0").write_bytes(b"half of it")
    (root / f"blobs/sha256-{'b' * 64}").write_bytes(b"unused")
    for path in root.rglob("*"):
        os.utime(path, (1_500_000_000, 1_500_000_000))


async def test_a_store_that_ollama_made_is_served_and_not_one_byte_changes(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    root = tmp_path / "ollama"
    await asyncio.to_thread(lay_out_by_hand, root, write_tiny_bert(tmp_path / "tiny.gguf"))
    before = await asyncio.to_thread(snapshot, root)
    async with (
        open_server(make_settings(models=root)) as server,
        ollama.AsyncClient(server.url) as client,
    ):
        assert [model.model for model in (await client.list()).models] == ["tiny:latest"]
        shown = await client.show("tiny")
        assert (shown.license, shown.parameters) == ("Apache License", f"{'num_ctx':<30} 16")
        reply = await client.embed("tiny", "hello " * 40)
        assert reply.prompt_eval_count == 16
        assert len((await client.ps()).models) == 1
    assert await asyncio.to_thread(snapshot, root) == before
    async with (
        open_server(make_settings(models=root)) as server,
        ollama.AsyncClient(server.url) as client,
    ):
        await client.copy("tiny", "twin")
        await client.delete("twin")
    after = await asyncio.to_thread(snapshot, root)
    files = {name for name, (_, digest) in before.items() if digest}
    assert {name: after[name] for name in files} == {name: before[name] for name in files}


@pytest.mark.parametrize("spoilt", [False, True])
async def test_a_server_tidies_up_its_own_store_when_it_starts(
    make_settings: MakeSettings, tmp_path: Path, spoilt: bool
) -> None:
    store = Store(tmp_path / "models")
    store.prepare()
    left = store.blobs.path(store.blobs.add_bytes(b"unused").digest)
    os.utime(left, (1_500_000_000, 1_500_000_000))
    if spoilt:
        store.layout.marker.write_text('{"format": 99}')
    async with open_server(make_settings()) as server:
        assert left.exists() == spoilt
        async with server.session.get(server.url) as response:
            assert response.status == 200


@pytest.fixture
def _logs_as_before() -> Iterator[None]:
    """Commands set up the logs of the whole process."""
    log = logging.getLogger("embedd")
    before = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.level, log.propagate = before


@pytest.mark.usefixtures("_logs_as_before")
def test_the_command_makes_copies_and_verifies_without_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_tiny_bert(tmp_path / "tiny.gguf", width=256, weights="f16")
    (tmp_path / "Modelfile").write_text("FROM tiny.gguf\nPARAMETER num_ctx 9\nLICENSE MIT\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMBEDD_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("EMBEDD_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("EMBEDD_HOST", "127.0.0.1:1")
    monkeypatch.setenv("EMBEDD_THREADS", "1")

    def run(*arguments: str, status: int = 0) -> tuple[str, str]:
        actual = cli.run(arguments)
        out, err = capfd.readouterr()
        assert actual == status, err
        return out, err

    _, err = run("create", "tiny")
    assert err.splitlines()[0] == "parsing GGUF"
    assert err.splitlines()[-1] == "success"
    _, err = run("create", "small", "--from", "tiny", "-q", "q8_0")
    assert "quantizing F16 model to Q8_0" in err.splitlines()
    run("cp", "small", "other")
    out, _ = run("show", "other")
    assert "    quantization        Q8_0\n" in out
    assert "  License\n    MIT\n" in out
    assert run("list")[0].startswith("NAME ")
    modelfile, _ = run("show", "other", "--modelfile")
    (tmp_path / "again").write_text(modelfile)
    run("create", "again", "-f", "again")
    run("rm", "small", "other", "tiny")
    assert run("verify")[0].startswith("verified 4 files of 1 model,")
    _, err = run("show", "tiny", status=1)
    assert err.startswith('Error: model "tiny" not found: ')
