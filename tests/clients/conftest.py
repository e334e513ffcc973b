"""A server in a process of its own, started as users start it, with the default model."""

import json
import os
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.installed_server import MARK, START, serving

ROOT = Path(__file__).parents[2]
# The command of another environment than make's is named by a variable.
EMBEDD = Path(os.environ.get("EMBEDD_COMMAND", ROOT / ".venv" / "bin" / "embedd"))
# Where the JavaScript packages are.
NODE = Path(os.environ.get("CLIENTS_NODE", ROOT / ".venv-clients" / "node"))
MODEL = "all-minilm"
DAMAGED = "all-minilm:q8_0"
KEY = f"{MARK}client"
TEXTS = ["Why is the sky blue?", "Why is the grass green?", "a"]

# Otherwise litellm asks the network for a table of prices, and Haystack sends it statistics.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"

Matrix = npt.NDArray[np.float64]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where servers find the default model, and one whose file is damaged."""
    home = tmp_path_factory.mktemp("home")
    environment = {
        **{name: value for name, value in os.environ.items() if "_PROXY" not in name.upper()},
        "EMBEDD_HOST": "127.0.0.1:0",
        "EMBEDD_MODELS": str(home / "models"),
        "EMBEDD_STATE": str(home / "state"),
        "EMBEDD_DEFAULT_MODEL": MODEL,
    }
    for model in (MODEL, DAMAGED):
        subprocess.run([EMBEDD, "pull", model], env=environment, check=True)
    [manifest] = (home / "models" / "manifests").glob(f"*/*/{DAMAGED.replace(':', '/')}")
    digest = json.loads(manifest.read_text())["layers"][0]["digest"].replace(":", "-")
    with (home / "models" / "blobs" / digest).open("r+b") as blob:
        blob.truncate(1 << 20)
    return environment


@pytest.fixture(scope="session")
def url(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of the server."""
    with serving(EMBEDD, environment, tmp_path_factory.mktemp("open") / "log") as url:
        yield url


@pytest.fixture(scope="session")
def strict_url(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Base URL of a locked server with narrow limits, which keeps no model."""
    narrow = {
        "EMBEDD_API_KEY": KEY,
        "EMBEDD_MAX_BODY": "4000",
        "EMBEDD_MAX_QUEUE": "0",
        "EMBEDD_KEEP_ALIVE": "0",
    }
    environment = {**environment, **narrow}
    with serving(EMBEDD, environment, tmp_path_factory.mktemp("strict") / "log") as url:
        yield url


@pytest.fixture(scope="session")
def expected(url: str) -> Matrix:
    """Vectors of the texts by ``/api/embed``, without any client."""
    body = json.dumps({"model": MODEL, "input": TEXTS}).encode()
    with urllib.request.urlopen(f"{url}/api/embed", body, timeout=START) as reply:
        return np.array(json.load(reply)["embeddings"])


@pytest.fixture
def check(expected: Matrix) -> Callable[[object], None]:
    """Fails unless it is given the expected vectors, in order."""

    def check(vectors: object) -> None:
        given = np.array(vectors, np.float64)
        assert given.shape == expected.shape == (len(TEXTS), 384)
        norms = np.linalg.norm(given, axis=1) * np.linalg.norm(expected, axis=1)
        assert ((given * expected).sum(axis=1) / norms > 0.9999).all()

    return check
