"""The painter: prompts in, images out."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from embedd.engine.image_protocol import PictureOrder
from embedd.engine.image_spec import ImageInfo, ImageModel, ImageSpec
from embedd.engine.serving.picture_queue import PaintedPicture
from embedd.errors import ExtraMissingError, PictureCancelledError
from embedd.images import (
    PaintEvent,
    PaintProgress,
    PaintRequest,
    PaintResult,
    PaintTimings,
    Phase,
    Picture,
)
from embedd.painter.description import describe_picture
from embedd.painter.limits import (
    DEFAULT_MAX_PIXELS,
    MAX_SEED,
    PaintSettings,
    check_request,
    choose_seeds,
    choose_settings,
)
from embedd.scheduler.scheduler import Scheduler
from embedd.types import ServedBy


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintStatus:
    """A request that is being painted or waits.

    Args:
        started: When it came, by ``time.perf_counter``.
        progress: Its last event; None before the first.
    """

    request: PaintRequest
    started: float
    progress: PaintProgress | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class _Running:
    """A request on its way: its task, and what `Painter.statuses` shows of it."""

    task: asyncio.Task[PaintResult]
    status: PaintStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A request that passed every check."""

    request: PaintRequest
    settings: PaintSettings
    spec: ImageSpec
    seeds: Sequence[int]
    arrived: float


