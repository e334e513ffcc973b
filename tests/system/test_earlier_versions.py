"""Folders that an earlier version wrote: its store is served, its measurements are made anew."""

import hashlib
import json
from pathlib import Path

import pytest

from embedd.choices import EngineChoice
from embedd.cli.tune import calibrate_model
from embedd.config import Settings
from embedd.engine.settings import Tuning
from embedd.engine.tuning.calibrate import Calibration
from embedd.runtime import find_spec, open_tuning
from tests.conftest import MakeSettings
from tests.system.serving import open_server
from tests.tiny_models import write_tiny_bert

CONFIG = (
    b'{"model_format":"gguf","model_family":"bert","model_families":["bert"],"model_type":"14K",'
    b'"file_type":"F32","architecture":"amd64","os":"linux","rootfs":{"type":"layers",'
    b'"diff_ids":[]}}'
)
PARAMETERS = b'{"query_prefix":"q: ","num_ctx":32,"engine":"llama"}'


def add_blob(models: Path, content: bytes, media_type: str) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    path = models / "blobs" / f"sha256-{digest}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


def write_store(models: Path, gguf: bytes) -> None:
    """Write the model ``tiny`` byte for byte as embedd did before its packages were renamed."""
    layers = [
        add_blob(models, gguf, "application/vnd.ollama.image.model"),
        add_blob(models, b"MIT", "application/vnd.ollama.image.license"),
        add_blob(models, PARAMETERS, "application/vnd.ollama.image.params"),
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": add_blob(models, CONFIG, "application/vnd.docker.container.image.v1+json"),
        "layers": layers,
    }
    path = models / "manifests" / "registry.ollama.ai" / "library" / "tiny" / "latest"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(manifest, separators=(",", ":")))
    (models / "embedd-store.json").write_text('{"format":1}')
    (models / "embedd.lock").write_text("")


def write_state(settings: Settings) -> Path:
    """Write a calibration of ``tiny`` in format 1, with the backends' names of that time."""
    best = Tuning(replicas=1, batch_tokens=64, backend="llama", measured=True)
    store, spec = open_tuning(settings), find_spec(settings, "tiny")
    store.write(spec, Calibration(trials=[], best=best))
    [file] = settings.state.rglob("*.json")
    content = json.loads(file.read_text())
    content["value"]["best"]["backend"] = "cpu3"
    file.write_text(json.dumps(content | {"format": 1}))
    return file


@pytest.fixture
def settings(make_settings: MakeSettings, tmp_path: Path) -> Settings:
    settings = make_settings(engine=EngineChoice.LLAMA)
    write_store(settings.models, write_tiny_bert(tmp_path / "tiny.gguf").read_bytes())
    return settings


async def test_a_store_of_an_earlier_version_is_listed_and_served(settings: Settings) -> None:
    async with open_server(settings) as server:
        _, shown = await server.send("/api/show", {"model": "tiny"})
        assert (shown["license"], shown["details"]["family"]) == ("MIT", "bert")
        assert 'query_prefix                   "q: "' in shown["parameters"]
        assert len(await server.vectors(["a", "b"], model="tiny")) == 2
        [running] = await server.running()
        assert (running["name"], running["context_length"]) == ("tiny:latest", 32)


async def test_a_calibration_of_an_earlier_version_is_not_used_and_measured_anew(
    settings: Settings,
) -> None:
    file = write_state(settings)
    async with open_server(settings) as server:
        await server.embed("a", model="tiny")
        samples = await server.samples()
        assert samples["embedd_model_calibrated{model=tiny:latest}"] == 0
        assert samples["embedd_model_loaded{backend=llama,engine=llama,model=tiny:latest}"] == 1
    found = await calibrate_model(settings, "tiny", lambda _trial: None)
    assert found.best.backend in {"llama", "llama-no-repack", "llama-safe"}
    assert "cpu3" not in file.read_text()
    async with open_server(settings) as server:
        await server.embed("a", model="tiny")
        samples = await server.samples()
        assert samples["embedd_model_calibrated{model=tiny:latest}"] == 1
