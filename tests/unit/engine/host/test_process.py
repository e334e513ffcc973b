"""The server's end of the socket, against a process whose every frame the test writes."""

import asyncio
import errno
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from embedd.engine.backends import LLAMA_BACKENDS
from embedd.engine.host import child, heartbeat, watchdog
from embedd.engine.host.child import Child
from embedd.engine.host.errors import SelfTestError, StuckError, WorkerDiedError
from embedd.engine.host.image_process import ImageWorker
from embedd.engine.host.process import WorkerProcess
from embedd.engine.ipc import framing, messages
from embedd.engine.ipc.board import Board, Place
from embedd.engine.spec import ModelInfo
from embedd.errors import (
    EngineError,
    InsufficientMemoryError,
    LoadTimeoutError,
    ModelLoadError,
    WorkerUnavailableError,
)
from embedd.metrics import DeathReason
from embedd.types import TokenIds, Vectors
from tests.fakes import settle
from tests.unit.engine.fake_worker import SPEC, to_ids

SLEEPER = "import sys, time; print('GGML_ASSERT', file=sys.stderr, flush=True); time.sleep(600)"


class Peer:
    """The other end of the socket, in the hands of the test, and a process that only sleeps."""

    def __init__(
        self, sock: socket.socket, sleeper: asyncio.subprocess.Process, board: Board
    ) -> None:
        self.sock = sock
        self.sleeper = sleeper
        self.board = board
        self.worker: WorkerProcess

    def send(self, message: messages.FromWorker, array: TokenIds | Vectors | None = None) -> None:
        self.write(b"".join(framing.make_frame(message, array)))

    def write(self, data: bytes) -> None:
        self.sock.sendall(data)

    async def receive(self) -> messages.ToWorker:
        """The next message of the server that is not a ping."""
        loop = asyncio.get_running_loop()
        while True:
            prefix = await loop.sock_recv(self.sock, framing.PREFIX.size)
            header, array = framing.parse_prefix(prefix)
            body = await loop.sock_recv(self.sock, header + array)
            message = messages.parse_to_worker(body[:header])
            if not isinstance(message, messages.Ping):
                return message


@pytest.fixture
async def peer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Peer]:
    # It does not look at the socket: what ends it is the signal.
    monkeypatch.setattr(child, "GRACE", 0.05)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    sleeper = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", SLEEPER, stderr=asyncio.subprocess.PIPE
    )
    with theirs, tempfile.TemporaryFile() as file:
        peer = Peer(theirs, sleeper, Board.create(file))
        peer.worker = WorkerProcess(peer.board)
        await peer.worker.connect(ours)
        peer.worker.watch(Child(sleeper))
        yield peer
        await peer.worker.close()
    assert sleeper.returncode is not None


LOAD = messages.Load(spec=SPEC, backend=LLAMA_BACKENDS[0])


async def load(peer: Peer, **options: Any) -> "asyncio.Task[ModelInfo]":
    task = asyncio.create_task(peer.worker.load(LOAD, **options))
    assert isinstance(await peer.receive(), messages.Load)
    return task


async def tokenize(peer: Peer) -> tuple["asyncio.Task[list[TokenIds]]", int]:
    task = asyncio.create_task(peer.worker.tokenize(["a"]))
    message = await peer.receive()
    assert isinstance(message, messages.Tokenize)
    return task, message.id


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (messages.Fault.MODEL, ModelLoadError),
        (messages.Fault.MEMORY, InsufficientMemoryError),
        (messages.Fault.SELF_TEST, SelfTestError),
    ],
)
async def test_the_fault_of_a_failed_load_decides_the_error(
    peer: Peer, fault: messages.Fault, error: type[Exception]
) -> None:
    task = await load(peer)
    peer.send(messages.Failed(1, "the reason", fault))
    with pytest.raises(error, match=r"^the reason$") as caught:
        await task
    assert type(caught.value) is error


async def test_progress_is_reported_and_postpones_the_timeout(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadline = asyncio.timeout(60.0)
    shares: asyncio.Queue[float] = asyncio.Queue()
    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "timeout", lambda _delay: deadline)
        task = await load(peer, timeout=60.0, report=shares.put_nowait)
    before = deadline.when()
    peer.send(messages.Progress(0.5))
    assert await shares.get() == 0.5
    after = deadline.when()
    assert before is not None
    assert after is not None
    assert after > before
    task.cancel()
    await asyncio.wait([task])


