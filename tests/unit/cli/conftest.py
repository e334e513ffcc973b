"""What the tests of the commands share: a way to run one, a server, a library."""

import io
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from embedd import api, cli
from embedd.config import SETTINGS, Settings
from embedd.errors import ModelNotFoundError, PullError
from tests.unit.cli.fake_server import FakeServer, in_background


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in SETTINGS:
        monkeypatch.delenv(f"EMBEDD_{setting.name}", raising=False)
        monkeypatch.delenv(f"OLLAMA_{setting.name}", raising=False)


@pytest.fixture
def embedd(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """``embedd(*args, stdin=…)``; without *stdin* it is a terminal."""

    def run(*args: str, stdin: bytes | None = None) -> Outcome:
        kind = Terminal if stdin is None else io.TextIOWrapper
        monkeypatch.setattr(sys, "stdin", kind(io.BytesIO(stdin or b"")))
        status = cli.run(args)
        out, err = capfd.readouterr()
        return Outcome(status, out, err)

    return run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """A server on loopback that EMBEDD_HOST names."""
    with in_background(FakeServer()) as server:
        monkeypatch.setenv("EMBEDD_HOST", server.url)
        yield server


@pytest.fixture
def _nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """EMBEDD_HOST names a port on loopback where nobody answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        monkeypatch.setenv("EMBEDD_HOST", f"127.0.0.1:{listener.getsockname()[1]}")


@pytest.fixture
def _remote(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address that EMBEDD_HOST names counts as another machine's."""
    monkeypatch.setattr("embedd.config.Address.is_local", property(lambda _self: False))


@dataclass
class FakeLibrary:
    """A store in memory; it knows how to pull all-minilm."""

    names: list[str] = field(default_factory=lambda: ["all-minilm:latest", "bge-m3:latest"])
    asked: list[tuple[object, ...]] = field(default_factory=list)
    settings: Settings | None = None

    def list(self) -> list[api.StoredModel]:
        return [
            api.StoredModel(
                name=name,
                model=name,
                modified_at=datetime(2020, 1, 1, tzinfo=UTC),
                size=45_960_996,
                digest="1b226e2802db" + "0" * 52,
            )
            for name in self.names
        ]

    def pull(self, name: str, report: Callable[[api.ProgressLine], None]) -> None:
        self.asked.append(("pull", name))
        report(api.ProgressLine(status="pulling manifest"))
        if name != "all-minilm":
            raise PullError("pull model manifest: file does not exist")
        for completed in (None, 5, 10):
            report(api.ProgressLine(status="pulling 797b", total=10, completed=completed))
        report(api.ProgressLine(status="success"))

    def create(
        self,
        name: str,
        source: Path,
        quantize: str | None,
        report: Callable[[api.ProgressLine], None],
    ) -> None:
        self.asked.append(("create", name, source, quantize))
        report(api.ProgressLine(status="converting model"))
        report(api.ProgressLine(status="success"))

    def delete(self, name: str) -> None:
        if f"{name}:latest" not in self.names:
            raise ModelNotFoundError(name)
        self.names.remove(f"{name}:latest")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    library = FakeLibrary()

    def open_library(settings: Settings) -> FakeLibrary:
        library.settings = settings
        return library

    runtime = SimpleNamespace(open_library=open_library)
    monkeypatch.setitem(sys.modules, "embedd.runtime", runtime)
    return library
