"""How a worker starts: with few imports, for every load waits for them."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from embedd.config import worker_environment
from embedd.engine.host.process import WorkerProcess
from embedd.engine.host.spawned import spawn_worker

HEAVY = ["aiohttp", "asyncio", "llama_cpp", "openvino", "prometheus_client", "psutil"]


@pytest.mark.parametrize("module", HEAVY)
def test_a_worker_imports_only_what_every_worker_needs(module: str) -> None:
    check = f"import embedd.engine.worker.__main__, sys; print({module!r} in sys.modules)"
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, check=True)
    assert found.stdout == b"False\n"


def has_mapped(pid: int, library: str) -> bool:
    return library in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
async def test_a_worker_imports_the_engine_that_it_is_to_expect_before_any_load() -> None:
    spawned = spawn_worker("embedd.engine.worker", "llama", worker_environment())
    worker = await WorkerProcess.adopt(spawned)
    try:
        async with asyncio.timeout(60):
            while not has_mapped(worker.pid, "libllama"):
                await asyncio.sleep(0.01)
    finally:
        await worker.close()
