"""The process that owns a loaded model: ``python -m embedd.engine.worker <socket> <board>``.

The first argument is the file descriptor of a socket, over which it exchanges the frames of
`framing` with the server; the second is that of its `Board`. A third one names the engine that the
first message will most likely ask for: it is prepared until then. One thread reads, one tokenizes,
the others load and encode. The process ends when the socket does. Whatever a model does to
this process, all that the server sees is the end of the socket.
"""

import os
import socket
import sys
from collections.abc import Iterable
from dataclasses import replace
from threading import Thread

from embedd.engine.child_process import prepare_process
from embedd.engine.ipc import messages
from embedd.engine.ipc.board import Board
from embedd.engine.protocol import Engine
from embedd.engine.worker.compute import encode_together
from embedd.engine.worker.connection import Connection
from embedd.engine.worker.crosscheck import check_agreement
from embedd.engine.worker.dispatch import Pending
from embedd.engine.worker.load import (
    describe_tokenizer,
    open_engine,
    open_tokenizer,
    prepare_engine,
    to_failure,
)
from embedd.engine.worker.own_tokenizer import build_candidate, choose_tokenizer
from embedd.engine.worker.selftest import run_self_test
from embedd.engine.worker.threads import exit_on_error, start_thread
from embedd.engine.worker.tokenizer_calls import TokenizerCalls
from embedd.errors import EmbeddError


class Worker:
    """Receives messages and passes them to the threads that answer: one model, its replicas.

    Args:
        preparing: Threads that have to end before a load begins.
    """

    def __init__(
        self, connection: Connection[messages.ToWorker], board: Board, preparing: Iterable[Thread]
    ) -> None:
        self._connection = connection
        self._board = board
        self._preparing = preparing
        self._pending: Pending
        self._tokenizer_calls = TokenizerCalls(connection, board)

    def run(self) -> None:
        """Serve until the server closes the socket."""
        while (received := self._connection.receive()) is not None:
            message, array = received
            match message:
                case messages.Load():
                    start_thread(self._begin_load, message)
                case messages.Cores():
                    self._pending.set_cores(message.count)
                case messages.Tokenize() | messages.Locate() | messages.Detokenize():
                    self._tokenizer_calls.put(message, array)
                case messages.Abandon():
                    self._tokenizer_calls.abandon(message.id)
                case messages.Encode():
                    self._pending.put((message, array))
                case messages.Abort():
                    self._pending.abort(message.id, stuck=message.stuck)
                case messages.Ping():
                    self._connection.send((messages.Pong(), None))

    def _begin_load(self, load: messages.Load) -> None:
        for thread in self._preparing:
            thread.join()
        if load.vocabulary_only:
            self._load_vocabulary(load)
        else:
            self._load(load)

    def _load(self, load: messages.Load) -> None:
        try:
            candidate = build_candidate(load)
            # From here on a death is not the tokenizer's fault.
            self._report(0.0)
            engine = open_engine(load, self._report)
            sample, seconds_per_token = run_self_test(
                engine, full=load.crosscheck or load.backend.is_reference
            )
            distance = check_agreement(engine, load)
            tokenizer, verdict = choose_tokenizer(load, candidate, engine.tokenizer)
        except (EmbeddError, MemoryError) as error:
            self._connection.send((to_failure(load.id, error), None))
            return
        replicas = load.tuning.replicas
        self._pending = Pending(
            replicas=replicas,
            cores=load.cores,
            max_tokens=engine.info.max_batch_tokens,
            max_sequences=engine.info.max_sequences,
            padded=engine.info.padded,
        )
        self._tokenizer_calls.start(tokenizer, shared=tokenizer is not engine.tokenizer)
        for _ in range(replicas - 1):
            start_thread(self._encode_all, engine.replicate())
        info = replace(engine.info, replicas=replicas, distance=distance, tokenizer=verdict.name)
        ready = messages.Ready(load.id, info, seconds_per_token, verdict)
        self._connection.send((ready, sample))
        # This thread goes on as the first replica: OpenMP keeps a team of threads for
        # every thread that ever computed.
        self._encode_all(engine)

    def _report(self, share: float) -> None:
        self._connection.send((messages.Progress(share), None))

    def _load_vocabulary(self, load: messages.Load) -> None:
        try:
            candidate = build_candidate(load)
            self._report(0.0)
            theirs = open_tokenizer(load)
            tokenizer, verdict = choose_tokenizer(load, candidate, theirs)
        except (EmbeddError, MemoryError) as error:
            self._connection.send((to_failure(load.id, error), None))
            return
        self._tokenizer_calls.start(tokenizer, shared=tokenizer is not theirs)
        info = describe_tokenizer(tokenizer, verdict)
        self._connection.send((messages.Ready(load.id, info, tokenizer=verdict), None))

    def _encode_all(self, engine: Engine) -> None:
        while True:
            work = self._pending.take()
            engine.set_threads(work.threads)
            for message, _ in work.batches:
                self._board.mark(message.id)
            answers = encode_together(engine, work.batches, work.stop)
            self._pending.give_back(work)
            self._connection.send(*answers)


def main() -> None:
    """Entry point of the process."""
    prepare_process()
    with exit_on_error():
        sock, board = map(int, sys.argv[1:3])
        preparing = [start_thread(prepare_engine, engine) for engine in sys.argv[3:]]
        connection = Connection(socket.socket(fileno=sock), messages.parse_to_worker)
        Worker(connection, Board(board), preparing).run()
    # No interpreter shutdown: llama.cpp's callbacks and threads do not survive one.
    os._exit(0)


if __name__ == "__main__":
    main()
