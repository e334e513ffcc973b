"""The process that owns an image model: ``python -m embedd.engine.worker.painting <socket>``.

The argument is the file descriptor of a socket, over which it exchanges frames with the server:
the messages of `image_messages`. One thread reads, another loads and paints. The process ends
when the socket does, also in the middle of a picture: the library has no other way to stop.

It imports nothing of llama.cpp: both libraries export the functions of their own ggml.
"""

import importlib
import os
import socket
import sys
import time
from collections.abc import Mapping
from queue import SimpleQueue

import msgspec
import numpy as np

from embedd.engine.child_process import prepare_process
from embedd.engine.image_protocol import ImageEngine, PictureOrder
from embedd.engine.ipc.image_messages import (
    LoadPainter,
    Paint,
    Painted,
    PainterReady,
    Previewed,
    Step,
    ToPainter,
    parse_to_painter,
)
from embedd.engine.ipc.messages import Failed, Fault, Ping, Pong, Progress
from embedd.engine.worker.connection import Connection
from embedd.engine.worker.picture_file import encode_picture, encode_preview
from embedd.engine.worker.threads import exit_on_error, start_thread
from embedd.errors import EmbeddError, InsufficientMemoryError
from embedd.images import Phase, Pixels

ENGINES = {
    "diffusion": "embedd.engine.diffusion.engine:DiffusionEngine",
    "fake": "embedd.engine.fake_painter:FakePainter",
}
NICENESS = 10  # a picture takes minutes: requests for vectors must not wait for its cores


class PaintingWorker:
    """Receives messages, and answers them one after the other in a thread of its own."""

    def __init__(self, connection: Connection[ToPainter]) -> None:
        self._connection = connection
        self._waiting: SimpleQueue[Paint] = SimpleQueue()

    def run(self) -> None:
        """Serve until the server closes the socket."""
        while (received := self._connection.receive()) is not None:
            message, _ = received
            match message:
                case LoadPainter():
                    start_thread(self._serve, message)
                case Paint():
                    self._waiting.put(message)
                case Ping():
                    self._send(Pong())

    def _serve(self, load: LoadPainter) -> None:
        try:
            engine = self._open(load)
        except (EmbeddError, MemoryError) as error:
            fault = Fault.MODEL
            if isinstance(error, InsufficientMemoryError | MemoryError):
                fault = Fault.MEMORY
            self._send(Failed(load.id, str(error) or "not enough memory", fault))
            return
        self._send(PainterReady(load.id, engine.info))
        while True:
            self._paint(engine, self._waiting.get())

    def _open(self, load: LoadPainter) -> ImageEngine:
        module, name = ENGINES[load.engine].split(":")
        kind = getattr(importlib.import_module(module), name)
        engine: ImageEngine = kind.load(
            load.spec, threads=load.threads, report=lambda share: self._send(Progress(share))
        )
        return engine

    def _paint(self, engine: ImageEngine, paint: Paint) -> None:
        try:
            painted, file = self._make(engine, paint)
        except (EmbeddError, MemoryError) as error:
            self._send(Failed(paint.id, str(error) or "not enough memory"))
        else:
            self._send(painted, file)

    def _make(self, engine: ImageEngine, paint: Paint) -> tuple[Painted, bytes]:
        order = paint.order
        numbers = choose_previews(order)
        start = sampled = time.perf_counter()

        def report(phase: Phase, step: int) -> None:
            nonlocal sampled
            if phase is Phase.SAMPLING:
                sampled = time.perf_counter()
            self._send(Step(paint.id, phase, step))

        def show(step: int, pixels: Pixels) -> None:
            if step in numbers:
                preview = Previewed(paint.id, step, numbers[step])
                self._send(preview, encode_preview(pixels, order))

        pixels = engine.paint(order, report, show if numbers else None)
        file = encode_picture(pixels, order)
        return Painted(paint.id, sampled - start, time.perf_counter() - sampled), file

    def _send(self, message: msgspec.Struct, data: bytes = b"") -> None:
        self._connection.send((message, np.frombuffer(data, np.uint8)))


def choose_previews(order: PictureOrder) -> Mapping[int, int]:
    """Return the steps that are shown, evenly spread and without the last: step → number."""
    parts = order.previews + 1
    steps = sorted({max(1, number * order.steps // parts) for number in range(1, parts)})
    return {step: number for number, step in enumerate(steps) if step < order.steps}


def main() -> None:
    """Entry point of the process."""
    prepare_process()
    os.nice(NICENESS)
    with exit_on_error():
        connection = Connection(socket.socket(fileno=int(sys.argv[1])), parse_to_painter)
        PaintingWorker(connection).run()
    # No interpreter shutdown: the library's threads do not survive one.
    os._exit(0)


if __name__ == "__main__":
    main()
