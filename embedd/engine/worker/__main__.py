"""The process that owns a loaded model: ``python -m embedd.engine.worker <socket> <board>``.

It speaks the frames of `framing` over the socket with the first file descriptor; the second
is of its `Board`. One thread reads, one tokenizes, the others load and encode; it ends when
the socket does. Whatever a poisoned model does to this process, the server only sees the
end of the socket.
"""

import contextlib
import ctypes
import os
import queue
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from embedd.engine.ipc import framing, messages
from embedd.engine.ipc.board import Board
from embedd.engine.ipc.facts import split_ids, to_ready
from embedd.engine.protocol import Engine, Stop, StoppedError, Tokenizer, UnsuitableError
from embedd.engine.worker.crosscheck import check_agreement
from embedd.engine.worker.dispatch import Batch, Pending
from embedd.engine.worker.load import TokenizerCall, answer_call, open_engine, open_tokenizer
from embedd.errors import EmbeddError, EngineError, InsufficientMemoryError, ModelLoadError
from embedd.types import Pooling, TokenIds, Vectors

# llama.cpp's fall-back for regular expressions recurses once per letter of a word:
# 80,000 letters overflow the default 8 MiB.
TOKENIZER_STACK = 256 << 20
SHORT = 1024  # characters that any thread can tokenize, in a tenth of a millisecond
OOM_SCORE = 500  # the kernel takes a worker before it takes the server
PR_SET_PDEATHSIG = 1
SELF_TEST = "Every worker proves on one ordinary sentence that it can count to eight."

Answer: TypeAlias = tuple[messages.FromWorker, TokenIds | Vectors | None]


class Connection:
    """The worker's end of the socket: one thread receives, any thread sends."""

    def __init__(self, sock: socket.socket) -> None:
        self._file = sock.makefile("rb")
        self._sock = sock
        self._sending = threading.Lock()

    def send(self, *answers: Answer) -> None:
        """Write a frame for each message with its array, all at once: one wakes the server."""
        frames = b"".join(piece for answer in answers for piece in framing.make_frame(*answer))
        with self._sending:
            self._sock.sendall(frames)

    def receive(self) -> tuple[messages.ToWorker, bytes] | None:
        """The next message with its array; None when the server has left."""
        prefix = self._file.read(framing.PREFIX.size)
        if len(prefix) < framing.PREFIX.size:
            return None
        header, array = framing.parse_prefix(prefix)
        body = self._file.read(header + array)
        if len(body) < header + array:
            return None
        return messages.parse_to_worker(body[:header]), body[header:]


