"""The server's handle on one worker process that paints."""

import asyncio
import itertools
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self, TypeVar

import msgspec

from embedd.engine.host.child import Child
from embedd.engine.host.connection import Frames
from embedd.engine.host.errors import WorkerDiedError, to_start_error
from embedd.engine.image_protocol import PictureOrder
from embedd.engine.image_spec import ImageInfo
from embedd.engine.ipc import image_messages as messages
from embedd.engine.ipc.messages import Failed, Fault
from embedd.errors import (
    EmbeddError,
    EngineError,
    InsufficientMemoryError,
    LoadTimeoutError,
    ModelLoadError,
)
from embedd.images import Phase, Preview

MODULE = "embedd.engine.worker.painting"

_Answer = TypeVar("_Answer", messages.PainterReady, messages.Painted)

# Called with the phase, the steps that are done, and a preview of them.
TakeStep = Callable[[Phase, int, Preview | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintedFile:
    """A picture as a file, and the seconds that it took."""

    data: bytes
    sample_seconds: float
    decode_seconds: float


class ImageWorker:
    """A worker process that paints, from its start to its end. Made by `start`.

    Every waiting call is answered or fails with `WorkerDiedError`, whatever happens to the
    process. One call is made at a time.

    Attributes:
        info: Facts of the model; set by `load`.
        death: How the process ended, or None.
        was_killed: Whether `kill` was called.
    """

    info: ImageInfo

    def __init__(self) -> None:
        self.death: WorkerDiedError | None = None
        self.was_killed = False
        self._child: Child
        self._frames: Frames[messages.FromPainter]
        self._ids = itertools.count(1)
        self._calls: dict[int, asyncio.Future[tuple[messages.FromPainter, bytes]]] = {}
        self._take_progress: Callable[[float], None] = lambda _share: None
        self._take_step: TakeStep = lambda _phase, _step, _preview: None
        self._ending: asyncio.Task[None]

    @classmethod
    async def start(cls, environment: Mapping[str, str]) -> Self:
        """Start a process that has loaded nothing yet.

        Raises:
            ModelLoadError: The program does not exist.
            WorkerUnavailableError: The system has no process or descriptor left.
        """
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise to_start_error(error) from error
        worker = cls()
        with theirs:
            await worker.connect(ours)
            try:
                worker.watch(await Child.start(MODULE, [theirs.fileno()], environment))
            except BaseException:
                worker._frames.close()
                raise
        return worker

    async def connect(self, sock: socket.socket) -> None:
        """Talk through this end of a socket pair, whose other end the process has."""
        _, self._frames = await asyncio.get_running_loop().create_unix_connection(
            lambda: Frames(self._dispatch, messages.parse_from_painter), sock=sock
        )

    def watch(self, child: Child) -> None:
        """Fail every waiting call when *child*, which has the other end, ends."""
        self._child = child
        self._ending = asyncio.create_task(self._await_end())

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    async def load(
        self,
        load: messages.LoadPainter,
        *,
        timeout: float | None = None,
        report: Callable[[float], None] = lambda _share: None,
    ) -> ImageInfo:
        """Load a model.

        Args:
            timeout: Seconds that the load may make no progress; None is unlimited.
            report: Called with the share (0 … 1) of the weights that is loaded.

        Raises:
            ModelLoadError: The model cannot be loaded (`InsufficientMemoryError`: not now).
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
                    messages.PainterReady, lambda id_: msgspec.structs.replace(load, id=id_)
                )
        except TimeoutError:
            raise LoadTimeoutError(f'timed out loading model "{load.spec.name}"') from None
        self.info = ready.info
        return self.info

    async def paint(self, order: PictureOrder, take_step: TakeStep) -> PaintedFile:
        """Paint a picture; a caller that is cancelled leaves the process painting.

        Args:
            take_step: Called for each step, and for signs of life between them.

        Raises:
            WorkerDiedError: The process ended.
            EngineError: The engine refused the picture, or it came out blank.
        """
        self._take_step = take_step
        painted, data = await self._call(messages.Painted, lambda id_: messages.Paint(id_, order))
        return PaintedFile(
            data=data,
            sample_seconds=painted.sample_seconds,
            decode_seconds=painted.decode_seconds,
        )

    def kill(self) -> None:
        """End the process at once, whatever it does."""
        self.was_killed = True
        self._child.kill()

    async def close(self) -> None:
        """End the process and wait until it is gone."""
        self._frames.close()
        await asyncio.shield(self._ending)

    async def _call(
        self, kind: type[_Answer], make_message: Callable[[int], messages.ToPainter]
    ) -> tuple[_Answer, bytes]:
        """Return the worker's answer of this *kind* with its array."""
        if self.death is not None:
            raise WorkerDiedError(str(self.death), self.death.reason)
        id_ = next(self._ids)
        future = self._calls[id_] = asyncio.get_running_loop().create_future()
        try:
            await self._frames.send(make_message(id_))
            answer, payload = await future
        finally:
            self._calls.pop(id_, None)
        if not isinstance(answer, kind):
            raise _to_error(answer)
        return answer, payload

    async def _await_end(self) -> None:
        await self._frames.lost
        self.death = death = await self._child.wait()
        for future in self._calls.values():
            if not future.done():
                future.set_exception(WorkerDiedError(str(death), death.reason))

    def _dispatch(self, message: messages.FromPainter, array: bytes) -> None:
        match message:
            case messages.LoadProgress():
                self._take_progress(message.share)
            case messages.Step() if message.id in self._calls:
                self._take_step(message.phase, message.step, None)
            case messages.Previewed() if message.id in self._calls:
                preview = Preview(number=message.number, data=array)
                self._take_step(Phase.SAMPLING, message.step, preview)
            case messages.PainterReady() | messages.Painted() | Failed():
                future = self._calls.get(message.id)
                if future is not None and not future.done():
                    future.set_result((message, array))


def _to_error(answer: messages.FromPainter) -> EmbeddError:
    """The error for a call that got this *answer* and expected another kind."""
    if not isinstance(answer, Failed):
        return EngineError(f"the worker answered with {type(answer).__name__}")
    match answer.fault:
        case Fault.MODEL:
            return ModelLoadError(answer.message)
        case Fault.MEMORY:
            return InsufficientMemoryError(answer.message)
        case _:
            return EngineError(answer.message)
