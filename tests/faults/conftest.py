"""Faults in two forms: a short one in `make test`, a full one with a table in `make faults`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from embedd.store.store import Store
from tests.faults.figures import Figure, Figures, format_table
from tests.faults.process import Home
from tests.tiny_models import write_tiny_bert
from tests.unit.stored import store_model

ROWS = pytest.StashKey[list[Figure]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full",
        action="store_true",
        help="minutes instead of seconds, and the bounds of times; on a machine that is idle",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if _is_full(config) and (rows := config.stash[ROWS]):
        terminalreporter.section("figures")
        for line in format_table(rows):
            terminalreporter.line(line)


def _is_full(config: pytest.Config) -> bool:
    return bool(config.getoption("full", default=False))


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of a scenario is run."""

    full: bool

    def choose(self, *, short: int, full: int) -> int:
        """Return the number for this run."""
        return full if self.full else short


@pytest.fixture(scope="session")
def scale(pytestconfig: pytest.Config) -> Scale:
    """Whether this is `make faults`."""
    return Scale(full=_is_full(pytestconfig))


@pytest.fixture
def figures(request: pytest.FixtureRequest, scale: Scale) -> Iterator[Figures]:
    """The figures of this test, which fails if one of their bounds is broken."""
    name = request.node.name.removeprefix("test_").replace("_", " ")
    measured = Figures(name, times_count=scale.full)
    yield measured
    request.config.stash.setdefault(ROWS, []).extend(measured.rows)
    assert not measured.broken, "\n".join(map(str, measured.broken))


def _quick(scale: Scale) -> dict[str, str]:
    """Settings with which a load takes least: what is tested is the server, not the engine."""
    return {} if scale.full else {"ENGINE": "llama", "THREADS": "1"}


@pytest.fixture
def home(tmp_path: Path, scale: Scale) -> Home:
    """A store with `tiny` and `other`, which are loaded in a moment."""
    store = Store(tmp_path / "models")
    for seed, name in enumerate(("tiny", "other")):
        path = write_tiny_bert(tmp_path / f"{name}.gguf", context=512, seed=seed)
        store_model(store, name, path)
    return Home(tmp_path, inside=_quick(scale))


@dataclass(frozen=True, slots=True, kw_only=True)
class Arena:
    """A store, and the model in it that floods are for: one that keeps the processor busy."""

    home: Home
    model: str


@pytest.fixture
def arena(tmp_path: Path, scale: Scale, request: pytest.FixtureRequest) -> Arena:
    """all-minilm; in the short form a smaller one, which is written and loaded in a moment."""
    if not scale.full:
        path = write_tiny_bert(tmp_path / "busy.gguf", width=256, layers=3, heads=8, context=512)
        store_model(Store(tmp_path / "models"), "busy", path)
        return Arena(home=Home(tmp_path, inside=_quick(scale)), model="busy")
    root: Path = request.getfixturevalue("default_store")
    (tmp_path / "models").mkdir()
    for folder in ("blobs", "manifests"):
        (tmp_path / "models" / folder).symlink_to(root / folder)
    return Arena(home=Home(tmp_path), model="all-minilm")
