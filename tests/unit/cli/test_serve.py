"""serve: options go before the environment."""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from embedd.config import SETTINGS, Settings
from embedd.errors import ConfigError
from embedd.first_worker import FirstWorker
from tests.unit.cli.conftest import Run

Tls = tuple[Path, Path | None] | None
Calls = list[tuple[Settings, Sequence[str], Tls]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls: Calls = []

    def run(settings: Settings, preload: Sequence[str], tls: Tls, _: object, first: object) -> None:
        assert first == (settings if preload else None)
        if settings.host.port == 1:
            raise ConfigError("port 1 is taken by Ollama")
        calls.append((settings, preload, tls))

    # A worker is started for what is loaded, with the settings of the server.
    monkeypatch.setattr(FirstWorker, "start", lambda settings: settings)
    monkeypatch.setitem(sys.modules, "embedd.server.serve", SimpleNamespace(run=run))
    return calls


@pytest.mark.parametrize("command", ["serve", "start"])
def test_serve_takes_the_environment(
    embedd: Run, calls: Calls, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("EMBEDD_THREADS", "3")
    assert embedd(command).status == 0
    ((settings, preload, tls),) = calls
    assert (settings.host.url, settings.threads, preload) == ("http://127.0.0.1:11434", 3, ())
    assert tls is None


def test_the_help_lists_every_setting_with_its_meaning_and_default(embedd: Run) -> None:
    text = " ".join(embedd("serve", "--help").out.split())
    for setting in SETTINGS:
        assert f"EMBEDD_{setting.name} " in text
    assert "requests that may wait for models to load [512]" in text


def test_options_go_before_the_environment(
    embedd: Run, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOST", "MODELS", "KEEP_ALIVE", "THREADS"):
        monkeypatch.setenv(f"EMBEDD_{name}", "7")
    options = "--host 0.0.0.0 --port 5 --models /m --keep-alive -1 --threads 2 --load a --load b "
    options += f"--gpu-layers 0 --api-key-file {__file__}"
    assert embedd("serve", *options.split()).status == 0
    ((settings, preload, _),) = calls
    assert settings.host.url == "http://0.0.0.0:5"
    assert settings.models == Path("/m")
    assert settings.keep_alive == math.inf
    assert (settings.threads, settings.gpu_layers) == (2, 0)
    assert settings.api_key_file == Path(__file__)
    assert preload == ("a", "b")


def test_warnings_about_settings_are_lines_of_the_json_log(
    embedd: Run, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDD_LOG_FORMAT", "json")
    monkeypatch.setenv("EMBEDD_MAX_QUEUE", "many")
    [line] = embedd("serve").err.splitlines()
    assert calls
    warning = json.loads(line)
    assert warning["level"] == "WARNING"
    assert warning["message"] == "EMBEDD_MAX_QUEUE: cannot use 'many', using 512"


def test_a_port_alone_keeps_the_host(
    embedd: Run, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDD_HOST", "10.0.0.1:5")
    embedd("serve", "--port", "6")
    assert calls[0][0].host.url == "http://10.0.0.1:6"


def test_a_port_means_tcp(embedd: Run, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDD_HOST", "unix:/run/s")
    embedd("serve")
    embedd("serve", "--port", "6")
    assert [settings.host.url for settings, *_ in calls] == ["unix:/run/s", "http://127.0.0.1:6"]


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize(
    "option", ["--port=70000", "--threads=0", "--keep-alive=abc", f"--models={__file__}"]
)
def test_an_option_that_cannot_be_read_is_wrong_usage(embedd: Run, option: str) -> None:
    assert embedd("serve", option).status == 2


def test_a_certificate_makes_it_https(embedd: Run, calls: Calls, tmp_path: Path) -> None:
    cert, key = tmp_path / "c", tmp_path / "k"
    cert.touch()
    key.touch()
    assert embedd("serve", "--tls-cert", str(cert)).status == 0
    assert embedd("serve", "--tls-cert", str(cert), "--tls-key", str(key)).status == 0
    assert [tls for *_, tls in calls] == [(cert, None), (cert, key)]


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize(
    "options",
    [
        ["--tls-key", __file__],
        ["--tls-cert", "nothing"],
        ["--tls-cert", __file__, "--host", "unix:/run/s"],
    ],
)
def test_a_certificate_that_cannot_be_meant_is_wrong_usage(embedd: Run, options: list[str]) -> None:
    assert embedd("serve", *options).status == 2


@pytest.mark.usefixtures("calls")
def test_a_taken_port_is_one_line(embedd: Run) -> None:
    outcome = embedd("serve", "--port", "1")
    assert (outcome.status, outcome.err) == (1, "Error: port 1 is taken by Ollama\n")
