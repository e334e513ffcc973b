"""The server's handle on one worker process that paints."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import msgspec

from embedd.engine.host.errors import to_start_error
from embedd.engine.host.worker import Worker
from embedd.engine.image_protocol import PictureOrder
from embedd.engine.image_spec import ImageInfo
from embedd.engine.ipc import image_messages as messages
from embedd.images import Phase, Preview

# Called with the phase, the steps that are done, and a preview of them.
TakeStep = Callable[[Phase, int, Preview | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintedFile:
    """A picture as a file, and the seconds that it took."""

    data: bytes
    sample_seconds: float
    decode_seconds: float


class ImageWorker(Worker[messages.FromPainter]):
    """A worker process that paints. Made by `start`. One call is made at a time.

    Attributes:
        info: Facts of the model; set by `load`.
        was_killed: Whether `kill` was called.
    """

    module: ClassVar[str] = "embedd.engine.worker.painting"
    info: ImageInfo

    def __init__(self) -> None:
        super().__init__(messages.parse_from_painter)
        self.was_killed = False
        self._take_step: TakeStep = lambda _phase, _step, _preview: None

    @classmethod
    async def start(cls, environment: Mapping[str, str]) -> Self:
        """Start a process that has loaded nothing yet.

        Raises:
            ModelLoadError: The program does not exist.
            WorkerUnavailableError: The system has no process or descriptor left.
        """
        worker = cls()
        try:
            await worker.launch(environment)
        except OSError as error:
            raise to_start_error(error) from error
        return worker

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
        ready, _ = await self._load(
            messages.PainterReady,
            lambda id_: msgspec.structs.replace(load, id=id_),
            name=load.spec.name,
            timeout=timeout,
            report=report,
        )
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
        super().kill()

    def _take_answer(self, message: messages.FromPainter, array: bytes) -> None:
        match message:
            case messages.Step():
                if message.id in self._calls:
                    self._take_step(message.phase, message.step, None)
            case messages.Previewed():
                if message.id in self._calls:
                    preview = Preview(number=message.number, data=array)
                    self._take_step(Phase.SAMPLING, message.step, preview)
            case _:
                super()._take_answer(message, array)
