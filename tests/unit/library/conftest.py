"""A store with a library over it that records which weights it verifies and quantises."""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from embedd.catalog.catalog import Catalog
from embedd.library import Library, Source
from embedd.library.quantize import FileType
from embedd.ollama_api import ProgressLine
from embedd.resolve import Resolver
from embedd.store.store import Store
from tests.tiny_models import write_tiny_bert


@dataclass
class Workshop:
    """A library whose quantiser writes a tiny model of the type that was asked for."""

    root: Path
    seen: list[ProgressLine] = field(default_factory=list)
    verified: list[Path] = field(default_factory=list)
    quantized: list[tuple[str, FileType]] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return Store(self.root / "models")

    @property
    def library(self) -> Library:
        store = self.store
        return Library(
            store,
            Resolver(store),
            Catalog([]),
            verify=lambda path, _: self.verified.append(path),
            quantize=self.quantize,
        )

    def quantize(
        self, source: Path, target: Path, file_type: FileType, report: Callable[[int, int], None]
    ) -> None:
        self.quantized.append((source.name, file_type))
        for done in (1, 2, 4):
            report(done, 4)
        weights = {FileType.F32: "f32", FileType.F16: "f16"}.get(file_type, "q8_0")
        shutil.move(write_tiny_bert(self.root / "quantized.gguf", weights=weights), target)

    def gguf(self, name: str = "a.gguf", **arguments: object) -> Path:
        return write_tiny_bert(self.root / name, **arguments)  # type: ignore[arg-type]  # keyword arguments, passed on

    def create(self, name: str, source: Source, **arguments: object) -> bool:
        self.seen.clear()
        return self.library.create(name, source, report=self.seen.append, **arguments)  # type: ignore[arg-type]  # keyword arguments, passed on

    @property
    def statuses(self) -> list[str]:
        """What was reported, each status once."""
        return list(dict.fromkeys(step.status for step in self.seen))

    @property
    def names(self) -> set[str]:
        return {entry.name for entry in self.library.list()}

    @property
    def files(self) -> set[str]:
        blobs = self.store.layout.blobs
        return {path.name for path in blobs.iterdir()} if blobs.is_dir() else set()


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


@pytest.fixture
def chance() -> random.Random:
    return random.Random(7)
