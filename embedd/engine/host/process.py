"""The server's handle on one worker process."""

import asyncio
import contextlib
import itertools
import logging
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np

from embedd.engine.backends import Backend
from embedd.engine.host.connection import Frames
from embedd.engine.host.exit_status import Death, count_oom_kills, describe_death
from embedd.engine.host.load_wait import LoadWait
from embedd.engine.host.watchdog import Watchdog
from embedd.engine.ipc import messages
from embedd.engine.ipc.board import Board
from embedd.engine.ipc.facts import split_ids, to_info, to_load, to_vocabulary_load
from embedd.engine.spec import ModelInfo, ModelSpec
from embedd.engine.tuning.settings import ONE_REPLICA, Tuning
from embedd.errors import (
    EngineError,
    LoadTimeoutError,
    ModelLoadError,
)
from embedd.metrics import DeathReason
from embedd.types import Pooling, TokenIds, TokenPiece, Vectors

log = logging.getLogger(__name__)

_Answer: TypeAlias = asyncio.Future[tuple[messages.FromWorker, bytes]]

KEPT_STDERR = 8192  # bytes: an abort's assertion is at the end
GRACE = 2.0  # seconds between the end of the socket and SIGKILL


class WorkerDiedError(EngineError):
    """The process ended; ``started``: it was computing the batch that was waited for.

    ``alone``: and no other.
    """

    def __init__(self, death: Death, *, started: bool = False, alone: bool = False) -> None:
        super().__init__(str(death))
        self.death = death
        self.started = started
        self.alone = alone


class StuckError(EngineError):
    """The batch took far too long, or was computed with one that did, and was stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """Vectors of one batch, shape (rows, width), and the seconds it took to compute them."""

    vectors: Vectors
    seconds: float


class WorkerProcess:
    """A worker from its start to its end. Made by `start`.

    Every waiting call is answered, or fails with `WorkerDiedError`, whatever becomes
    of the process.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._process: asyncio.subprocess.Process
        self._frames: Frames
        self._ids = itertools.count(1)
        self._calls: dict[int, _Answer] = {}
        self._watchdog = Watchdog(
            has_begun=board.has,
            abort=lambda id_: self._frames.write(messages.Abort(id_, stuck=True)),
            kill=self._kill,
        )
        self._loading: LoadWait | None = None
        self._death: Death | None = None
        self._oom_kills = count_oom_kills()
        self._died_computing = False
        self._stderr = b""
        self._errors: asyncio.Task[None]
        self._reading: asyncio.Task[None]

    @classmethod
    async def start(cls, environment: Mapping[str, str]) -> Self:
        """Start an interpreter of its own, never a fork: threads and locks do not survive one.

        Raises:
            ModelLoadError: The system gives no process.
        """
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as undo, theirs, tempfile.TemporaryFile() as file:
            board = Board.create(file)
            undo.callback(board.close)
            worker = cls(board)
            await worker.connect(ours)
            undo.callback(worker._frames.close)
            descriptors = [theirs.fileno(), file.fileno()]
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-P",  # the user's folder must not provide modules
                    "-m",
                    "embedd.engine.worker",
                    *map(str, descriptors),
                    pass_fds=descriptors,
                    env=environment,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                )
            except OSError as error:
                raise ModelLoadError(f"cannot start a worker process: {error}") from error
            undo.pop_all()
        worker.watch(process)
        return worker

    async def connect(self, sock: socket.socket) -> None:
        """Speak through this end of a socket pair, whose other end the process has."""
        _, self._frames = await asyncio.get_running_loop().create_unix_connection(
            lambda: Frames(self._dispatch), sock=sock
        )

    def watch(self, process: asyncio.subprocess.Process) -> None:
        """The process that has the other end: its end is the end of every waiting call."""
        self._process = process
        self._errors = asyncio.create_task(self._keep_stderr())
        self._reading = asyncio.create_task(self._await_end())

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def death(self) -> Death | None:
        """How it ended, or None."""
        return self._death

    @property
    def died_computing(self) -> bool:
        """It is dead, and a batch had begun: that batch is suspect."""
        return self._died_computing

    async def load(
        self,
        spec: ModelSpec,
        *,
        backend: Backend,
        threads: int,
        tuning: Tuning = ONE_REPLICA,
        tolerance: float | None = None,
        patience: float | None = None,
        report: Callable[[float], None] = lambda _share: None,
    ) -> ModelInfo:
        """Load the model.

        Args:
            tolerance: How far its vectors may be from llama.cpp's; None does not look.
            patience: Seconds without progress; None is endless.

        Raises:
            ModelLoadError: The file cannot be used (`InsufficientMemoryError`: not now).
            SelfTestError: It loads, and computes rubbish.
            WorkerDiedError: The process ended.
            LoadTimeoutError: No progress for *patience* seconds.
        """
        message = to_load(spec, backend, threads, tuning, tolerance)
        return await self._load(message, spec, patience, report)

    async def load_vocabulary(self, spec: ModelSpec, *, patience: float | None) -> ModelInfo:
        """Load the vocabulary and nothing else: the numbers of its facts are 0.

        Raises:
            ModelLoadError: The file cannot be used.
            WorkerDiedError: The process ended.
            LoadTimeoutError: It takes longer than *patience* seconds.
        """
        return await self._load(to_vocabulary_load(spec), spec, patience, lambda _share: None)

    async def _load(
        self,
        message: messages.Load,
        spec: ModelSpec,
        patience: float | None,
        report: Callable[[float], None],
    ) -> ModelInfo:
        try:
            async with asyncio.timeout(patience) as deadline:
                ready = asyncio.get_running_loop().create_future()
                self._loading = LoadWait(ready, report, deadline, patience)
                self._refuse_if_dead()
                await self._frames.send(message)
                said = await ready
                self._watchdog.learn(1.0, said.seconds_per_token)
                return to_info(said, message.engine, message.backend)
        except TimeoutError:
            raise LoadTimeoutError(f'timed out loading model "{spec.name}"') from None
        finally:
            self._loading = None

    async def tokenize(
        self, texts: Sequence[str], *, add_special: bool = True, parse_special: bool = True
    ) -> list[TokenIds]:
        """Ids of each text; see `Tokenizer.tokenize`.

        Raises:
            WorkerDiedError: The process ended.
        """
        sendable = [_to_unicode(text) for text in texts]
        reply, array = await self._call(
            lambda id_: messages.Tokenize(id_, sendable, add_special, parse_special)
        )
        if not isinstance(reply, messages.Tokens):
            raise _unexpected(reply)
        return split_ids(array, reply.lengths)

    async def detokenize(self, sequences: Sequence[TokenIds], *, special: bool) -> list[bytes]:
        """The text of each sequence; see `Tokenizer.detokenize`.

        Raises:
            WorkerDiedError: The process ended.
            EngineError: An id is outside the vocabulary.
        """
        lengths = [len(ids) for ids in sequences]
        reply, _ = await self._call(
            lambda id_: messages.Detokenize(id_, lengths, special), np.concatenate(sequences)
        )
        if not isinstance(reply, messages.Texts):
            raise _unexpected(reply)
        return reply.texts

    async def token_pieces(self, ids: TokenIds) -> list[TokenPiece]:
        """What each token stands for; see `Tokenizer.token_pieces`.

        Raises:
            WorkerDiedError: The process ended.
            EngineError: An id is outside the vocabulary.
        """
        reply, _ = await self._call(messages.Spell, ids)
        if not isinstance(reply, messages.Pieces):
            raise _unexpected(reply)
        return list(map(TokenPiece, reply.texts, reply.special))

    async def encode(
        self,
        sequences: Sequence[TokenIds],
        pooling: Pooling | None,
        *,
        urgent: bool = False,
        alone: bool = False,
    ) -> Encoded:
        """Vectors of one batch; see `Engine.encode`.

        An *urgent* batch passes those that the worker has not started and are not. One
        that is not *alone* may be computed together with others. The worker computes no
        longer what a cancelled call waited for.

        Raises:
            WorkerDiedError: The process ended.
            StuckError: It took too long.
            EngineError: The engine refused the batch or gave bad vectors; ``index`` is
                the sequence at fault where it is known.
        """
        lengths = [len(ids) for ids in sequences]
        reply, array = await self._call(
            lambda id_: messages.Encode(id_, pooling, lengths, urgent, alone),
            np.concatenate(sequences) if len(sequences) > 1 else sequences[0],
            computes=sum(lengths),
        )
        if isinstance(reply, messages.Aborted):
            raise StuckError("computing took too long and was stopped")
        if not isinstance(reply, messages.Computed):
            raise _unexpected(reply)
        self._watchdog.learn(sum(lengths), reply.seconds)
        vectors = np.frombuffer(array, np.float32).reshape(reply.rows, -1)
        return Encoded(vectors=vectors, seconds=reply.seconds)

    async def set_cores(self, count: int) -> None:
        """Compute with so many cores from the next batch on."""
        await self._frames.send(messages.Cores(count))

    async def close(self) -> None:
        """End the process and wait until it is gone."""
        self._frames.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                await asyncio.shield(self._reading)
                return
        self._kill()
        await self._reading

    async def _call(
        self,
        make_message: Callable[[int], messages.ToWorker],
        array: TokenIds | None = None,
        *,
        computes: int = 0,
    ) -> tuple[messages.FromWorker, bytes]:
        self._refuse_if_dead()
        id_ = next(self._ids)
        future: _Answer = asyncio.get_running_loop().create_future()
        self._calls[id_] = future
        if computes:  # so many tokens
            self._watchdog.watch(id_, computes)
        try:
            await self._frames.send(make_message(id_), array)
            return await future
        except asyncio.CancelledError:
            if computes:
                self._frames.write(messages.Abort(id_))
            raise
        finally:
            self._calls.pop(id_, None)
            self._watchdog.forget(id_)

    def _refuse_if_dead(self) -> None:
        if self._death is not None:
            raise WorkerDiedError(self._death)

    async def _await_end(self) -> None:
        await self._frames.lost
        self._bury(await self._wait_for_end())

    def _dispatch(self, message: messages.FromWorker, array: bytes) -> None:
        match message:
            case messages.Progress() | messages.Ready() | messages.Failed():
                if self._loading is not None:
                    self._loading.take(message)
            case _:
                # The caller may have left: nobody waits for this answer.
                future = self._calls.get(message.id)
                if future is not None and not future.done():
                    future.set_result((message, array))

    async def _wait_for_end(self) -> Death:
        """The process has closed its socket: how it ended."""
        try:
            async with asyncio.timeout(GRACE):
                await self._process.wait()
        except TimeoutError:
            self._kill()
            await self._process.wait()
        await self._errors
        if self._watchdog.bitten:
            last = "it did not stop a batch that took too long"
            return Death("SIGKILL", last, DeathReason.STUCK)
        kills = count_oom_kills() - self._oom_kills
        return describe_death(self._process.returncode or 0, self._stderr, oom_kills=kills)

    def _bury(self, death: Death) -> None:
        self._death = death
        begun = set(filter(self._board.has, self._calls))
        self._died_computing = bool(begun)
        if self._loading is not None and not self._loading.ready.done():
            self._loading.ready.set_exception(WorkerDiedError(death))
        for id_, future in self._calls.items():
            if not future.done():
                error = WorkerDiedError(death, started=id_ in begun, alone=begun == {id_})
                future.set_exception(error)
        self._watchdog.close()
        self._board.close()

    async def _keep_stderr(self) -> None:
        stderr = self._process.stderr
        while stderr is not None and (chunk := await stderr.read(4096)):
            self._stderr = (self._stderr + chunk)[-KEPT_STDERR:]

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


def _to_unicode(text: str) -> str:
    """Lone surrogates, which no UTF-8 can hold, become question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _unexpected(reply: messages.FromWorker) -> EngineError:
    if isinstance(reply, messages.Refused):
        return EngineError(reply.message, index=reply.index)
    return EngineError(f"the worker answered with {type(reply).__name__}")
