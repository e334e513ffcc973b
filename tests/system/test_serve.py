"""The installed command ``embedd serve``: start, preload, stop, and what is in its way."""

import contextlib
import fcntl
import http.server
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.needs import INHERITED, require_diffusion
from tests.tiny_images import write_tiny_klein
from tests.tiny_models import write_tiny_bert

NO_SERVER = "127.0.0.1:1"  # or commands would change the server of whoever runs the tests
START = 30.0  # seconds that a start or an end may take on a busy machine


class Server:
    """A running ``embedd serve`` and what it printed."""

    def __init__(
        self, process: subprocess.Popen[str], log: Path, environment: dict[str, str]
    ) -> None:
        self.process = process
        self.environment = environment
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

    def connect(self) -> socket.socket:
        """Return a connection that reads little ahead."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(START)
        client.connect((host, int(port)))
        return client

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
        "EMBEDD_HOST": NO_SERVER,
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

    def run(*options: str, **settings: str) -> Server:
        log = tmp_path / f"log{len(servers)}"
        with log.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "embedd", "serve", *options],
                env=environment | settings,
                stdout=stream,
                stderr=stream,
                text=True,
            )
        servers.append(Server(process, log, environment | settings))
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


def test_clients_that_stall_do_not_keep_a_server_from_ending(start: Start) -> None:
    """A half-sent body, a slow reader, and a change that waits for a lock held elsewhere."""
    server = start("--port", "0", "--threads", "1", EMBEDD_SHUTDOWN_GRACE="8s")
    server.wait_for("embedd is listening")
    server.post("/api/embed", {"model": "tiny", "input": "the cat"})
    lock = Path(server.environment["EMBEDD_MODELS"]) / "embedd.lock"
    with contextlib.ExitStack() as stack:
        half, slow, change = (stack.enter_context(server.connect()) for _ in range(3))
        fcntl.flock(stack.enter_context(lock.open("a")), fcntl.LOCK_EX)
        half.sendall(_request("/api/embed", {"model": "tiny", "input": "the cat"})[:-1])
        slow.sendall(_request("/api/embed", {"model": "tiny", "input": ["the same"] * 60_000}))
        change.sendall(_request("/api/copy", {"source": "tiny", "destination": "x"}))
        assert slow.recv(9) == b"HTTP/1.1 "
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(START) == 0
        # The server stops, or its client made no progress: whichever was seen first.
        assert half.recv(20)[9:12] in (b"503", b"408")
        assert b" 503 " in change.recv(20)
    assert server.lines.rstrip().endswith("stopped")


def test_what_hangs_beyond_the_grace_does_not_keep_a_server_from_ending(start: Start) -> None:
    """A worker that was stopped does not end by itself; its grace is longer than the server's."""
    server = start("--port", "0", "--threads", "1", EMBEDD_SHUTDOWN_GRACE="500ms")
    server.wait_for("embedd is listening")
    server.post("/api/embed", {"model": "tiny", "input": "the cat"})
    [worker] = server.workers
    worker.suspend()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(START) == 0
    assert "EMBEDD_SHUTDOWN_GRACE is over" in server.lines
    worker.resume()
    worker.wait(START)


def test_a_terminal_that_closes_ends_neither_server_nor_worker(server: Server) -> None:
    server.post("/api/embed", {"model": "tiny", "input": "the cat"})
    [worker] = server.workers
    for process in (psutil.Process(server.process.pid), worker):
        process.send_signal(signal.SIGHUP)
    server.post("/api/embed", {"model": "tiny", "input": "the dog"})
    assert [one.pid for one in server.workers] == [worker.pid]


def _request(path: str, body: object) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def test_a_second_signal_does_not_wait_and_leaves_no_worker(server: Server) -> None:
    server.post("/api/embed", {"model": "tiny", "input": "the cat"})
    [worker] = server.workers
    worker.suspend()

    def ask() -> None:
        with pytest.raises(OSError):
            server.post("/api/embed", {"model": "tiny", "input": "the dog"})

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


