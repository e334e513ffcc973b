"""A server that systemd starts: it says when it is ready, and serves the sockets it is given."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from tests.needs import INHERITED

START = 30.0  # seconds that a start or an end may take on a busy machine
# The process id is known to the process alone, which then becomes the server.
AS_SYSTEMD = """
import os, sys
os.dup2(int(os.environ["SOCKET"]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.argv[1], sys.argv[1:])
"""


def start(folder: Path, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "embedd", "serve", "--threads", "1"]
    inherited = [int(environment["SOCKET"])] if "SOCKET" in environment else []
    if inherited:
        command = [sys.executable, "-c", AS_SYSTEMD, *command]
    names = {name: value for name, value in os.environ.items() if not name.startswith("EMBEDD_")}
    return subprocess.Popen(
        command,
        env=names
        | INHERITED
        | {
            "EMBEDD_MODELS": str(folder / "models"),
            "EMBEDD_STATE": str(folder / "state"),
            "EMBEDD_HOST": "127.0.0.1:0",
        }
        | environment,
        pass_fds=inherited,
        stderr=subprocess.PIPE,
    )


def read_log(process: subprocess.Popen[bytes]) -> str:
    """All that it logged; it ended with 0 after SIGTERM."""
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=START)
    assert process.returncode == 0, log
    return log.decode()


def test_the_manager_learns_that_the_server_listens_and_that_it_stops(tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(START)
        process = start(tmp_path, NOTIFY_SOCKET=str(address))
        assert manager.recv(100) == b"READY=1"
        log = read_log(process)
        assert manager.recv(100) == b"STOPPING=1"
    assert "embedd is listening" in log


def test_an_inherited_socket_is_served_instead_of_the_configured_address(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = start(tmp_path, SOCKET=str(listener.fileno()))
        # The connection waits in the socket until the server accepts it.
        with urllib.request.urlopen(url, timeout=START) as answer:
            assert answer.read() == b"Ollama is running"
    assert f"address={url}" in read_log(process)


def test_an_inherited_socket_on_all_interfaces_warns_about_the_missing_key(tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
        process = start(tmp_path, SOCKET=str(listener.fileno()))
        urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=START).close()
    assert "reachable from other machines without a key" in read_log(process)
