"""The process that paints: previews, files, errors, and what it does not import."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from embedd.config import image_worker_environment
from embedd.engine.fake_painter import BLANK, REFUSE
from embedd.engine.ipc import image_messages as messages
from embedd.engine.ipc.messages import Failed, Fault, Progress
from embedd.engine.worker.connection import Connection
from embedd.engine.worker.painting import ENGINES, NICENESS, PaintingWorker, choose_previews
from embedd.errors import InsufficientMemoryError, ModelLoadError
from embedd.images import ImagePart, Phase
from tests.unit.painter.images import make_image_spec
from tests.unit.painter.orders import make_order


@pytest.mark.parametrize(
    ("steps", "previews", "shown"),
    [
        (4, 0, {}),
        (4, 1, {2: 0}),
        (4, 3, {1: 0, 2: 1, 3: 2}),
        (20, 3, {5: 0, 10: 1, 15: 2}),
        (150, 3, {37: 0, 75: 1, 112: 2}),
        (2, 3, {1: 0}),
        (1, 3, {}),
    ],
)
def test_previews_are_spread_evenly_and_never_the_last_step(
    steps: int, previews: int, shown: dict[int, int]
) -> None:
    assert choose_previews(make_order(steps=steps, previews=previews)) == shown


class Server:
    """The other end of a worker's socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.connection = Connection(sock, messages.parse_from_painter)

    def send(self, message: messages.ToPainter) -> None:
        self.connection.send((message, None))

    def answer(self) -> tuple[messages.FromPainter, bytes]:
        """The next message that is not a step."""
        while True:
            received = self.connection.receive()
            assert received is not None
            if not isinstance(received[0], messages.Step | Progress):
                return received


@pytest.fixture
def server() -> Iterator[Server]:
    """A worker in threads of this process."""
    ours, theirs = socket.socketpair()
    connection = Connection(theirs, messages.parse_to_painter)
    server = Server(ours)
    with ours, theirs, server.connection._file, connection._file:
        thread = threading.Thread(target=PaintingWorker(connection).run)
        thread.start()
        yield server
        ours.shutdown(socket.SHUT_WR)
        thread.join()


def load(server: Server, path: Path) -> messages.FromPainter:
    spec = make_image_spec(parts={ImagePart.MODEL: path})
    server.send(messages.LoadPainter(id=1, spec=spec, engine="fake", threads=1))
    return server.answer()[0]


def test_a_worker_answers_each_message_with_its_id(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model").touch()
    assert isinstance(load(server, tmp_path / "model"), messages.PainterReady)
    server.send(messages.Paint(2, make_order()))
    server.send(messages.Paint(3, make_order(REFUSE)))
    server.send(messages.Paint(4, make_order(BLANK)))
    painted, file = server.answer()
    assert isinstance(painted, messages.Painted)
    assert painted.id == 2
    assert file.startswith(b"\x89PNG")
    refused, blank = server.answer()[0], server.answer()[0]
    assert refused == Failed(3, "the engine refused the picture")
    assert isinstance(blank, Failed)
    assert blank.id == 4
    assert "the picture is blank" in blank.message


@pytest.mark.parametrize(
    ("error", "fault", "text"),
    [
        (ModelLoadError("bad file"), Fault.MODEL, "bad file"),
        (InsufficientMemoryError("too large"), Fault.MEMORY, "too large"),
        (MemoryError(), Fault.MEMORY, "not enough memory"),
    ],
)
def test_a_model_that_does_not_load_is_answered_with_its_fault(
    server: Server, monkeypatch: pytest.MonkeyPatch, error: Exception, fault: Fault, text: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("embedd.engine.fake_painter.FakePainter.load", fail)
    assert load(server, Path("/none")) == Failed(1, text, fault)


def test_a_picture_without_memory_is_an_error_of_its_own(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    (tmp_path / "model").touch()
    load(server, tmp_path / "model")
    monkeypatch.setattr("embedd.engine.fake_painter.FakePainter.paint", fail)
    server.send(messages.Paint(2, make_order()))
    assert server.answer()[0] == Failed(2, "not enough memory")


CHECK = """
import sys
import embedd.engine.worker.painting
print(*sorted(name for name in sys.modules if "llama" in name))
"""


def test_the_process_imports_nothing_of_llama_cpp() -> None:
    """Both libraries export the functions of their own ggml."""
    command = [sys.executable, "-P", "-c", CHECK]
    environment = image_worker_environment() | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_process_gives_way_to_others_and_its_threads_do_not_spin() -> None:
    environment = image_worker_environment({"OMP_WAIT_POLICY": "active", "PATH": "/bin"})
    assert environment["OMP_WAIT_POLICY"] == "passive"
    assert environment["GGML_NO_BACKTRACE"] == "1"
    assert environment["PATH"] == "/bin"
    assert NICENESS > 0


@pytest.mark.parametrize("place", ENGINES.values())
def test_every_engine_is_where_the_table_says(place: str) -> None:
    module, name = place.split(":")
    source = Path(*module.split(".")).with_suffix(".py")
    assert f"class {name}" in (Path(__file__).parents[4] / source).read_text()


def test_a_step_says_its_phase() -> None:
    """`Phase` crosses the socket by its value, which logs and clients show too."""
    assert [phase.value for phase in Phase] == ["loading", "queued", "sampling", "decoding"]
