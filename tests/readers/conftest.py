"""Outputs of ``embedd bulk``, with the lines that the command prints to read them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

ROOT = Path(__file__).parents[2]
# The command of another environment than make's is named by a variable.
EMBEDD = Path(os.environ.get("EMBEDD_COMMAND", ROOT / ".venv" / "bin" / "embedd"))
MODEL = "all-minilm"
WIDTH = 384
WITH_ERRORS = 3  # exit status: a row has no vector
LINE = re.compile(r"^  (\w+): +(\S.*)$", re.MULTILINE)
WORDS = [
    "river",
    "mountain",
    "garden",
    "doctor",
    "market",
    "ocean",
    "winter",
    "time",
    "oil",
    "music",
]

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """An output, and what is in it.

    Args:
        lines: What the command prints to read it, by the name before the colon.
        vectors: Of the ids, in their order; shape (ids, `WIDTH`).
    """

    target: Path
    lines: dict[str, str]
    ids: list[str]
    vectors: Matrix


def run_bulk(
    environment: dict[str, str], source: Path, target: Path, *options: str
) -> tuple[int, dict[str, str]]:
    """Return the exit status of the command, and the lines that it prints to read the output."""
    command = [EMBEDD, "bulk", MODEL, source, "-o", target, "--local", "--id", "isbn", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, dict(LINE.findall(done.stderr))


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where the command finds the default model."""
    home = tmp_path_factory.mktemp("home")
    environment = {
        **os.environ,
        "EMBEDD_MODELS": str(home / "models"),
        "EMBEDD_STATE": str(home / "state"),
    }
    subprocess.run([EMBEDD, "pull", MODEL], env=environment, check=True)
    return environment


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred different texts with ids and numbers, and a row without a text."""
    path = tmp_path_factory.mktemp("source") / "books.jsonl"
    rows = [
        {"isbn": f"b{one}{two}", "text": f"{WORDS[one]} and {WORDS[two]}", "year": 1900 + one}
        for one in range(10)
        for two in range(10)
    ]
    rows.append({"isbn": "none", "text": None, "year": 0})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def write(
    environment: dict[str, str], source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Written]:
    """Write an output of a name with options, once."""
    written: dict[tuple[str, ...], Written] = {}

    def run(name: str, *options: str) -> Written:
        key = (name, *options)
        if key not in written:
            target = tmp_path_factory.mktemp("out") / name
            status, lines = run_bulk(environment, source, target, *options)
            assert status == WITH_ERRORS
            written[key] = Written(target=target, lines=lines, **expected)
        return written[key]

    # What every reader should find: as JSON it is read without any of them.
    plain = tmp_path_factory.mktemp("plain") / "plain.jsonl"
    expected = {"ids": [], "vectors": np.zeros((0, WIDTH), np.float32)}
    run(plain.name)
    rows = [json.loads(one) for one in written.pop((plain.name,)).target.read_text().splitlines()]
    expected["ids"] = [row["isbn"] for row in rows]
    expected["vectors"] = np.array([row["embedding"] for row in rows], np.float32)
    return run


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Variables with which ``psql`` and psycopg find a PostgreSQL that has pgvector."""
    pgserver = pytest.importorskip("pgserver")
    server = pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="stop")
    programs = Path(pgserver.__file__).parent / "pginstall" / "bin"
    host = re.search(r"host=([^&]+)", server.get_uri())
    assert host
    yield {
        **os.environ,
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PGHOST": host[1],
        "PGUSER": "postgres",
        "PGDATABASE": "postgres",
    }
    server.cleanup()
