"""``embedd doctor``: all is well, and with one fault planted exactly its line says so."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import web

from embedd.cli.checks import Check, State, check_gpu, check_model
from embedd.cli.doctor import format_check
from embedd.config import read_settings
from embedd.engine.installation import read_library_instructions
from embedd.errors import EngineError, ModelLoadError, PullError
from embedd.machine import Limits, read_cpu_features
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_server import FakeServer
from tests.unit.engine.fake_worker import INFO, SPEC

Patch = pytest.MonkeyPatch
BUILT = frozenset({"AVX", "AVX2", "FMA", "OPENMP"})
FLAGS = frozenset({"fpu", "avx", "avx2", "fma"})


@pytest.fixture(autouse=True)
def _good_machine(monkeypatch: Patch, tmp_path: Path) -> Iterator[None]:
    """A machine on which all is well, whatever this one is."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    monkeypatch.setenv("EMBEDD_HOST", f"127.0.0.1:{port}")
    monkeypatch.setenv("EMBEDD_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("EMBEDD_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("EMBEDD_MEMORY", str(8 << 30))
    for name, value in {
        "embedd.engine.installation.read_library_instructions": lambda _: BUILT,
        "embedd.engine.installation.has_openvino": lambda: True,
        "importlib.metadata.version": lambda _: "1.2.3",
        "embedd.machine.read_cpu_features": lambda: FLAGS,
        "embedd.runtime.open_hub": lambda: SimpleNamespace(probe=lambda: "https://hub"),
        "shutil.disk_usage": lambda _: SimpleNamespace(free=50 << 30),
        "embedd.cli.checks.GPU_DEVICES": (),
    }.items():
        monkeypatch.setattr(name, value)
    yield


def states(embedd: Run) -> dict[str, str]:
    outcome = embedd("doctor", "--json")
    found = {one["name"]: one for one in json.loads(outcome.out)}
    for one in found.values():
        assert bool(one["remedy"]) == (one["state"] != "ok"), one
    assert outcome.status == int("fail" in {one["state"] for one in found.values()})
    return {name: one["state"] for name, one in found.items() if one["state"] != "ok"}


def test_on_a_good_machine_all_is_well(embedd: Run) -> None:
    assert states(embedd) == {}
    outcome = embedd("doctor")
    assert outcome.status == 0
    assert all(line.startswith("ok ") for line in outcome.out.splitlines() if line[0] != " ")


def fail(error: Exception) -> Callable[..., object]:
    def call(*_: object) -> object:
        raise error

    return call


@pytest.mark.parametrize(
    ("target", "value", "line"),
    [
        (
            "embedd.machine.read_cpu_features",
            lambda: FLAGS | {"avx512f"},
            {"processor": "warn"},
        ),
        ("embedd.machine.read_cpu_features", lambda: FLAGS - {"avx2"}, {"processor": "fail"}),
        (
            "embedd.engine.installation.read_library_instructions",
            fail(EngineError("ended (SIGILL)")),
            {"processor": "fail"},
        ),
        ("embedd.engine.installation.has_openvino", lambda: False, {"openvino": "warn"}),
        ("shutil.disk_usage", lambda _: SimpleNamespace(free=1 << 20), {"disk": "warn"}),
        (
            "embedd.runtime.open_hub",
            lambda: SimpleNamespace(probe=fail(PullError("no route"))),
            {"hub": "warn"},
        ),
        ("embedd.cli.checks.GPU_DEVICES", ("null",), {"gpu": "warn"}),
    ],
)
def test_a_fault_of_the_machine_is_one_line(
    embedd: Run, monkeypatch: Patch, target: str, value: object, line: dict[str, str]
) -> None:
    monkeypatch.setattr("embedd.engine.installation.has_gpu_build", lambda _: False)
    monkeypatch.setattr(target, value)
    assert states(embedd) == line


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("EMBEDD_PRECISON", "f32", {"settings": "warn"}),
        ("EMBEDD_MAX_QUEUE", "many", {"settings": "warn"}),
        ("EMBEDD_PRECISION", "bf17", {"settings": "fail"}),
        ("EMBEDD_STATE", "/proc/none", {"state": "warn"}),
        ("EMBEDD_MODELS", "/proc/none", {"store": "fail"}),
    ],
)
def test_a_fault_of_the_settings_is_one_line(
    embedd: Run, monkeypatch: Patch, variable: str, value: str, line: dict[str, str]
) -> None:
    monkeypatch.setenv(variable, value)
    assert states(embedd) == line