class Worker:
    """Joins the threads: queues between them, one model, its replicas."""

    def __init__(self, connection: Connection, board: Board) -> None:
        self._connection = connection
        self._board = board
        self._pending: Pending
        self._texts: queue.SimpleQueue[tuple[TokenizerCall, bytes]] = queue.SimpleQueue()
        self._tokenizer: Tokenizer
        self._tokenizing = threading.Lock()

    def run(self) -> None:
        """Serve until the server closes the socket."""
        while (received := self._connection.receive()) is not None:
            message, array = received
            match message:
                case messages.Load():
                    load = self._load_vocabulary if message.vocabulary_only else self._load
                    _start_thread(load, message)
                case messages.Cores():
                    self._pending.set_cores(message.count)
                case messages.Tokenize(texts=[text]) if len(text) <= SHORT:
                    self._tokenize_here(message)
                case messages.Tokenize() | messages.Detokenize() | messages.Spell():
                    self._texts.put((message, array))
                case messages.Encode():
                    self._pending.put((message, array))
                case messages.Abort():
                    self._pending.abort(message.id, stuck=message.stuck)

    def _load(self, message: messages.Load) -> None:
        try:
            engine = open_engine(message, self._report)
            pace = test_engine(engine)
            distance = check_agreement(engine, message)
        except (EmbeddError, MemoryError) as error:
            reason = str(error) or "not enough memory"
            self._connection.send((messages.Failed(reason, _fault(error)), None))
            return
        self._pending = Pending(
            replicas=message.replicas,
            cores=message.cores,
            max_tokens=engine.info.max_batch_tokens,
            max_sequences=engine.info.max_sequences,
            padded=engine.info.padded,
        )
        self._start_tokenizing(engine)
        for _ in range(message.replicas - 1):
            _start_thread(self._encode_all, engine.replicate())
        ready = to_ready(engine.info, message.replicas, distance, seconds_per_token=pace)
        self._connection.send((ready, None))
        # This thread goes on as the first replica: OpenMP keeps a team of threads for
        # every thread that ever computed.
        self._encode_all(engine)

    def _report(self, share: float) -> None:
        self._connection.send((messages.Progress(share), None))

    def _load_vocabulary(self, message: messages.Load) -> None:
        try:
            tokenizer = open_tokenizer(message)
        except (EmbeddError, MemoryError) as error:
            reason = str(error) or "not enough memory"
            self._connection.send((messages.Failed(reason, _fault(error)), None))
            return
        self._start_tokenizing(tokenizer)
        self._connection.send((to_ready(tokenizer.info, replicas=0), None))

    def _start_tokenizing(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        threading.stack_size(TOKENIZER_STACK)
        _start_thread(self._tokenize_all)
        threading.stack_size(0)

    def _tokenize_all(self) -> None:
        while True:
            message, array = self._texts.get()
            with self._tokenizing:
                answer = self._answer(message, array)
            self._connection.send(answer)

    def _tokenize_here(self, message: messages.Tokenize) -> None:
        """A short text takes less time than to wake the thread for it."""
        if not self._tokenizing.acquire(blocking=False):
            self._texts.put((message, b""))
            return
        try:
            answer = self._answer(message, b"")
        finally:
            self._tokenizing.release()
        self._connection.send(answer)

    def _answer(self, message: TokenizerCall, array: bytes) -> Answer:
        try:
            return answer_call(self._tokenizer, message, np.frombuffer(array, np.int32))
        except EmbeddError as error:
            return messages.Refused(message.id, str(error), error.index), None

    def _encode_all(self, engine: Engine) -> None:
        while True:
            work = self._pending.take()
            engine.set_threads(work.threads)
            for message, _ in work.batches:
                self._board.mark(message.id)
            answers = encode_together(engine, work.batches, work.stop)
            self._pending.give_back(work)
            self._connection.send(*answers)


def encode_together(engine: Engine, batches: Sequence[Batch], stop: Stop) -> list[Answer]:
    """An answer to each of *batches*, computed as one, or one by one if that fails."""
    start = time.perf_counter()
    sequences = [one for message, ids in batches for one in split_ids(ids, message.lengths)]
    try:
        vectors = encode_checked(engine, sequences, batches[0][0].pooling, stop)
    except StoppedError:
        return [(messages.Aborted(message.id), None) for message, _ in batches]
    except EmbeddError as error:
        if len(batches) > 1:
            alone = [encode_together(engine, [batch], stop) for batch in batches]
            return [answer for answers in alone for answer in answers]
        return [(messages.Refused(batches[0][0].id, str(error), error.index), None)]
    seconds = time.perf_counter() - start
    per_token = len(vectors) != len(sequences)
    answers: list[Answer] = []
    end = 0
    for message, _ in batches:
        start_row, end = end, end + (sum(message.lengths) if per_token else len(message.lengths))
        rows = vectors[start_row:end]
        answers.append((messages.Computed(message.id, len(rows), seconds), rows))
    return answers


def test_engine(engine: Engine) -> float:
    """One sentence, then a packed batch as large as they get; its seconds for each token.

    A build that is wrong for this CPU survives one token and dies with two: so the
    batch that kills the worker is this one, before the model is announced.

    Raises:
        EngineError: A vector is not finite or has norm 0.
    """
    info = engine.info
    [sentence] = engine.tokenize([SELF_TEST])
    sentence = sentence[: info.limit]
    count = max(1, min(info.max_batch_tokens // len(sentence), info.max_sequences))
    encode_checked(engine, [sentence], None)
    start = time.perf_counter()
    encode_checked(engine, [sentence] * count, None)
    return (time.perf_counter() - start) / (count * len(sentence))


def encode_checked(
    engine: Engine, sequences: list[TokenIds], pooling: Pooling | None, stop: Stop | None = None
) -> Vectors:
    """`Engine.encode`, with every row proved finite and, but for scores, of norm > 0.

    A bad row is computed again alone before it counts as an error of its input.

    Raises:
        EngineError: Of the engine, or naming the sequence whose row stays bad.
    """
    vectors = engine.encode(sequences, pooling, stop=stop)
    kind = pooling or engine.info.pooling
    if kind is Pooling.NONE:
        if not np.isfinite(vectors).all():
            raise EngineError("embedding contains NaN or Inf values")
        return vectors
    for row in np.flatnonzero(_bad_rows(vectors, kind)):
        again = engine.encode([sequences[row]], pooling, stop=stop)
        if _bad_rows(again, kind).any():
            finite = np.isfinite(again).all()
            fault = "has zero norm" if finite else "contains NaN or Inf values"
            raise EngineError(f"embedding {fault}", index=int(row))
        vectors[row] = again[0]
    return vectors


def _bad_rows(vectors: Vectors, pooling: Pooling) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    finite = np.isfinite(vectors).all(axis=1)
    if pooling is Pooling.RANK:
        return np.asarray(~finite)
    return np.asarray(~finite | ~vectors.any(axis=1))


def _fault(error: Exception) -> messages.Fault:
    if isinstance(error, InsufficientMemoryError | MemoryError):
        return messages.Fault.MEMORY
    refused = isinstance(error, ModelLoadError | UnsuitableError)
    return messages.Fault.REFUSED if refused else messages.Fault.WRONG


def _start_thread(target: Callable[..., None], *args: object) -> None:
    def run() -> None:
        with ending_the_process_on_error():
            target(*args)

    threading.Thread(target=run, daemon=True).start()


@contextlib.contextmanager
def ending_the_process_on_error() -> Iterator[None]:
    """A thread never ends alone: whoever waits for it in the server would wait for ever."""
    try:
        yield
    except ConnectionError:  # the server has left
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def settle() -> None:
    """Make this process one that may die: no core file, first choice of the kernel."""
    # Ctrl-C and a service manager's SIGTERM reach the whole process group; the server
    # decides when a worker ends, so that running requests can finish.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def main() -> None:
    """Entry point of the process."""
    settle()
    with ending_the_process_on_error():
        sock, board = map(int, sys.argv[1:])
        Worker(Connection(socket.socket(fileno=sock)), Board(board)).run()
    # No interpreter shutdown: llama.cpp's callbacks and threads do not survive one.
    os._exit(0)


if __name__ == "__main__":
    main()