class Painter:
    """Paints for the server.

    Args:
        find: Returns a stored model; raises `ModelNotFoundError` or `NotAnImageModelError`.
        is_installed: Whether the extra is, without which nothing is painted.
        max_pixels: Pixels of the largest picture.
        metadata: Whether prompt and settings are written into files, unless a request says it.
        draw_seed: Returns the seed of a request that has none.
    """

    def __init__(
        self,
        *,
        find: Callable[[str], Awaitable[ImageModel]],
        scheduler: Scheduler,
        is_installed: bool = True,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        metadata: bool = True,
        draw_seed: Callable[[], int] = lambda: secrets.randbelow(MAX_SEED + 1),
    ) -> None:
        self._find = find
        self._scheduler = scheduler
        self._is_installed = is_installed
        self._max_pixels = max_pixels
        self._metadata = metadata
        self._draw_seed = draw_seed
        self._running: list[_Running] = []

    async def find(self, name: str) -> ImageModel:
        """Return the stored image model *name*.

        Raises:
            ModelNotFoundError: The model is not in the store.
            NotAnImageModelError: The model cannot paint.
        """
        return await self._find(name)

    async def paint(
        self, request: PaintRequest, *, arrived: float | None = None
    ) -> AsyncGenerator[PaintEvent, None]:
        """Check *request*, and return its events; the last one is the result.

        Close the iterator (`contextlib.aclosing`) when the client leaves: that cancels the
        pictures. The first event comes when the request is admitted, or while the model loads:
        take it before the headers of a streamed answer are sent.

        Args:
            arrived: When the request came, by ``time.perf_counter``; None is now.

        Raises:
            ExtraMissingError: The extra for images is not installed.
            InvalidInputError: A value is outside its limits.
            ModelNotFoundError: The model is not in the store.
            NotAnImageModelError: The model cannot paint.

        The iterator raises besides:
            UnavailableError: Too many pictures wait, or loading takes too long, or `cancel`
                was called (`PictureCancelledError`).
            ServiceError: The model cannot be loaded, or painting failed.
        """
        return self._stream(await self._plan(request, arrived))

    async def paint_all(
        self, request: PaintRequest, *, arrived: float | None = None
    ) -> PaintResult:
        """Paint, and return the result alone; raises as `paint` and its iterator do."""
        async with aclosing(await self.paint(request, arrived=arrived)) as events:
            results = [event async for event in events if isinstance(event, PaintResult)]
        return results[-1]

    async def load(self, name: str, keep_alive: float | None = None) -> PaintTimings:
        """Load the model, for pictures of its own size, and paint nothing.

        Raises:
            EmbeddError: As `paint`.
        """
        start = time.perf_counter()
        self._require_installed()
        spec = self._choose_spec(await self._find(name), 0)
        async with self._scheduler.lease(spec, keep_alive):
            seconds = time.perf_counter() - start
        return PaintTimings(load=seconds, total=seconds)

    async def unload(self, name: str) -> None:
        """Unload the model once its pictures are painted; it need not be loaded.

        Raises:
            ModelNotFoundError: The model is not in the store.
        """
        for spec in await self.find_specs(name):
            await self._scheduler.unload(spec)

    async def find_specs(self, name: str) -> list[ImageSpec]:
        """What is in memory of the model *name*: it is loaded anew for larger pictures.

        Raises:
            ModelNotFoundError: The model is not in the store.
        """
        files = (await self._find(name)).spec.files
        specs = [one.spec for one in self._scheduler.statuses()]
        return [spec for spec in specs if isinstance(spec, ImageSpec) and spec.files == files]

    def cancel(self, owner: str) -> int:
        """Cancel all requests of *owner*, and return how many there were."""
        cancelled = [one for one in self._running if one.status.request.owner == owner]
        for one in cancelled:
            one.task.cancel()
        return len(cancelled)

    def statuses(self) -> list[PaintStatus]:
        """Return the requests that are being painted or wait, in order of arrival."""
        return [one.status for one in self._running]

    async def _plan(self, request: PaintRequest, arrived: float | None) -> _Plan:
        self._require_installed()
        check_request(request)
        model = await self._find(request.model)
        settings = choose_settings(request, model, self._max_pixels)
        seed = self._draw_seed() if request.seed is None else request.seed
        return _Plan(
            request=request,
            settings=settings,
            spec=self._choose_spec(model, settings.painted_width * settings.painted_height),
            seeds=choose_seeds(seed, request.n),
            arrived=time.perf_counter() if arrived is None else arrived,
        )

    def _require_installed(self) -> None:
        if not self._is_installed:
            raise ExtraMissingError("image generation", "images")

    def _choose_spec(self, model: ImageModel, pixels: int) -> ImageSpec:
        """Return what to load for a picture of so many *pixels*.

        A model is loaded for pictures of its own size. A larger one needs more memory, so it has
        the model loaded anew, for twice or four times as many pixels.
        """
        sizes = [own := model.own_spec]
        while sizes[-1].pixels < self._max_pixels:
            sizes.append(replace(own, pixels=min(2 * sizes[-1].pixels, self._max_pixels)))
        fitting = [one for one in sizes if one.pixels >= pixels]
        return next(filter(self._scheduler.is_ready, fitting), fitting[0])

    async def _stream(self, plan: _Plan) -> AsyncGenerator[PaintEvent, None]:
        events: asyncio.Queue[PaintProgress | None] = asyncio.Queue()

        def notify(progress: PaintProgress) -> None:
            running.status = replace(running.status, progress=progress)
            events.put_nowait(progress)

        task = asyncio.create_task(self._paint(plan, notify))
        task.add_done_callback(lambda _: events.put_nowait(None))
        status = PaintStatus(request=plan.request, started=plan.arrived)
        running = _Running(task=task, status=status)
        self._running.append(running)
        try:
            while (event := await events.get()) is not None:
                yield event
            if task.cancelled():
                raise PictureCancelledError
            yield task.result()
        finally:
            self._running.remove(running)
            # A task of its own: the lease must end even where this iterator is never closed.
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # marked as seen: the client may have left

    async def _paint(self, plan: _Plan, notify: Callable[[PaintProgress], None]) -> PaintResult:
        was_ready = self._scheduler.is_ready(plan.spec)
        if not was_ready:
            notify(PaintProgress(phase=Phase.LOADING, steps=plan.settings.steps))
        async with self._scheduler.lease(plan.spec, plan.request.keep_alive) as loaded:
            load = 0.0 if was_ready else time.perf_counter() - plan.arrived
            info = loaded.info
            painted = await loaded.paint(self._make_orders(plan, info), notify)
            return _make_result(plan, painted, info, load)

    def _make_orders(self, plan: _Plan, info: ImageInfo) -> list[PictureOrder]:
        request, settings = plan.request, plan.settings
        with_text = self._metadata if request.metadata is None else request.metadata
        return [
            PictureOrder(
                prompt=request.prompt,
                negative=request.negative,
                width=settings.width,
                height=settings.height,
                painted_width=settings.painted_width,
                painted_height=settings.painted_height,
                steps=settings.steps,
                guidance=settings.guidance,
                seed=seed,
                format=request.format,
                quality=request.quality,
                previews=request.previews,
                text=describe_picture(request, settings, plan.spec, sampler=info.sampler, seed=seed)
                if with_text
                else "",
            )
            for seed in plan.seeds
        ]


def _make_result(
    plan: _Plan, painted: Sequence[PaintedPicture], info: ImageInfo, load: float
) -> PaintResult:
    settings = plan.settings
    pictures = [
        Picture(
            index=index,
            data=one.data,
            width=settings.width,
            height=settings.height,
            seed=seed,
            timings=one.timings,
        )
        for index, (one, seed) in enumerate(zip(painted, plan.seeds, strict=True))
    ]
    times = [one.timings for one in painted]
    return PaintResult(
        pictures=pictures,
        format=plan.request.format,
        steps=settings.steps,
        guidance=settings.guidance,
        sampler=info.sampler,
        timings=PaintTimings(
            load=load + sum(one.load for one in times),
            queue=times[0].queue,
            sample=sum(one.sample for one in times),
            decode=sum(one.decode for one in times),
            total=time.perf_counter() - plan.arrived,
        ),
        served_by=ServedBy(digest=plan.spec.digest, engine=info.engine, backend=info.backend),
        warnings=_warn(plan),
    )


def _warn(plan: _Plan) -> list[str]:
    guidance, facts = plan.settings.guidance, plan.spec.facts
    if plan.request.negative and (guidance == 1 or facts.is_distilled):
        return ["the negative prompt has no effect without guidance"]
    return []
