"""What the tests of the commands share: a way to run one, a server, a library."""

import io
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from embedd import cli
from embedd.config import SETTINGS, Settings
from embedd.errors import ModelNotFoundError, PullError
from embedd.library import Entries, ModelEntry, Progress, ReportProgress
from embedd.resolve import ModelDetails
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


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Commands set up the logs of the whole process."""
    log = logging.getLogger("embedd")
    before = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.level, log.propagate = before


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

    def list(self) -> Entries:
        return [
            ModelEntry(
                name=name,
                digest="1b226e2802db" + "0" * 52,
                size=45_960_996,
                modified_at=1_577_836_800.0,
                details=ModelDetails(),
                capabilities=("embedding",),
            )
            for name in self.names
        ]

    def pull(self, text: str, report: ReportProgress) -> bool:
        self.asked.append(("pull", text))
        report(Progress(status="pulling manifest"))
        if text != "all-minilm":
            raise PullError("pull model manifest: file does not exist")
        for completed in (None, 5, 10):
            report(Progress(status="pulling 797b", total=10, completed=completed))
        report(Progress(status="success"))
        return True

    def create(
        self,
        text: str,
        source: Path,
        *,
        quantize: str | None,
        report: ReportProgress,
    ) -> bool:
        self.asked.append(("create", text, source, quantize))
        report(Progress(status="converting model"))
        report(Progress(status="success"))
        return True

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
