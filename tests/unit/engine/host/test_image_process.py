"""The server's end of the socket to a worker that paints; every frame is written by the test."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from embedd.config import image_worker_environment
from embedd.engine.fake_painter import INFO
from embedd.engine.host import child
from embedd.engine.host.child import KEPT_STDERR, Child
from embedd.engine.host.errors import WorkerDiedError
from embedd.engine.host.image_process import ImageWorker, PaintedFile
from embedd.engine.image_spec import ImageInfo
from embedd.engine.ipc import framing
from embedd.engine.ipc import image_messages as messages
from embedd.engine.ipc.messages import Failed, Fault, Ping, Progress
from embedd.errors import (
    EngineError,
    InsufficientMemoryError,
    LoadTimeoutError,
    ModelLoadError,
    WorkerUnavailableError,
)
from embedd.images import Phase, Preview
from embedd.metrics import DeathReason
from tests.unit.painter.images import make_image_spec
from tests.unit.painter.orders import make_order

# It does not look at the socket: what ends it is the signal.
SLEEPER = (
    "import sys, time; sys.stderr.write('x' * 9000 + '\\nGGML_ASSERT failed\\n'); time.sleep(600)"
)
LOAD = messages.LoadPainter(spec=make_image_spec(), engine="fake", threads=1)


class Peer:
    """The other end of the socket, in the hands of the test, and a process that only sleeps."""

    def __init__(self, sock: socket.socket, worker: ImageWorker) -> None:
        self.sock = sock
        self.worker = worker

    def send(self, message: messages.FromPainter, data: bytes = b"") -> None:
        frame = framing.make_frame(message, np.frombuffer(data, np.uint8))
        self.sock.sendall(b"".join(frame))

    async def receive(self) -> messages.ToPainter:
        """The next message of the server that is not a ping."""
        loop = asyncio.get_running_loop()
        while True:
            prefix = await loop.sock_recv(self.sock, framing.PREFIX.size)
            header, array = framing.parse_prefix(prefix)
            body = await loop.sock_recv(self.sock, header + array)
            message = messages.parse_to_painter(body[:header])
            if not isinstance(message, Ping):
                return message

    async def load(self, **options: Any) -> "asyncio.Task[ImageInfo]":
        task = asyncio.create_task(self.worker.load(LOAD, **options))
        assert isinstance(await self.receive(), messages.LoadPainter)
        return task

    async def paint(self, events: list[object]) -> "tuple[asyncio.Task[PaintedFile], int]":
        def take(phase: Phase, step: int, preview: Preview | None) -> None:
            events.append((phase, step, preview))

        task = asyncio.create_task(self.worker.paint(make_order(), take))
        message = await self.receive()
        assert isinstance(message, messages.Paint)
        return task, message.id


@pytest.fixture
async def peer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Peer]:
    monkeypatch.setattr(child, "GRACE", 0.05)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    sleeper = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", SLEEPER, stderr=asyncio.subprocess.PIPE
    )
    with theirs:
        worker = ImageWorker()
        await worker.connect(ours)
        worker.watch(Child(sleeper))
        yield Peer(theirs, worker)
        await worker.close()
    assert sleeper.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.MODEL, ModelLoadError),
        (Fault.MEMORY, InsufficientMemoryError),
        (Fault.INPUT, EngineError),
    ],
)
async def test_the_fault_of_a_failed_call_decides_the_error(
    peer: Peer, fault: Fault, error: type[Exception]
) -> None:
    task = await peer.load()
    peer.send(Failed(1, "the reason", fault))
    with pytest.raises(error, match=r"^the reason$") as caught:
        await task
    assert type(caught.value) is error


async def test_progress_of_a_load_is_reported_and_postpones_the_timeout(peer: Peer) -> None:
    shares: list[float] = []
    task = await peer.load(timeout=600.0, report=shares.append)
    for share in (0.25, 1.0):
        peer.send(Progress(share))
    peer.send(messages.PainterReady(1, INFO))
    assert await task == INFO == peer.worker.info
    assert shares == [0.25, 1.0]


async def test_a_load_without_progress_ends_with_the_name_of_the_model(peer: Peer) -> None:
    task = await peer.load(timeout=0.01)
    with pytest.raises(LoadTimeoutError, match=r'^timed out loading model "klein"$'):
        await task


async def test_steps_and_previews_belong_to_the_picture_that_is_waited_for(peer: Peer) -> None:
    events: list[object] = []
    task, id_ = await peer.paint(events)
    peer.send(messages.Step(id_ - 1, Phase.SAMPLING, 9))
    peer.send(messages.Previewed(id_ - 1, 9, 0), b"old")
    peer.send(messages.Step(id_, Phase.SAMPLING, 0))
    peer.send(messages.Previewed(id_, 1, 0), b"new")
    peer.send(messages.Step(id_, Phase.DECODING, 3))
    peer.send(messages.Painted(id_ - 1, 9.0, 9.0), b"old")
    peer.send(messages.Painted(id_, 2.0, 1.0), b"file")
    assert await task == PaintedFile(data=b"file", sample_seconds=2.0, decode_seconds=1.0)
    assert events == [
        (Phase.SAMPLING, 0, None),
        (Phase.SAMPLING, 1, Preview(number=0, data=b"new")),
        (Phase.DECODING, 3, None),
    ]


async def test_an_answer_of_the_wrong_kind_is_an_error(peer: Peer) -> None:
    task, id_ = await peer.paint([])
    peer.send(messages.PainterReady(id_, INFO))
    with pytest.raises(EngineError, match=r"^the worker answered with PainterReady$"):
        await task


async def test_a_second_answer_is_ignored(peer: Peer) -> None:
    task, id_ = await peer.paint([])
    peer.send(messages.Painted(id_, 0.0, 0.0), b"one")
    peer.send(messages.Painted(id_, 0.0, 0.0), b"two")
    assert (await task).data == b"one"


async def test_a_process_that_goes_on_without_its_socket_is_killed(peer: Peer) -> None:
    task, _ = await peer.paint([])
    async with asyncio.timeout(60):
        while not peer.worker._child._stderr.endswith(b"failed\n"):
            await asyncio.sleep(0.01)
    peer.sock.shutdown(socket.SHUT_RDWR)
    with pytest.raises(WorkerDiedError) as caught:
        await task
    assert str(caught.value) == "the worker process ended with SIGKILL: GGML_ASSERT failed"
    assert caught.value.reason is DeathReason.KILLED
    assert len(peer.worker._child._stderr) <= KEPT_STDERR


async def test_an_invalid_frame_ends_the_connection(
    peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    task, _ = await peer.paint([])
    peer.sock.sendall(b"\xff" * 64)
    with pytest.raises(WorkerDiedError):
        await task
    assert "invalid frame from worker" in caplog.text


async def test_killing_a_process_that_has_ended_has_no_effect(peer: Peer) -> None:
    peer.worker.kill()
    await peer.worker.close()
    peer.worker.kill()


async def test_a_system_that_gives_no_process_is_an_error_of_the_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    with pytest.raises(WorkerUnavailableError, match=r"^cannot start a worker process: .*memory"):
        await ImageWorker.start(image_worker_environment())