async def test_a_load_that_fails_after_its_timeout_disturbs_no_later_call(peer: Peer) -> None:
    task = await load(peer, timeout=0.01)
    with pytest.raises(LoadTimeoutError):
        await task
    peer.send(messages.Failed(1, "late", messages.Fault.MODEL))
    answered, id_ = await tokenize(peer)
    peer.send(messages.Tokens(id_, [1]), to_ids(7))
    assert (await answered)[0].tolist() == [7]


async def test_answers_find_their_calls_in_any_order(peer: Peer) -> None:
    first, id_of_first = await tokenize(peer)
    second, id_of_second = await tokenize(peer)
    peer.send(messages.Tokens(id_of_second, [1]), to_ids(2))
    peer.send(messages.Tokens(id_of_first, [1, 2]), to_ids(1, 3, 4))
    assert [ids.tolist() for ids in await first] == [[1], [3, 4]]
    assert [ids.tolist() for ids in await second] == [[2]]


async def test_an_answer_without_a_call_is_ignored(peer: Peer) -> None:
    peer.send(messages.Computed(99, 1, 0.0), np.ones((1, 2), np.float32))
    task, id_ = await tokenize(peer)
    peer.send(messages.Tokens(id_, [1]), to_ids(7))
    await task


async def test_a_refusal_is_an_error_with_its_index(peer: Peer) -> None:
    task, id_ = await tokenize(peer)
    peer.send(messages.Failed(id_, "no such token", index=3))
    with pytest.raises(EngineError, match=r"^no such token$") as caught:
        await task
    assert caught.value.index == 3


async def test_the_wrong_kind_of_answer_is_an_error(peer: Peer) -> None:
    task, id_ = await tokenize(peer)
    peer.send(messages.Computed(id_, 1, 0.0), np.ones((1, 2), np.float32))
    with pytest.raises(EngineError, match="answered with Computed"):
        await task


@pytest.mark.parametrize(
    "data",
    [b"\xff" * 8, framing.PREFIX.pack(8, 4) + b"junk", framing.PREFIX.pack(4, 0)],
    ids=["absurd lengths", "no message", "nothing"],
)
async def test_an_invalid_frame_ends_the_process_and_every_call(
    peer: Peer, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    loading, (tokenizing, _) = await load(peer), await tokenize(peer)
    peer.write(data)
    for task in (loading, tokenizing):
        with pytest.raises(WorkerDiedError, match="the worker process ended"):
            await task
    assert "invalid frame from worker" in caplog.text


async def test_half_a_frame_before_the_end_fails_every_call(peer: Peer) -> None:
    tokenizing, _ = await tokenize(peer)
    encoding = asyncio.create_task(peer.worker.encode([to_ids(1)], None))
    encode = await peer.receive()
    assert isinstance(encode, messages.Encode)
    peer.board.mark(encode.id)
    peer.write(framing.PREFIX.pack(100, 50) + b"only so much")
    peer.sock.close()
    with pytest.raises(WorkerDiedError) as caught:
        await tokenizing
    assert not caught.value.started
    with pytest.raises(WorkerDiedError) as caught:
        await encoding
    assert caught.value.started
    assert peer.worker.died_computing


async def test_calls_after_the_end_fail_at_once(peer: Peer) -> None:
    peer.sleeper.kill()
    peer.sock.close()
    await peer.worker._reading
    with pytest.raises(WorkerDiedError):
        await peer.worker.tokenize(["a"])
    with pytest.raises(WorkerDiedError):
        await peer.worker.load(LOAD)


async def test_a_worker_that_closes_its_socket_and_stays_is_killed(peer: Peer) -> None:
    task, _ = await tokenize(peer)
    peer.sock.close()
    with pytest.raises(WorkerDiedError, match="the worker process ended"):
        await task
    assert peer.sleeper.returncode == -9


def test_frames_are_decoded_by_the_stricter_rules_of_their_direction() -> None:
    frame = b"".join(framing.make_frame(messages.Failed(1, "no")))
    with pytest.raises(msgspec.ValidationError):
        messages.parse_to_worker(frame[framing.PREFIX.size :])


def test_descriptors_do_not_leak_from_a_worker_that_cannot_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")

    async def fail_to_start() -> None:
        with pytest.raises(ModelLoadError):
            await WorkerProcess.start({})

    def count() -> int:
        return len(list(Path("/dev/fd").iterdir()))

    before = count()
    for _ in range(5):
        asyncio.run(fail_to_start())
    assert count() <= before


async def test_texts_and_pieces_come_back(peer: Peer) -> None:
    detokenizing = asyncio.create_task(peer.worker.detokenize([to_ids(5)], special=True))
    message = await peer.receive()
    assert message == messages.Detokenize(1, [1], special=True)
    peer.send(messages.Texts(1, [b"a"]))
    assert await detokenizing == [b"a"]
    pieces = asyncio.create_task(peer.worker.token_pieces(to_ids(5)))
    assert await peer.receive() == messages.Detokenize(2, None)
    peer.send(messages.Texts(2, [b"a"], [True]))
    assert await pieces == [(b"a", True)]


async def test_a_failed_detokenization_is_an_error(peer: Peer) -> None:
    for task in (
        asyncio.create_task(peer.worker.detokenize([to_ids(5)], special=True)),
        asyncio.create_task(peer.worker.token_pieces(to_ids(5))),
    ):
        message = await peer.receive()
        assert isinstance(message, messages.Detokenize)
        peer.send(messages.Failed(message.id, "no such id"))
        with pytest.raises(EngineError, match="no such id"):
            await task


@pytest.mark.parametrize(
    ("code", "limit"),
    [
        (errno.EMFILE, r"too many open files, the limit is \d+"),
        (errno.ENFILE, "fs.file-max"),
        (errno.EAGAIN, "ulimit -u"),
        (errno.ENOMEM, "not enough memory"),
    ],
)
async def test_what_the_system_has_no_more_of_is_named_and_may_come_back(
    code: int, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError(code, "refused")

    monkeypatch.setattr(socket, "socketpair", refuse)
    for start in (WorkerProcess.start, ImageWorker.start):
        with pytest.raises(WorkerUnavailableError, match=limit):
            await start({})


async def test_a_tokenizer_call_that_was_stopped_is_an_error_of_its_own(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of the worker, that nothing waits for it, is not what the client needs to read."""
    monkeypatch.setattr(watchdog, "TOKENIZER_TIMEOUT", 0.0)
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.01)
    monkeypatch.setattr(heartbeat, "MAX_IDLE", 10_000)
    locating = asyncio.create_task(peer.worker.locate(["a"]))
    message = await peer.receive()
    assert isinstance(message, messages.Locate)
    peer.board.mark_tokenizing(Place.TOKENIZER, message.id)
    assert await peer.receive() == messages.Abandon(message.id)
    peer.send(messages.Failed(message.id, "nothing waits for the answer"))
    with pytest.raises(StuckError, match=r"^a tokenizer call took too long and was stopped$"):
        await locating


async def test_a_retired_worker_answers_what_it_has_and_takes_no_more(peer: Peer) -> None:
    task, id_ = await tokenize(peer)
    retiring = asyncio.create_task(peer.worker.retire())
    await settle()
    with pytest.raises(WorkerDiedError, match="is being replaced"):
        await peer.worker.tokenize(["b"])
    assert not retiring.done()
    peer.send(messages.Tokens(id_, [1]), to_ids(7))
    assert [ids.tolist() for ids in await task] == [[7]]
    await retiring
    assert peer.sleeper.returncode is not None


async def test_a_process_that_answers_no_ping_is_ended_and_its_calls_fail(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.01)
    task, _ = await tokenize(peer)
    await peer.sleeper.wait()
    peer.sock.close()
    with pytest.raises(WorkerDiedError, match="it did not answer and used no processor") as caught:
        await task
    assert (caught.value.reason, caught.value.is_external) == (DeathReason.STOPPED, True)


async def test_of_a_worker_that_was_ended_for_one_call_no_other_is_suspected(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TOKENIZER_TIMEOUT", "STOP_TIMEOUT"):
        monkeypatch.setattr(watchdog, name, 0.0)
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.01)
    monkeypatch.setattr(heartbeat, "MAX_IDLE", 10_000)
    encoding = asyncio.create_task(peer.worker.encode([to_ids(1)], None))
    encode = await peer.receive()
    assert isinstance(encode, messages.Encode)
    peer.board.mark(encode.id)
    tokenizing, id_ = await tokenize(peer)
    peer.board.mark_tokenizing(Place.TOKENIZER, id_)
    await peer.sleeper.wait()
    peer.sock.close()
    with pytest.raises(WorkerDiedError, match="did not stop a tokenizer call") as caught:
        await tokenizing
    assert (caught.value.started, caught.value.alone) == (True, True)
    with pytest.raises(WorkerDiedError) as caught:
        await encoding
    assert (caught.value.started, peer.worker.died_computing) == (False, False)
