"""The server's handle on one worker process that computes vectors."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar, Self, TypeVar

import msgspec
import numpy as np

from embedd.engine.host.child import Child
from embedd.engine.host.errors import StuckError, WorkerDiedError, to_start_error
from embedd.engine.host.spawned import SpawnedWorker
from embedd.engine.host.watchdog import Watchdog
from embedd.engine.host.worker import Worker
from embedd.engine.ipc import messages
from embedd.engine.ipc.board import Board, open_memory
from embedd.engine.ipc.framing import split_ids, split_located
from embedd.engine.spec import ModelInfo
from embedd.engine.tokenizer_place import LLAMA_TOKENIZER, TokenizerVerdict
from embedd.errors import EmbeddError
from embedd.tokenizers.slices import replace_surrogates
from embedd.types import Located, Pooling, TokenIds, TokenPiece, Vector, Vectors

_Answer = TypeVar("_Answer", messages.Tokens, messages.Texts)


class WorkerProcess(Worker[messages.FromWorker]):
    """A worker process that computes vectors. Made by `start` or `adopt`.

    Attributes:
        info: Facts of the model; set by `load`.
        tokenizer: What the load found out about the model's own tokenizer.
        sample: The vector that its self-test computed, to compare backends.
        died_computing: Whether it ended while it computed a batch, which may be the cause.
    """

    module: ClassVar[str] = "embedd.engine.worker"
    info: ModelInfo
    tokenizer: TokenizerVerdict = LLAMA_TOKENIZER

    def __init__(self, board: Board) -> None:
        super().__init__(messages.parse_from_worker)
        self.died_computing = False
        self.sample: Vector = np.empty(0, np.float32)
        self._board = board
        self._batches: set[int] = set()  # of the waiting calls
        self._watchdog = Watchdog(has_begun=board.has, end=self._end)

    @classmethod
    async def start(cls, environment: Mapping[str, str]) -> Self:
        """Start a process that has loaded nothing yet.

        Raises:
            ModelLoadError: The program does not exist.
            WorkerUnavailableError: The system has no process or descriptor left.
        """
        try:
            with open_memory() as file:
                worker = cls(Board.create(file))
                try:
                    await worker.launch(environment, [file.fileno()])
                except BaseException:
                    worker._board.close()
                    raise
        except OSError as error:
            raise to_start_error(error) from error
        return worker

    @classmethod
    async def adopt(cls, spawned: SpawnedWorker) -> Self:
        """Take over a process that was started before there was an event loop."""
        worker = cls(spawned.board)
        await worker.connect(spawned.sock)
        worker.watch(await Child.adopt(spawned.process))
        return worker

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
        ready, sample = await self._load(
            messages.Ready,
            lambda id_: msgspec.structs.replace(load, id=id_),
            name=load.spec.name,
            timeout=timeout,
            report=report,
        )
        self._watchdog.learn(1.0, ready.seconds_per_token)
        self.info, self.tokenizer = ready.info, ready.tokenizer
        self.sample = np.frombuffer(sample, np.float32)
        return self.info

    async def tokenize(
        self, texts: Sequence[str], *, add_special: bool = True, parse_special: bool = True
    ) -> list[TokenIds]:
        """Token ids of each text; see `Tokenizer.tokenize`.

        Raises:
            WorkerDiedError: The process ended.
            StuckError: It took too long.
        """
        sendable = [replace_surrogates(text) for text in texts]
        tokens, array = await self._ask_tokenizer(
            messages.Tokens,
            lambda id_: messages.Tokenize(id_, sendable, add_special, parse_special),
            size=sum(map(len, sendable)),
        )
        return split_ids(array, tokens.lengths)

    async def locate(self, texts: Sequence[str], *, parse_special: bool = True) -> list[Located]:
        """Token ids and places in each text; see `Tokenizer.locate`.

        Raises:
            WorkerDiedError: The process ended.
            StuckError: It took too long.
        """
        sendable = [replace_surrogates(text) for text in texts]
        tokens, array = await self._ask_tokenizer(
            messages.Tokens,
            lambda id_: messages.Locate(id_, sendable, parse_special),
            size=sum(map(len, sendable)),
        )
        return split_located(array, tokens.lengths)

    async def detokenize(self, sequences: Sequence[TokenIds], *, special: bool) -> list[bytes]:
        """The text of each sequence; see `Tokenizer.detokenize`.

        Raises:
            WorkerDiedError: The process ended.
            EngineError: An id is outside the vocabulary.
        """
        lengths = [len(ids) for ids in sequences]
        answer, _ = await self._ask_tokenizer(
            messages.Texts,
            lambda id_: messages.Detokenize(id_, lengths, special),
            np.concatenate(sequences),
            size=sum(lengths),
        )
        return answer.texts

    async def token_pieces(self, ids: TokenIds) -> list[TokenPiece]:
        """The piece of text that each token stands for; see `Tokenizer.token_pieces`.

        Raises:
            WorkerDiedError: The process ended.
            EngineError: An id is outside the vocabulary.
        """
        answer, _ = await self._ask_tokenizer(
            messages.Texts,
            lambda id_: messages.Detokenize(id_, lengths=None),
            ids,
            size=len(ids),
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
        tokens = sum(lengths)
        sent = 0

        def make_message(id_: int) -> messages.Encode:
            nonlocal sent
            sent = id_
            self._batches.add(id_)
            stop = partial(self._frames.write, messages.Abort(id_, stuck=True))
            self._watchdog.watch_batch(id_, tokens, stop)
            return messages.Encode(id_, pooling, lengths, urgent, alone)

        try:
            computed, array = await self._call(
                messages.Computed,
                make_message,
                np.concatenate(sequences) if len(sequences) > 1 else sequences[0],
            )
        except asyncio.CancelledError:
            self._frames.write(messages.Abort(sent))
            raise
        finally:
            self._batches.discard(sent)
            self._watchdog.forget(sent)
        self._watchdog.learn(tokens, computed.seconds)
        return np.frombuffer(array, np.float32).reshape(computed.rows, -1), computed.seconds

    async def set_cores(self, count: int) -> None:
        """Compute with *count* cores from the next batch on."""
        await self._frames.send(messages.Cores(count))

    async def _ask_tokenizer(
        self,
        kind: type[_Answer],
        make_message: Callable[[int], messages.ToWorker],
        array: TokenIds | None = None,
        *,
        size: int,
    ) -> tuple[_Answer, bytes]:
        """Return the answer to a tokenizer call of so many characters or tokens.

        When the call is cancelled the worker ends the work on it soon.
        """
        sent = 0

        def make_watched(id_: int) -> messages.ToWorker:
            nonlocal sent
            sent = id_
            stop = partial(self._frames.write, messages.Abandon(id_))
            self._watchdog.watch_tokenizing(id_, size, stop)
            return make_message(id_)

        try:
            return await self._call(kind, make_watched, array)
        except asyncio.CancelledError:
            self._frames.write(messages.Abandon(sent))
            raise
        finally:
            self._watchdog.forget(sent)

    def _to_error(self, id_: int, answer: msgspec.Struct) -> EmbeddError:
        call = self._watchdog.find(id_)
        if call is None or not isinstance(answer, messages.Failed):
            return super()._to_error(id_, answer)
        if answer.fault is messages.Fault.STOPPED:
            return StuckError(answer.message, is_external=call.is_external)
        if call.stopped is not None:
            message = f"{call.what} took too long and was stopped"
            return StuckError(message, is_external=call.is_external)
        return super()._to_error(id_, answer)

    def _check_calls(self, seconds: float, *, idle: bool) -> None:
        self._watchdog.check(seconds, idle=idle)

    def _fail_calls(self, death: WorkerDiedError) -> None:
        # Of a worker that was ended for some calls, the others are not suspected.
        suspects = self._watchdog.culprits or set(filter(self._board.has, self._calls))
        self.died_computing = not suspects.isdisjoint(self._batches)
        for id_, future in self._calls.items():
            if not future.done():
                started, alone = id_ in suspects, suspects == {id_}
                future.set_exception(
                    WorkerDiedError(str(death), death.reason, started=started, alone=alone)
                )
        self._board.close()
