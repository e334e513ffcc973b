"""Runs scripts of this folder with Node, beside the packages that they need."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import NODE

needs_node = pytest.mark.skipif(
    shutil.which("node") is None, reason="needs node, which is not installed"
)


def run_node(name: str, *args: str) -> dict[str, Any]:
    """What a script of this folder prints."""
    script = NODE / name
    shutil.copy(Path(__file__).with_name(name), script)
    done = subprocess.run(["node", script, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed
