"""The server's handle on one worker process."""

import asyncio
import contextlib
import itertools
import logging
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Self, TypeAlias, TypeVar

import msgspec
import numpy as np

from embedd.engine.host import child
from embedd.engine.host.child import Child
from embedd.engine.host.connection import Frames
from embedd.engine.host.errors import (
    SelfTestError,
    StuckError,
    WorkerDiedError,
    to_start_error,
)
from embedd.engine.host.watchdog import Watchdog
from embedd.engine.ipc import messages
from embedd.engine.ipc.board import Board
from embedd.engine.ipc.framing import split_ids, split_located
from embedd.engine.spec import ModelInfo
from embedd.engine.tokenizer_place import LLAMA_TOKENIZER, TokenizerVerdict
from embedd.errors import (
    EmbeddError,
    EngineError,
    InsufficientMemoryError,
    LoadTimeoutError,
    ModelLoadError,
)
from embedd.metrics import DeathReason
from embedd.tokenizers.slices import replace_surrogates
from embedd.types import Located, Pooling, TokenIds, TokenPiece, Vectors

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer", bound=messages.FromWorker)
_Waiting: TypeAlias = asyncio.Future[tuple[messages.FromWorker, bytes]]

MODULE = "embedd.engine.worker"


class WorkerProcess:
    """A worker process from its start to its end. Made by `start`.

    Every waiting call is answered or fails with `WorkerDiedError`, whatever happens to the
    process.

    Attributes:
        info: Facts of the model; set by `load`.
        tokenizer: What the load found out about the model's own tokenizer.
        death: How the process ended, or None.
        died_computing: Whether it ended while it computed a batch, which may be the cause.
    """

    info: ModelInfo
    tokenizer: TokenizerVerdict = LLAMA_TOKENIZER

    def __init__(self, board: Board) -> None:
        self.death: WorkerDiedError | None = None
        self.died_computing = False
        self._board = board
        self._child: Child
        self._frames: Frames[messages.FromWorker]
        self._ids = itertools.count(1)
        self._calls: dict[int, _Waiting] = {}
        self._watchdog = Watchdog(
            has_begun=board.has,
            abort=lambda id_: self._frames.write(messages.Abort(id_, stuck=True)),
            kill=self._kill,
        )
        self._take_progress: Callable[[float], None] | None = None
        self._reading: asyncio.Task[None]

    @classmethod
    async def start(cls, environment: Mapping[str, str]) -> Self:
        """Start a process that has loaded nothing yet.

        Raises:
            ModelLoadError: The program does not exist.
            WorkerUnavailableError: The system has no process or descriptor left.
        """
        try:
            return await cls._start(environment)
        except OSError as error:
            raise to_start_error(error) from error

    @classmethod
    async def _start(cls, environment: Mapping[str, str]) -> Self:
        with contextlib.ExitStack() as undo, tempfile.TemporaryFile() as file:
            board = Board.create(file)
            undo.callback(board.close)
            ours, theirs = socket.socketpair()
            with theirs:
                worker = cls(board)
                await worker.connect(ours)
                undo.callback(worker._frames.close)
                descriptors = [theirs.fileno(), file.fileno()]
                started = await Child.start(MODULE, descriptors, environment)
            undo.pop_all()
        worker.watch(started)
        return worker

    async def connect(self, sock: socket.socket) -> None:
        """Talk through this end of a socket pair, whose other end the process has."""
        _, self._frames = await asyncio.get_running_loop().create_unix_connection(
            lambda: Frames(self._dispatch, messages.parse_from_worker), sock=sock
        )

    def watch(self, process: Child) -> None:
        """Fail every waiting call when *process*, which has the other end, ends."""
        self._child = process
        self._reading = asyncio.create_task(self._await_end())

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    async def load(
        self,
        load: messages.Load,
        *,
        timeout: float | None = None,
        report: Callable[[float], None] = lambda _share: None,
    ) -> ModelInfo:
        """Load a model, or its vocabulary alone: then the numbers of its facts are 0.

        Args:
            timeout: Seconds that the load may make no progress; None is unlimited.
            report: Called with the share (0 … 1) of the weights that is loaded.

        Raises:
            ModelLoadError: The model cannot be loaded (`InsufficientMemoryError`: not now).
            SelfTestError: It computes wrong vectors.
            WorkerDiedError: The process ended.
            LoadTimeoutError: No progress for *timeout* seconds.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout) as deadline:

                def take_progress(share: float) -> None:
                    if timeout is not None and not deadline.expired():
                        deadline.reschedule(loop.time() + timeout)
                    report(share)

                self._take_progress = take_progress
                ready, _ = await self._call(
                    messages.Ready, lambda id_: msgspec.structs.replace(load, id=id_)
                )
        except TimeoutError:
            raise LoadTimeoutError(f'timed out loading model "{load.spec.name}"') from None
        finally:
            self._take_progress = None
        self._watchdog.learn(1.0, ready.seconds_per_token)
        self.info, self.tokenizer = ready.info, ready.tokenizer
        return self.info

    async def tokenize(
        self, texts: Sequence[str], *, add_special: bool = True, parse_special: bool = True
    ) -> list[TokenIds]:
        """Token ids of each text; see `Tokenizer.tokenize`.

        Raises:
            WorkerDiedError: The process ended.
        """
        sendable = [replace_surrogates(text) for text in texts]
        tokens, array = await self._call(
            messages.Tokens,
            lambda id_: messages.Tokenize(id_, sendable, add_special, parse_special),
        )
        return split_ids(array, tokens.lengths)

    async def locate(self, texts: Sequence[str], *, parse_special: bool = True) -> list[Located]:
        """Token ids and places in each text; see `Tokenizer.locate`.

        Raises:
            WorkerDiedError: The process ended.
        """
        sendable = [replace_surrogates(text) for text in texts]
        tokens, array = await self._call(
            messages.Tokens, lambda id_: messages.Locate(id_, sendable, parse_special)
        )
        return split_located(array, tokens.lengths)

    async def detokenize(self, sequences: Sequence[TokenIds], *, special: bool) -> list[bytes]:
        """The text of each sequence; see `Tokenizer.detokenize`.

        Raises:
            WorkerDiedError: The process ended.
            EngineError: An id is outside the vocabulary.
        """
        lengths = [len(ids) for ids in sequences]
        answer, _ = await self._call(
            messages.Texts,
            lambda id_: messages.Detokenize(id_, lengths, special),
            np.concatenate(sequences),
        )
        return answer.texts

    async def token_pieces(self, ids: TokenIds) -> list[TokenPiece]:
        """The piece of text that each token stands for; see `Tokenizer.token_pieces`.

        Raises:
            WorkerDiedError: The process ended.
            EngineError: An id is outside the vocabulary.
        """
        answer, _ = await self._call(
            messages.Texts, lambda id_: messages.Detokenize(id_, lengths=None), ids
        )
        return list(map(TokenPiece, answer.texts, answer.special))

    async def encode(
        self,
        sequences: Sequence[TokenIds],
        pooling: Pooling | None,
        *,
        urgent: bool = False,
        alone: bool = False,
    ) -> tuple[Vectors, float]:
        """Vectors of one batch and the seconds that it computed; see `Engine.encode`.

        An *urgent* batch overtakes those that the worker has not started and are not. One
        that is not *alone* may be computed together with others. When the call is cancelled
        the worker stops computing for it.

        Raises:
            WorkerDiedError: The process ended.
            StuckError: It took too long.
            EngineError: The engine refused the batch or gave bad vectors; ``index`` is
                the sequence at fault where it is known.
        """
        lengths = [len(ids) for ids in sequences]
        computed, array = await self._call(
            messages.Computed,
            lambda id_: messages.Encode(id_, pooling, lengths, urgent, alone),
            np.concatenate(sequences) if len(sequences) > 1 else sequences[0],
            computes=sum(lengths),
        )
        self._watchdog.learn(sum(lengths), computed.seconds)
        return np.frombuffer(array, np.float32).reshape(computed.rows, -1), computed.seconds

    async def set_cores(self, count: int) -> None:
        """Compute with *count* cores from the next batch on."""
        await self._frames.send(messages.Cores(count))

    async def close(self) -> None:
        """End the process and wait until it is gone."""
        self._frames.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(child.GRACE):
                await asyncio.shield(self._reading)
                return
        self._kill()
        await self._reading

    async def _call(
        self,
        kind: type[_Answer],
        make_message: Callable[[int], messages.ToWorker],
        array: TokenIds | None = None,
        *,
        computes: int = 0,
    ) -> tuple[_Answer, bytes]:
        """The worker's answer of this *kind* with its array.

        Args:
            computes: Tokens of a batch to compute; 0 for other calls.
        """
        if self.death is not None:
            raise WorkerDiedError(str(self.death), self.death.reason)
        id_ = next(self._ids)
        future: _Waiting = asyncio.get_running_loop().create_future()
        self._calls[id_] = future
        if computes:
            self._watchdog.watch(id_, computes)
        try:
            await self._frames.send(make_message(id_), array)
            answer, payload = await future
        except asyncio.CancelledError:
            if computes:
                self._frames.write(messages.Abort(id_))
            elif kind is messages.Tokens:
                self._frames.write(messages.Abandon(id_))
            raise
        finally:
            self._calls.pop(id_, None)
            self._watchdog.forget(id_)
        if not isinstance(answer, kind):
            raise _to_error(answer)
        return answer, payload

    async def _await_end(self) -> None:
        await self._frames.lost
        self._fail_calls(await self._wait_for_end())

    def _dispatch(self, message: messages.FromWorker, array: bytes) -> None:
        if isinstance(message, messages.Progress):
            if self._take_progress is not None:
                self._take_progress(message.share)
            return
        # There is no future if the caller was cancelled.
        future = self._calls.get(message.id)
        if future is not None and not future.done():
            future.set_result((message, array))

    async def _wait_for_end(self) -> WorkerDiedError:
        """The process has closed its socket: how it ended."""
        death = await self._child.wait()
        if self._watchdog.killed:
            message = "SIGKILL: it did not stop a batch that took too long"
            return WorkerDiedError(f"the worker process ended with {message}", DeathReason.STUCK)
        return death

    def _fail_calls(self, death: WorkerDiedError) -> None:
        self.death = death
        begun = set(filter(self._board.has, self._calls))
        self.died_computing = bool(begun)
        for id_, future in self._calls.items():
            if not future.done():
                started, alone = id_ in begun, begun == {id_}
                future.set_exception(
                    WorkerDiedError(str(death), death.reason, started=started, alone=alone)
                )
        self._watchdog.close()
        self._board.close()

    def _kill(self) -> None:
        self._child.kill()


def _to_error(answer: messages.FromWorker) -> EmbeddError:
    """The error for a call that got this *answer* and expected another kind."""
    if not isinstance(answer, messages.Failed):
        return EngineError(f"the worker answered with {type(answer).__name__}")
    match answer.fault:
        case messages.Fault.STOPPED:
            return StuckError(answer.message)
        case messages.Fault.MODEL:
            return ModelLoadError(answer.message)
        case messages.Fault.SELF_TEST:
            return SelfTestError(answer.message)
        case messages.Fault.MEMORY:
            return InsufficientMemoryError(answer.message)
        case messages.Fault.INPUT:
            return EngineError(answer.message, index=answer.index)
