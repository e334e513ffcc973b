"""What each process imports: modules that it does not need cost its start time and its memory."""

import json
import subprocess
import sys
from collections.abc import Collection

import pytest

from tests.needs import require_openvino

FIRST = "embedd.cli, embedd.cli.serve"  # before the first worker starts
START = f"{FIRST}, embedd.server.serve"
SERVER = f"{START}, embedd.server.wiring"
WORKER = "embedd.engine.worker.__main__"
LLAMA = f"{WORKER}, embedd.engine.llama.engine"
OPENVINO = f"{WORKER}, embedd.engine.openvino.engine"

# Of the class `Llama`, of which only the ctypes layer beside it is used.
WHOLE_BINDING = {"llama_cpp.llama", "jinja2", "diskcache"}
OF_THE_SERVER = {"aiohttp", "asyncio", "click", "huggingface_hub", "prometheus_client", "psutil"}


def find_imported(imports: str, names: Collection[str]) -> list[str]:
    script = f"import json, sys, {imports}; print(json.dumps(list(sys.modules)))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    return sorted(set(names) & set(json.loads(done.stdout)))


def test_the_server_imports_no_engine_converter_or_client_of_the_hub() -> None:
    names = {
        "llama_cpp",
        "openvino",
        "tokenizers",
        "huggingface_hub",
        "gguf",
        "safetensors",
        "rich",
    }
    assert find_imported(SERVER, names | {"aiohttp"}) == ["aiohttp"]


def test_the_first_worker_starts_before_the_server_imports_more_than_its_settings() -> None:
    later = ["asyncio", "importlib.metadata", "msgspec", "numpy", "prometheus_client", "tempfile"]
    assert find_imported(FIRST, later) == []
    assert find_imported(SERVER, later) == later


def test_models_load_before_the_server_imports_what_speaks_http() -> None:
    assert find_imported(START, ["aiohttp", "embedd.runtime"]) == []
    assert find_imported(SERVER, ["aiohttp", "embedd.runtime"]) == ["aiohttp", "embedd.runtime"]


@pytest.mark.parametrize("imports", [WORKER, LLAMA])
def test_a_worker_imports_nothing_of_the_server_and_no_template_engine(imports: str) -> None:
    assert find_imported(imports, OF_THE_SERVER | WHOLE_BINDING | {"gguf", "tokenizers"}) == []


def test_a_worker_with_openvino_imports_none_of_its_tools() -> None:
    require_openvino()
    names = OF_THE_SERVER | WHOLE_BINDING | {"gguf", "tokenizers", "openvino.tools.ovc"}
    assert find_imported(OPENVINO, names) == []


def test_the_whole_binding_can_be_imported_after_its_layer() -> None:
    script = """
import sys
from embedd.engine.llama.binding import lib
print("llama_cpp" in sys.modules)
import llama_cpp
print(llama_cpp.Llama.__name__, llama_cpp.llama_cpp is lib)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.split() == ["False", "Llama", "True"]
