"""What the tests of the commands share: a way to run one, a server, a library."""

import io
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from embedd import cli
from embedd.catalog.recipe import HubSource, Recipe
from embedd.config import SETTINGS, Settings
from embedd.errors import ModelNotFoundError, PullError
from embedd.library import Refreshed, ReportProgress, Source, StoredModels, Verified
from embedd.names import parse_model_name
from embedd.ollama_api import Details, ProgressLine, ShowReply, StoredModel, Tensor
from embedd.types import Pooling
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
def _no_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """EMBEDD_HOST names a port on loopback that no server has, nor gets meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("EMBEDD_HOST", f"127.0.0.1:{bound.getsockname()[1]}")
        yield


@pytest.fixture
def _remote(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address that EMBEDD_HOST names counts as another machine's."""
    monkeypatch.setattr("embedd.config.Address.is_local", property(lambda _self: False))


SHOWN = ShowReply(
    license="\n    Apache License\n\nVersion 2.0, January 2004\nhttp://www.apache.org/\n",
    modelfile="FROM /blobs/sha256-0\n",
    parameters=f'{"num_ctx":<30} 256\n{"query_prefix":<30} "ask: "',
    template="{{ .Prompt }}",
    details=Details(
        format="gguf",
        family="bert",
        families=["bert"],
        parameter_size="22.57M",
        quantization_level="F16",
    ),
    model_info={
        "general.architecture": "bert",
        "bert.context_length": 512,
        "bert.embedding_length": 384,
        "general.description": "word " * 20,
        "tokenizer.ggml.tokens": ["[PAD]", "[unused0]", "[unused1]", "[unused2]", "a"],
        "tokenizer.ggml.merges": None,
    },
    tensors=[Tensor(name="token_embd.weight", type="F16", shape=[384, 30522])],
    capabilities=["embedding"],
    modified_at=datetime(2020, 1, 1, tzinfo=UTC),
)


@dataclass
class FakeLibrary:
    """A library in memory that can pull all-minilm."""

    names: list[str] = field(default_factory=lambda: ["all-minilm:latest", "bge-m3:latest"])
    asked: list[tuple[object, ...]] = field(default_factory=list)
    components: list[Mapping[str, Path]] = field(default_factory=list)
    settings: Settings | None = None
    broken: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def list(self) -> StoredModels:
        return [
            StoredModel(
                name=name,
                model=name,
                digest="1b226e2802db" + "0" * 52,
                size=45_960_996,
                modified_at=datetime(2020, 1, 1, tzinfo=UTC),
                capabilities=["embedding"],
            )
            for name in self.names
        ]

    def pull(self, text: str, report: ReportProgress, *, insecure: bool = False) -> bool:
        self.asked.append(("pull", text, insecure))
        report(ProgressLine(status="pulling manifest"))
        if text != "all-minilm":
            raise PullError("pull model manifest: file does not exist")
        for completed in (None, 5, 10):
            report(ProgressLine(status="pulling 797b", total=10, completed=completed))
        report(ProgressLine(status="success"))
        return True

    def create(
        self,
        text: str,
        source: Source,
        *,
        components: Mapping[str, Path],
        quantize: str | None,
        parameters: Mapping[str, object],
        licenses: Sequence[str],
        report: ReportProgress,
    ) -> bool:
        self.asked.append(("create", text, source, quantize, dict(parameters), list(licenses)))
        self.components.append(dict(components))
        report(ProgressLine(status="converting model"))
        report(ProgressLine(status="success"))
        return True

    def refresh(self, report: ReportProgress) -> Sequence[Refreshed]:
        report(ProgressLine(status="pulling manifest"))
        return [
            Refreshed(name="all-minilm:latest", changed=True),
            Refreshed(name="bge-m3:latest"),
            *[Refreshed(name=name, error="no network") for name in self.broken],
        ]

    def search(self, word: str = "") -> Sequence[Recipe]:
        recipe = Recipe(
            name="all-minilm",
            description="small and quick",
            license="apache-2.0",
            pooling=Pooling.MEAN,
            context_length=512,
            dimensions=384,
            tags={"latest": HubSource(repository="a/b", file="c.gguf")},
        )
        return [recipe] if word in recipe.name else []

    def verify(self, text: str | None, report: ReportProgress) -> Verified:
        self.asked.append(("verify", text))
        report(ProgressLine(status="verifying 1b226e2802db", total=9, completed=9))
        problems = tuple(f"blob of {name} is corrupt" for name in self.broken)
        return Verified(models=2, blobs=7, size=45_960_996, problems=problems, unused=self.unused)

    def prune(self) -> Sequence[str]:
        self.asked.append(("prune",))
        return ["sha256-0"]

    def disk_use(self) -> int:
        return 45_960_996

    def show(self, name: str, *, verbose: bool) -> ShowReply:
        self.asked.append(("show", name, verbose))
        if f"{name}:latest" not in self.names:
            raise ModelNotFoundError(name)
        return SHOWN

    def copy(self, source: str, destination: str) -> None:
        if f"{source}:latest" not in self.names:
            raise ModelNotFoundError(source)
        self.names.append(f"{destination}:latest")

    def delete(self, name: str) -> None:
        if f"{name}:latest" not in self.names:
            raise ModelNotFoundError(name)
        self.names.remove(f"{name}:latest")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    library = FakeLibrary()
    # A port without a server, even if one runs on this machine.
    if "EMBEDD_HOST" not in os.environ:
        monkeypatch.setenv("EMBEDD_HOST", "127.0.0.1:1")

    def open_library(settings: Settings) -> FakeLibrary:
        library.settings = settings
        return library

    def open_store(_: Settings) -> SimpleNamespace:
        return SimpleNamespace(
            manifests=SimpleNamespace(names=lambda: map(parse_model_name, library.names))
        )

    runtime = SimpleNamespace(open_library=open_library, open_store=open_store)
    monkeypatch.setitem(sys.modules, "embedd.runtime", runtime)
    return library
