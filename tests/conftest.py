"""What many tests share: the default model, pulled once."""

import logging
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from embedd.config import Settings, read_settings
from embedd.runtime import open_library
from tests.key_watch import WATCH
from tests.needs import INHERITED
from tests.tiny_images import write_tiny_klein

# Without a deadline: a busy machine is no reason to fail. Locally every run has new examples, few
# each time but many in a week. In CI a run depends on the commit only, and a failure prints how
# to repeat it.
hypothesis_settings.register_profile("local", max_examples=40, deadline=None, derandomize=False)
hypothesis_settings.register_profile(
    "ci", max_examples=40, deadline=None, derandomize=True, database=None, print_blob=True
)


def choose_profile(environment: Mapping[str, str]) -> str:
    """Return the name of the profile for a run with these variables."""
    return "ci" if environment.get("CI") else "local"


hypothesis_settings.load_profile(choose_profile(os.environ))


def pytest_configure() -> None:
    """Let the watch see all that the server would log."""
    logging.getLogger().addHandler(WATCH)
    logging.getLogger("embedd").setLevel(logging.INFO)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test with a key in its log or output."""
    report = yield
    found = WATCH.take_found(text for _, text in report.sections)
    if found and report.passed:
        report.outcome = "failed"
        report.longrepr = "a key was logged or printed:\n" + "\n".join(found)
    return report


@pytest.fixture(autouse=True)
def _keep_logger() -> Iterator[None]:
    """Leave the loggers as they were: commands that run in this process set them up anew."""
    logger = logging.getLogger("embedd")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = handlers, level, propagate


DEFAULT_TAGS = ("latest", "f32", "q8_0")

MakeSettings = Callable[..., Settings]


@pytest.fixture
def make_settings(tmp_path: Path) -> MakeSettings:
    """Settings of a server on a free port, with nothing of this machine's own in them."""

    def make(**changes: object) -> Settings:
        settings = read_settings(
            {
                "EMBEDD_HOST": "127.0.0.1:0",
                "EMBEDD_MODELS": str(tmp_path / "models"),
                "EMBEDD_STATE": str(tmp_path / "state"),
                "EMBEDD_THREADS": "1",
                # A vector that is compared with another must have been computed.
                "EMBEDD_CACHE_BYTES": "0",
                **INHERITED,
            }
        )
        return replace(settings, **changes)  # type: ignore[arg-type]  # keyword arguments of replace

    return make


@pytest.fixture(scope="session")
def tiny_klein(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny image model in one file; read it, change nothing in it."""
    return write_tiny_klein(tmp_path_factory.mktemp("klein") / "klein.gguf")


@pytest.fixture(scope="session")
def default_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds all-minilm with every tag; read it, change nothing in it."""
    root = tmp_path_factory.mktemp("default")
    settings = read_settings({"EMBEDD_MODELS": str(root), "EMBEDD_STATE": str(root / "state")})
    library = open_library(settings)
    for tag in DEFAULT_TAGS:
        library.pull(f"all-minilm:{tag}")
    return root
