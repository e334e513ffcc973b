"""How a worker starts: with few imports, for every load waits for them."""

import subprocess
import sys

import pytest

HEAVY = ["aiohttp", "asyncio", "llama_cpp", "openvino", "prometheus_client", "psutil"]


@pytest.mark.parametrize("module", HEAVY)
def test_a_worker_imports_only_what_every_worker_needs(module: str) -> None:
    check = f"import embedd.engine.worker.__main__, sys; print({module!r} in sys.modules)"
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, check=True)
    assert found.stdout == b"False\n"