def add_damaged_model(environment: dict[str, str], folder: Path) -> None:
    """Store the model ``damaged``, whose weights are then cut off."""
    file = write_tiny_bert(folder / "damaged.gguf", width=64)
    command = [sys.executable, "-m", "embedd", "create", "damaged", "--from", str(file)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    blobs = Path(environment["EMBEDD_MODELS"], "blobs").iterdir()
    [blob] = [one for one in blobs if one.stat().st_size == file.stat().st_size]
    os.truncate(blob, blob.stat().st_size // 2)


def test_load_makes_a_model_ready_before_the_first_request(
    start: Start, environment: dict[str, str], tmp_path: Path
) -> None:
    add_damaged_model(environment, tmp_path)
    server = start("--port", "0", "--load", "tiny", "--load", "damaged")
    server.wait_for("model loaded model=tiny:latest")
    server.wait_for("model not loaded model=damaged")
    assert len(server.workers) == 1


def test_a_model_that_cannot_be_loaded_leaves_the_server_running_but_not_ready(
    start: Start, environment: dict[str, str], tmp_path: Path
) -> None:
    add_damaged_model(environment, tmp_path)
    server = start("--port", "0", "--load", "damaged")
    server.wait_for("model not loaded model=damaged")
    server.wait_for("embedd is listening")
    server.wait_for(lambda: not server.workers)
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"{server.url}/ready")
    server.post("/api/embed", {"model": "tiny", "input": "the cat"})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("tinny", "did you mean tiny?"),
        ("all-minilm", "run `embedd pull all-minilm`"),
        ("bad name!", "`embedd list` shows the models in the store"),
    ],
)
def test_a_model_of_load_that_does_not_exist_stops_the_start(
    name: str, hint: str, start: Start
) -> None:
    server = start("--port", "0", "--load", "tiny", "--load", name)
    assert server.process.wait(START) == 1
    assert server.lines == f'Error: --load: model "{name}" not found: {hint}\n'


@pytest.mark.parametrize(
    ("settings", "keys"),
    [({}, "off"), ({"EMBEDD_API_KEY": "k"}, "on"), ({"EMBEDD_ADMIN_KEY": "k"}, "admin")],
)
def test_the_first_lines_say_where_the_page_is_and_what_needs_a_key(
    settings: dict[str, str], keys: str, start: Start
) -> None:
    server = start("--port", "0", EMBEDD_BASE_PATH="/vectors", **settings)
    server.wait_for("open the page in a browser")
    first, second = server.lines.splitlines()
    assert first.endswith(f" keys={keys}")
    assert second.endswith(f" page={server.url}/vectors/ui")


def test_load_makes_an_image_model_ready_too(start: Start, tmp_path: Path) -> None:
    require_diffusion()
    settings = {
        "EMBEDD_MODELS": str(tmp_path / "models"),
        "EMBEDD_STATE": str(tmp_path / "state"),
        "EMBEDD_HOST": NO_SERVER,
    }
    file = write_tiny_klein(tmp_path / "klein.gguf")
    subprocess.run(
        [sys.executable, "-m", "embedd", "create", "pictures", "--from", str(file)],
        env={**os.environ, **settings},
        check=True,
        capture_output=True,
    )
    server = start("--port", "0", "--load", "pictures", **settings)
    server.wait_for("model loaded model=pictures:latest")
    server.wait_for("embedd is listening")
    with urllib.request.urlopen(f"{server.url}/ready") as answer:
        assert answer.status == 200


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
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    second.process.terminate()
    assert second.process.wait(START) == 0
    assert not path.exists()


def _lines_of(server: Server) -> str:
    assert server.process.wait(START) == 1
    return server.lines


def test_an_address_of_another_machine_is_told(start: Start) -> None:
    lines = _lines_of(start("--host", "192.0.2.1")).splitlines()
    assert lines[-1].startswith("Error: cannot listen on 192.0.2.1")
