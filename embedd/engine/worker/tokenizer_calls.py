"""Answers tokenizer calls, in a thread of its own where a text may take long."""

import queue
import threading
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from embedd.engine.ipc.board import Board, Place
from embedd.engine.ipc.framing import split_ids
from embedd.engine.ipc.messages import (
    Detokenize,
    Failed,
    Locate,
    Texts,
    Tokenize,
    Tokens,
    ToWorker,
)
from embedd.engine.protocol import Tokenizer
from embedd.engine.worker.connection import Answer, Connection
from embedd.engine.worker.threads import start_thread
from embedd.errors import EmbeddError, EngineError
from embedd.tokenizers.slices import Check, no_check
from embedd.types import TokenIds

# llama.cpp's fall-back for regular expressions recurses once per letter of a word:
# 80,000 letters overflow the default 8 MiB.
STACK = 256 << 20
SHORT = 1024  # characters that take a tenth of a millisecond: any thread may tokenize them

Call: TypeAlias = Tokenize | Locate | Detokenize


class TokenizerCalls:
    """Answers calls to one tokenizer, one at a time. Call `start` first."""

    def __init__(self, connection: Connection[ToWorker], board: Board) -> None:
        self._connection = connection
        self._board = board
        self._waiting: queue.SimpleQueue[tuple[Call, bytes]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._tokenizer: Tokenizer
        self._shared = False
        # Changed by two threads, each change by a single call, which is atomic.
        self._open: set[int] = set()
        self._abandoned: set[int] = set()

    def start(self, tokenizer: Tokenizer, *, shared: bool = False) -> None:
        """Answer with *tokenizer* from now on.

        Args:
            shared: Whether several threads may use it at once, so that short texts need not
                wait for long ones.
        """
        self._tokenizer = tokenizer
        self._shared = shared
        start_thread(self._answer_all, stack=STACK)

    def put(self, call: Call, array: bytes) -> None:
        """Answer *call*: a short text at once, anything else in the thread."""
        self._open.add(call.id)
        match call:
            case Tokenize(texts=[text]) if len(text) <= SHORT:
                self._answer_here(call, array)
            case _:
                self._waiting.put((call, array))

    def abandon(self, id_: int) -> None:
        """End the work on the call *id_* soon, if it was not answered yet."""
        if id_ in self._open:
            self._abandoned.add(id_)

    def _answer_here(self, call: Call, array: bytes) -> None:
        """Answer in the calling thread: waking the other one would take longer."""
        if self._shared:
            self._answer(call, array, Place.READER)
            return
        if not self._lock.acquire(blocking=False):
            self._waiting.put((call, array))
            return
        try:
            self._answer(call, array, Place.READER)
        finally:
            self._lock.release()

    def _answer_all(self) -> None:
        while True:
            call, array = self._waiting.get()
            with self._lock:
                self._answer(call, array, Place.TOKENIZER)

    def _answer(self, call: Call, array: bytes, place: Place) -> None:
        def check() -> None:
            if call.id in self._abandoned:
                raise EngineError("nothing waits for the answer")

        self._board.mark_tokenizing(place, call.id)
        answer = answer_call(self._tokenizer, call, array, check)
        self._board.mark_tokenizing(place, 0)
        self._connection.send(answer)
        self._open.discard(call.id)
        self._abandoned.discard(call.id)


def answer_call(tokenizer: Tokenizer, call: Call, array: bytes, check: Check = no_check) -> Answer:
    """The answer of *tokenizer* to *call*, whose array may hold token ids."""
    try:
        if isinstance(call, Tokenize):
            rows = tokenizer.tokenize(
                call.texts,
                add_special=call.add_special,
                parse_special=call.parse_special,
                check=check,
            )
            return Tokens(call.id, [len(row) for row in rows]), join_ids(rows)
        if isinstance(call, Locate):
            located = tokenizer.locate(call.texts, parse_special=call.parse_special, check=check)
            places = [offsets.ravel() for _, offsets in located]
            lengths = [len(ids) for ids, _ in located]
            return Tokens(call.id, lengths), join_ids([*(ids for ids, _ in located), *places])
        if call.lengths is None:
            pieces = tokenizer.token_pieces(np.frombuffer(array, np.int32))
            texts = [piece.text for piece in pieces]
            return Texts(call.id, texts, [piece.is_special for piece in pieces]), None
        sequences = split_ids(array, call.lengths)
        return Texts(call.id, tokenizer.detokenize(sequences, special=call.special)), None
    except EmbeddError as error:
        return Failed(call.id, str(error), index=error.index), None


def join_ids(rows: Sequence[TokenIds]) -> TokenIds:
    """All *rows* end to end."""
    return np.concatenate(rows) if rows else np.empty(0, np.int32)
