"""Workers that paint in this process, for the queue, the painter and the dialects above them.

`tests.contract.test_image_worker` runs on them and on real worker processes.
"""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from embedd.engine.fake_painter import BLANK, HANG, INFO, KILL, REFUSE, paint_gradient
from embedd.engine.host.errors import WorkerDiedError
from embedd.engine.host.image_process import ImageWorker, PaintedFile, TakeStep
from embedd.engine.image_protocol import PictureOrder
from embedd.engine.image_spec import ImageInfo, ImageSpec
from embedd.engine.ipc.image_messages import LoadPainter
from embedd.engine.serving.image_model import MIN_PATIENCE, ServedImageModel
from embedd.engine.worker.painting import choose_previews
from embedd.engine.worker.picture_file import encode_picture, encode_preview
from embedd.errors import EngineError
from embedd.images import Phase, Preview
from embedd.metrics import DeathReason, Metrics
from tests.fakes import settle


class FakeImageWorker(ImageWorker):
    """A worker without a process: it paints what `FakePainter` paints.

    Attributes:
        gate: Where it waits before every step; open at first.
        prompts: Of the pictures that it began.
        closed: Whether it was closed.
    """

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._pid = pid
        self._ended = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.prompts: list[str] = []
        self.closed = False

    @property
    def pid(self) -> int:
        return self._pid

    async def load(
        self,
        load: LoadPainter,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as the real one
        report: Callable[[float], None] = lambda _share: None,
    ) -> ImageInfo:
        report(1.0)
        self.info = INFO
        return INFO

    async def paint(self, order: PictureOrder, take_step: TakeStep) -> PaintedFile:
        self.prompts.append(order.prompt)
        if REFUSE in order.prompt:
            raise EngineError("the engine refused the picture")
        picture = paint_gradient(order)
        numbers = choose_previews(order)
        await self._step(order, 0, take_step, None)
        for step in range(1, order.steps + 1):
            preview = None
            if step in numbers:
                data = encode_preview(picture[::8, ::8], order)
                preview = Preview(number=numbers[step], data=data)
            await self._step(order, step, take_step, preview)
        take_step(Phase.DECODING, order.steps, None)
        if BLANK in order.prompt:
            picture[:] = 255
        data = encode_picture(picture, order)
        return PaintedFile(data=data, sample_seconds=0.25, decode_seconds=0.125)

    async def let_step(self) -> None:
        """Let it do one step more."""
        self.gate.set()
        await asyncio.sleep(0)
        self.gate.clear()
        await settle()

    def kill(self) -> None:
        self.was_killed = True
        self.die()

    def die(self, reason: DeathReason = DeathReason.CRASHED) -> None:
        """The process ends, whatever it does."""
        signal = "SIGKILL" if reason is DeathReason.KILLED else "SIGSEGV"
        self.death = WorkerDiedError(f"the worker process ended with {signal}", reason)
        self._ended.set()

    async def close(self) -> None:
        self.closed = True
        self.die()

    async def _step(
        self, order: PictureOrder, step: int, take_step: TakeStep, preview: Preview | None
    ) -> None:
        """Wait until the step may be done or the process has ended, and report it."""
        if KILL in order.prompt and step == 2:
            self.die()
        opened = asyncio.ensure_future(
            self._ended.wait() if HANG in order.prompt and step else self.gate.wait()
        )
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait([opened, ended], return_when=asyncio.FIRST_COMPLETED)
        finally:
            opened.cancel()
            ended.cancel()
        if self.death is not None:
            raise WorkerDiedError(str(self.death), self.death.reason)
        take_step(Phase.SAMPLING, step, preview)


@dataclass
class FakeImageLoads:
    """Loads image models whose workers are `FakeImageWorker`s.

    Attributes:
        names: Of every model that was loaded, in order.
        workers: Every worker that was started.
        is_open: Whether the workers that are started next paint without waiting.
        error: Raised by the next starts, if set.
    """

    metrics: Metrics = field(default_factory=Metrics)
    max_waiting: int = 16
    min_patience: float = MIN_PATIENCE
    names: list[str] = field(default_factory=list)
    workers: list[FakeImageWorker] = field(default_factory=list)
    is_open: bool = True
    error: Exception | None = None

    def __post_init__(self) -> None:
        self._pids = itertools.count(1)

    async def start(self) -> FakeImageWorker:
        """A process is started."""
        if self.error is not None:
            raise self.error
        worker = FakeImageWorker(next(self._pids))
        if not self.is_open:
            worker.gate.clear()
        self.workers.append(worker)
        return worker

    async def load(self, spec: ImageSpec) -> ServedImageModel:
        """A scheduler wants the model."""
        self.names.append(spec.name)
        model = ServedImageModel(
            spec,
            start=self.start,
            engine="fake",
            threads=1,
            model_metrics=self.metrics.of_model(spec.name),
            metrics=self.metrics.of_image_model(spec.name),
            max_waiting=self.max_waiting,
            min_patience=self.min_patience,
        )
        await model.load()
        return model