def test_a_low_memory_limit_is_one_line(embedd: Run, monkeypatch: Patch) -> None:
    monkeypatch.delenv("EMBEDD_MEMORY")
    monkeypatch.setattr("embedd.config.read_limits", lambda: Limits(cores=2, memory=512 << 20))
    assert states(embedd) == {"memory": "warn"}


def test_a_port_of_another_program_is_one_line(embedd: Run, monkeypatch: Patch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv("EMBEDD_HOST", f"127.0.0.1:{other.getsockname()[1]}")
        monkeypatch.setattr("embedd.client.client.IDENTITY_SECONDS", 0.1)
        monkeypatch.setattr("embedd.server.serve.PROBE_TIMEOUT", 0.1)
        assert states(embedd) == {"port": "fail"}


def test_a_port_on_which_embedd_answers_is_fine(embedd: Run, server: FakeServer) -> None:
    assert "port" not in states(embedd)
    assert f"embedd 0.0.1 answers at {server.url}" in embedd("doctor").out


@pytest.mark.usefixtures("_remote")
def test_another_machine_must_answer(embedd: Run) -> None:
    assert states(embedd) == {"port": "fail"}


def test_a_gpu_is_used_by_a_build_for_one(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setattr("embedd.engine.installation.has_gpu_build", lambda _: True)
    assert "layers on it: all" in check_gpu(read_settings(), tmp_path).found


def test_the_smallest_model_is_loaded(monkeypatch: Patch) -> None:
    async def load(_: object, spec: object) -> object:
        assert spec is SPEC
        return INFO

    monkeypatch.setattr("embedd.cli.checks._find_smallest", lambda _: SPEC)
    monkeypatch.setattr("embedd.runtime.load_once", load)
    assert f"passed its self-test on {INFO.backend}" in check_model(read_settings()).found

    async def refuse(_: object, __: object) -> object:
        raise ModelLoadError("no backend")

    monkeypatch.setattr("embedd.runtime.load_once", refuse)
    assert check_model(read_settings()).state is State.FAIL


def test_lines_fit_the_terminal_and_the_remedy_stands_below() -> None:
    check = Check(name="disk", state=State.WARN, found="word " * 20, remedy="delete " * 10)
    lines = format_check(check, 60).splitlines()
    assert all(len(line) <= 60 for line in lines)
    assert lines[0].startswith("warn  disk       word")
    assert [line for line in lines if "→ delete" in line]


def test_the_library_says_what_it_was_built_for(monkeypatch: Patch) -> None:
    monkeypatch.undo()
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    assert read_library_instructions(environment)
    assert read_cpu_features()


def store_line(embedd: Run) -> str:
    [found] = [one for one in json.loads(embedd("doctor", "--json").out) if one["name"] == "store"]
    return f"{found['state']} {found['found']} {found['remedy']}"


def test_the_store_is_named_with_the_reason_for_it(
    embedd: Run, monkeypatch: Patch, tmp_path: Path
) -> None:
    assert f"{tmp_path}/models (EMBEDD_MODELS), 0 models" in store_line(embedd)
    monkeypatch.delenv("EMBEDD_MODELS")
    monkeypatch.setenv("HOME", str(tmp_path))
    line = store_line(embedd)
    assert f"{tmp_path}/.embedd/models (in this user's HOME: EMBEDD_MODELS is not set)" in line


def test_a_store_with_models_that_is_read_only_is_a_warning(
    embedd: Run, monkeypatch: Patch, tmp_path: Path
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system", "tmp7")

    monkeypatch.setattr("embedd.cli.checks.tempfile.TemporaryFile", refuse)
    unwritable = f"{tmp_path}/models cannot be written: Read-only file system"
    assert store_line(embedd).startswith(f"fail {unwritable} choose a folder")
    manifest = tmp_path / "models/manifests/registry.ollama.ai/library/a/latest"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    line = store_line(embedd)
    assert line.startswith(f"warn {unwritable}; 1 model can be used, and no other can be pulled")


def test_a_server_with_a_store_of_its_own_is_a_warning(embedd: Run, server: FakeServer) -> None:
    line = store_line(embedd)
    assert line.startswith("warn ")
    assert f"the server at {server.url} has another one, with all-minilm:latest" in line


def test_what_does_not_tell_its_models_is_no_warning(embedd: Run, server: FakeServer) -> None:
    server.is_embedd = False
    assert store_line(embedd).startswith("ok ")
    server.is_embedd = True
    server.refusals["/api/tags"] = web.json_response(
        {"error": "invalid API key (none was sent)"}, status=401
    )
    assert store_line(embedd).startswith("ok ")
