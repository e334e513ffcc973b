"""The installed command ``embedd serve``: start, preload, stop, and what is in its way."""

import contextlib
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.needs import INHERITED
from tests.tiny_models import write_tiny_bert

START = 30.0  # seconds that a start or an end may take on a busy machine


class Server:
    """A running ``embedd serve`` and what it printed."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def lines(self) -> str:
        return self._log.read_text()

    @property
    def url(self) -> str:
        match = re.search(r"address=(http://\S+)", self.lines)
        assert match, self.lines
        return match[1]

    @property
    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def wait_for(self, what: str | Callable[[], bool]) -> None:
        deadline = time.monotonic() + START
        while not (what in self.lines if isinstance(what, str) else what()):
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.02)

    def post(self, path: str, body: object) -> dict[str, object]:
        data = json.dumps(body).encode()
        with urllib.request.urlopen(self.url + path, data, timeout=START) as reply:
            decoded: dict[str, object] = json.load(reply)
            return decoded


Start = Callable[..., Server]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A store with one tiny model."""
    home = tmp_path_factory.mktemp("home")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("EMBEDD_")},
        "EMBEDD_MODELS": str(home / "models"),
        "EMBEDD_STATE": str(home / "state"),
        **INHERITED,
    }
    write_tiny_bert(home / "tiny.gguf")
    subprocess.run(
        [sys.executable, "-m", "embedd", "create", "tiny", "--from", str(home / "tiny.gguf")],
        env=environment,
        check=True,
        capture_output=True,
    )
    return environment


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    servers: list[Server] = []

    def run(*options: str) -> Server:
        log = tmp_path / f"log{len(servers)}"
        with log.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "embedd", "serve", *options],
                env=environment,
                stdout=stream,
                stderr=stream,
                text=True,
            )
        servers.append(Server(process, log))
        return servers[-1]

    yield run
    for server in servers:
        with contextlib.suppress(ProcessLookupError):
            server.process.send_signal(signal.SIGTERM)
        server.process.wait(START)


@pytest.fixture
def server(start: Start) -> Server:
    server = start("--port", "0", "--threads", "1")
    server.wait_for("embedd is listening")
    return server


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_and_its_workers(server: Server, number: int) -> None:
    server.post("/api/embed", {"model": "tiny", "input": "the cat"})
    [worker] = server.workers
    server.process.send_signal(number)
    assert server.process.wait(START) == 0
    assert not worker.is_running()
    assert server.lines.rstrip().endswith("stopped")


def test_a_running_request_is_finished_before_the_server_stops(server: Server) -> None:
    texts = ["the cat sat on the mat " * 4] * 3000
    replies = []
    asking = threading.Thread(
        target=lambda: replies.append(server.post("/api/embed", {"model": "tiny", "input": texts}))
    )
    asking.start()
    server.wait_for("model loaded")
    server.process.send_signal(signal.SIGTERM)
    asking.join(START)
    assert server.process.wait(START) == 0
    [reply] = replies
    assert len(reply["embeddings"]) == len(texts)  # type: ignore[arg-type]  # JSON: a list


def test_a_second_signal_does_not_wait_and_leaves_no_worker(server: Server) -> None:
    server.post("/api/embed", {"model": "tiny", "input": "the cat"})
    [worker] = server.workers
    worker.suspend()

    def ask() -> None:
        with pytest.raises(OSError):
            server.post("/api/embed", {"model": "tiny", "input": "the cat"})

    hanging = threading.Thread(target=ask)
    hanging.start()
    time.sleep(0.2)
    server.process.send_signal(signal.SIGTERM)
    server.wait_for("stopping")
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(START) == 130
    worker.resume()
    worker.wait(START)
    hanging.join(START)


def test_workers_end_with_a_server_that_is_killed(server: Server) -> None:
    server.post("/api/embed", {"model": "tiny", "input": "the cat"})
    [worker] = server.workers
    server.process.kill()
    worker.wait(START)


def test_load_makes_a_model_ready_before_the_first_request(start: Start) -> None:
    server = start("--port", "0", "--load", "tiny", "--load", "nope")
    server.wait_for("model loaded model=tiny:latest")
    server.wait_for("model not loaded model=nope")
    assert len(server.workers) == 1


def test_a_port_in_use_is_an_error_that_names_the_process(start: Start, server: Server) -> None:
    port = server.url.rsplit(":", 1)[1]
    second = start("--port", port)
    assert second.process.wait(START) == 1
    assert second.lines == (
        f"Error: 127.0.0.1:{port} is in use by another embedd: stop it, "
        "or choose another port with --port\n"
    )


def test_a_port_in_use_by_ollama_is_an_error_that_says_so(start: Start) -> None:
    class Ollama(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"Ollama is running")

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with http.server.HTTPServer(("127.0.0.1", 0), Ollama) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        second = start("--port", str(other.server_port))
        assert second.process.wait(START) == 1
        other.shutdown()
    assert "is in use by Ollama" in second.lines


def test_a_port_taken_by_something_silent_is_told(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        second = start("--port", str(other.getsockname()[1]))
        assert second.process.wait(START) == 1
    assert re.search(r"is in use by .*python.* \(process \d+\)", second.lines)


def test_a_unix_socket_serves_and_is_taken_over_after_a_crash(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "embedd.sock"
    first = start("--host", f"unix:{path}")
    first.wait_for("embedd is listening")
    assert "in use" in _lines_of(start("--host", f"unix:{path}"))
    first.process.kill()
    first.process.wait()
    second = start("--host", f"unix:{path}")
    second.wait_for("embedd is listening")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert b"Ollama is running" in client.makefile("rb").read()


def _lines_of(server: Server) -> str:
    assert server.process.wait(START) == 1
    return server.lines


def test_an_address_of_another_machine_is_told(start: Start) -> None:
    lines = _lines_of(start("--host", "192.0.2.1")).splitlines()
    assert lines[-1].startswith("Error: cannot listen on 192.0.2.1")
