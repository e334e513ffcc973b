"""A build of llama.cpp that computes wrong with repacked weights still serves a q8_0 model.

So it is with GCC 12 on a CPU with AMX: the first product of quantised weights ends the process.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from embedd.choices import EngineChoice
from embedd.config import Settings
from embedd.runtime import open_library
from tests.conftest import MakeSettings
from tests.system.serving import Array, Server, open_server
from tests.tiny_models import write_tiny_bert

# Runs in every worker before anything else.
FAULT = """
import os, signal
from embedd.engine.llama.engine import LlamaEngine

encode = LlamaEngine.encode

def faulty(self, sequences, *arguments, **options):
    vectors = encode(self, sequences, *arguments, **options)
    # As the miscompiled instructions: one token survives.
    if self.info.backend not in {backends!r} or max(map(len, sequences)) < 2:
        return vectors
    {fault}

LlamaEngine.encode = faulty
"""
FAULTS = {
    "dies": "os.kill(os.getpid(), signal.SIGSEGV)",
    "computes no numbers": "return vectors * float('nan')",
    "computes zeros": "return vectors * 0",
}
TEXTS = ["the sky is blue", "a cat sat on the mat", "the"]
# Of 1 - cosine: the same rounded weights, multiplied in another order.
QUANTISED = 5e-4


async def embed(server: Server) -> tuple[Array, str]:
    """Vectors, and the header that names what computed them."""
    body = {"model": "tiny", "input": TEXTS}
    async with server.session.post(f"{server.url}/api/embed", json=body) as response:
        assert response.status == 200, await response.text()
        return np.array((await response.json())["embeddings"]), response.headers["X-Embedd-Model"]


@pytest.fixture
def settings(make_settings: MakeSettings, tmp_path: Path) -> Settings:
    """Of a server that has ``tiny``, with q8_0 weights."""
    settings = make_settings(engine=EngineChoice.LLAMA)
    path = write_tiny_bert(tmp_path / "tiny.gguf", width=256, layers=2, weights="q8_0")
    open_library(settings).create("tiny", path)
    return settings


BreakWorkers = Callable[[Sequence[str], str], None]


@pytest.fixture
def break_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BreakWorkers:
    """Plant a fault into these backends of all workers that start from now on."""

    def plant(backends: Sequence[str], fault: str) -> None:
        text = FAULT.format(backends=list(backends), fault=fault)
        (tmp_path / "sitecustomize.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")

    return plant


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("faulty", "backend"),
    [(["llama"], "llama-no-repack"), (["llama", "llama-no-repack"], "llama-safe")],
)
async def test_the_next_backend_serves_where_one_fails_its_self_test(
    faulty: Sequence[str],
    backend: str,
    fault: str,
    *,
    settings: Settings,
    break_workers: BreakWorkers,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_server(settings) as server:
        expected, served_by = await embed(server)
        assert "backend=llama;" in served_by
    break_workers(faulty, FAULTS[fault])
    with caplog.at_level(logging.WARNING, "embedd"):
        async with open_server(settings) as server:
            vectors, served_by = await embed(server)
    assert f"backend={backend};" in served_by
    cosines = (vectors * expected).sum(axis=1)
    assert (1 - cosines).max() <= QUANTISED
    failed = [one for one in caplog.records if one.message == "backend cannot compute model"]
    assert [one.__dict__["backend"] for one in failed] == list(faulty)
