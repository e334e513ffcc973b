"""What a server with the default model takes: its processes and their memory."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.needs import INHERITED, require_openvino

START = 120.0  # seconds that a start may take on a busy machine
MOST = 300 << 20  # bytes


@pytest.fixture
def server(default_store: Path, tmp_path: Path) -> Iterator[tuple[psutil.Process, str]]:
    """A server that has answered three texts, and its log."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("EMBEDD_")},
        "EMBEDD_HOST": "127.0.0.1:0",
        "EMBEDD_MODELS": str(default_store),
        "EMBEDD_STATE": str(tmp_path / "state"),
        **INHERITED,
    }
    log = tmp_path / "log"
    command = [sys.executable, "-m", "embedd", "serve", "--load", "all-minilm"]
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stderr=output)
    try:
        end = time.monotonic() + START
        while not (found := re.search(r"address=(\S+)", log.read_text())):
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.02)
        for text in ("Why is the sky blue?", "What is the grass?", "Rain falls on the plain."):
            body = json.dumps({"model": "all-minilm", "input": text}).encode()
            with urllib.request.urlopen(f"{found[1]}/api/embed", body, timeout=START) as reply:
                assert len(json.load(reply)["embeddings"][0]) == 384
        yield psutil.Process(process.pid), log.read_text()
    finally:
        process.terminate()
        assert process.wait(START) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs proportional set sizes")
def test_server_and_worker_take_less_than_300_mib_after_the_first_answers(
    server: tuple[psutil.Process, str],
) -> None:
    require_openvino()
    process, log = server
    assert "engine=openvino" in log
    [worker] = process.children(recursive=True)
    sizes = [one.memory_full_info().pss for one in (process, worker)]
    assert sum(sizes) < MOST, sizes


def test_the_one_worker_is_that_which_started_with_the_server(
    server: tuple[psutil.Process, str],
) -> None:
    process, log = server
    [worker] = process.children(recursive=True)
    assert f"pid={worker.pid}" in log
