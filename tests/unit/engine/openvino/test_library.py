"""The boundary to OpenVINO: only the CPU's plugin is loaded."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from embedd.engine.protocol import UnsuitableError
from tests.needs import require_openvino

require_openvino()
from embedd.engine.openvino import library

MAPPED = """
from pathlib import Path
from embedd.engine.openvino.library import open_core
open_core()
print(Path("/proc/self/maps").read_text())
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_plugins_of_other_devices_are_not_loaded() -> None:
    command = [sys.executable, "-c", MAPPED]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    plugins = {line.rpartition("/")[2] for line in done.stdout.splitlines() if "_plugin" in line}
    assert len(plugins) == 1, plugins
    assert "cpu" in plugins.pop()


def test_a_cpu_without_a_plugin_is_unsuitable(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutPlugins:
        def get_property(self, device: str, name: str) -> Any:
            raise RuntimeError(f"no plugin for {device} has {name}")

    monkeypatch.setattr("openvino.Core", WithoutPlugins)
    library.open_core.cache_clear()
    try:
        with pytest.raises(UnsuitableError, match="no plugin for CPU"):
            library.open_core()
    finally:
        library.open_core.cache_clear()
