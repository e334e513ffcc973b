"""Without OpenVINO llama.cpp serves, nothing imports the package, and no warning appears."""

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from embedd.choices import EngineChoice
from embedd.cli.tune import calibrate_model
from embedd.config import Settings
from embedd.engine.installation import has_openvino
from embedd.runtime import open_library
from tests.conftest import MakeSettings
from tests.system.serving import Server, open_server
from tests.tiny_models import write_tiny_bert

TRAP = "import os\nopen({path!r}, 'w').close()\nraise ImportError('the trap')\n"
WAY_OUT = "which is not installed: pip install 'embedd-server[openvino]', or set the engine to auto"


@pytest.fixture(autouse=True)
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Take OpenVINO away from this process, and ask whether a worker has imported it."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    trap, mark = tmp_path / "trap", tmp_path / "imported"
    trap.mkdir()
    (trap / "openvino.py").write_text(TRAP.format(path=str(mark)))
    monkeypatch.setenv("PYTHONPATH", str(trap), prepend=":")
    return mark.exists


@pytest.fixture
def settings(make_settings: MakeSettings, tmp_path: Path) -> Settings:
    """Of a server with one model that names no engine, and one that names OpenVINO."""
    settings = make_settings()
    library = open_library(settings)
    path = write_tiny_bert(tmp_path / "tiny.gguf")
    library.create("plain", path)
    library.create("pinned", path, parameters={"engine": "openvino"})
    return settings


async def read_engine(server: Server, model: str) -> tuple[int, str, str]:
    """Status, what computed, and the error of a request."""
    body = {"model": model, "input": "the sky"}
    async with server.session.post(f"{server.url}/api/embed", json=body) as response:
        error = (await response.json()).get("error", "")
        return response.status, response.headers.get("X-Embedd-Model", ""), error


async def test_llama_cpp_serves_and_logs_no_warning(
    settings: Settings, imported: Callable[[], bool], caplog: pytest.LogCaptureFixture
) -> None:
    assert not has_openvino()
    with caplog.at_level(logging.DEBUG, "embedd"):
        async with open_server(settings) as server:
            status, engine, _ = await read_engine(server, "plain")
            assert status == 200
            assert "engine=llama;backend=llama" in engine
            [running] = await server.running()
            assert running["name"] == "plain:latest"
            async with server.session.get(f"{server.url}/metrics") as response:
                metrics = await response.text()
    assert 'engine="llama"' in metrics
    assert "openvino" not in metrics
    assert "openvino" not in caplog.text.lower()
    assert [one for one in caplog.records if one.levelno > logging.INFO] == []
    assert not imported()


async def test_a_server_set_to_openvino_answers_what_to_install(
    settings: Settings, imported: Callable[[], bool]
) -> None:
    async with open_server(replace(settings, engine=EngineChoice.OPENVINO)) as server:
        status, _, error = await read_engine(server, "plain")
    assert status == 500
    assert error == f'model "plain:latest" is to be computed with OpenVINO, {WAY_OUT}'
    assert not imported()


async def test_a_model_set_to_openvino_answers_what_to_install_and_others_are_served(
    settings: Settings,
) -> None:
    async with open_server(settings) as server:
        status, _, error = await read_engine(server, "pinned")
        assert status == 500
        assert error == f'model "pinned:latest" is to be computed with OpenVINO, {WAY_OUT}'
        assert (await read_engine(server, "plain"))[0] == 200
        _, shown = await server.send("/api/show", {"model": "pinned"})
    assert "openvino" in shown["parameters"]


async def test_calibration_measures_the_installed_engines(
    settings: Settings, imported: Callable[[], bool], caplog: pytest.LogCaptureFixture
) -> None:
    found = await calibrate_model(settings, "plain", lambda _trial: None)
    assert {trial.backend for trial in found.trials} == {"llama", "llama-no-repack", "llama-safe"}
    assert [one for one in caplog.records if one.levelno > logging.INFO] == []
    assert not imported()
