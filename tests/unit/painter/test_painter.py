"""The painter: checks, events, results, cancelling; the workers are in this process."""

import asyncio
import io
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest
from PIL import Image

from embedd.engine.fake_painter import HANG, REFUSE
from embedd.engine.image_spec import SMALL_PIXELS, ImageModel, ImageSpec
from embedd.errors import (
    EngineError,
    ExtraMissingError,
    InvalidInputError,
    ModelLoadError,
    ModelNotFoundError,
    NotAnImageModelError,
    OverloadedError,
    PictureCancelledError,
)
from embedd.images import (
    ImageFamily,
    ImageFormat,
    PaintEvent,
    PaintProgress,
    PaintRequest,
    PaintResult,
    Phase,
)
from embedd.metrics import Metrics
from embedd.painter.painter import Painter
from embedd.scheduler.scheduler import Scheduler
from tests.exposition import moved, read
from tests.fake_images import FakeImageLoads
from tests.fakes import FakeLoader, settle
from tests.unit.painter.images import make_image_model, make_request

MODELS = {
    "klein": make_image_model("klein", width=64, height=64, steps=3),
    "sd": make_image_model("sd", ImageFamily.SD1),
    "flux": make_image_model("flux", ImageFamily.FLUX1_DEV),
}


async def find(name: str) -> ImageModel:
    if name == "encoder":
        raise NotAnImageModelError(name)
    if name not in MODELS:
        raise ModelNotFoundError(name)
    return MODELS[name]


@dataclass
class Studio:
    """A painter with its scheduler, and what moves behind them."""

    loads: FakeImageLoads = field(default_factory=FakeImageLoads)
    metrics: Metrics = field(default_factory=Metrics)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.loads.metrics = self.metrics
        self.scheduler = Scheduler(
            load=FakeLoader().load,
            load_image=self.loads.load,
            estimate=lambda _spec: 0,
            memory=64 << 30,
            max_models=3,
            max_queue=512,
            keep_alive=300.0,
            metrics=self.metrics,
        )
        self.painter = Painter(
            find=find, scheduler=self.scheduler, draw_seed=lambda: 42, **self.options
        )

    def ask(self, **fields: Any) -> "Asked":
        return Asked(self.painter, make_request(**fields))

    async def paint(self, **fields: Any) -> PaintResult:
        return await self.painter.paint_all(make_request(**fields))

    async def events(self, **fields: Any) -> list[PaintEvent]:
        async with aclosing(await self.painter.paint(make_request(**fields))) as events:
            return [event async for event in events]

    def pixels(self) -> list[int]:
        """Of the models in memory, in the order in which they were loaded."""
        specs = [one.spec for one in self.scheduler.statuses()]
        return [spec.pixels for spec in specs if isinstance(spec, ImageSpec)]


class Asked:
    """A request that takes its events as they come."""

    def __init__(self, painter: Painter, request: PaintRequest) -> None:
        self.events: list[PaintEvent] = []
        self._painter, self._request = painter, request
        self.task = asyncio.create_task(self._take())

    async def _take(self) -> None:
        async with aclosing(await self._painter.paint(self._request)) as events:
            async for event in events:
                self.events.append(event)

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        await settle()

    @property
    def last(self) -> PaintProgress:
        event = self.events[-1]
        assert isinstance(event, PaintProgress)
        return event


@pytest.fixture
async def studio() -> AsyncIterator[Studio]:
    one = Studio()
    yield one
    await one.scheduler.close()


def text_of(picture: bytes) -> str:
    image = Image.open(io.BytesIO(picture))
    assert image.format == "PNG"
    text = image.info.get("parameters", "")
    assert isinstance(text, str)
    return text


async def test_the_events_are_loading_every_step_decoding_and_the_result(studio: Studio) -> None:
    *events, result = await studio.events()
    progress = [one for one in events if isinstance(one, PaintProgress)]
    assert [(one.phase, one.step) for one in progress] == [
        (Phase.LOADING, 0),
        *((Phase.SAMPLING, step) for step in range(4)),
        (Phase.DECODING, 3),
    ]
    assert {one.steps for one in progress} == {3}
    assert isinstance(result, PaintResult)


async def test_a_loaded_model_paints_without_loading_again(studio: Studio) -> None:
    first, second = await studio.paint(), await studio.paint()
    assert studio.loads.names == ["klein"]
    assert first.timings.load > 0 == second.timings.load


async def test_the_result_has_what_it_was_painted_with(studio: Studio) -> None:
    result = await studio.paint(seed=7, width=72, height=64, format=ImageFormat.WEBP)
    [picture] = result.pictures
    assert Image.open(io.BytesIO(picture.data)).size == (72, 64)
    assert (picture.width, picture.height, picture.seed, picture.index) == (72, 64, 7, 0)
    assert (result.steps, result.guidance, result.format) == (3, 1.0, ImageFormat.WEBP)
    assert (result.served_by.digest, result.served_by.engine) == ("sha256:klein", "fake")
    assert (result.timings.sample, result.timings.decode) == (0.25, 0.125)
    assert result.timings.total >= result.timings.queue >= 0


async def test_a_request_without_a_seed_gets_one_and_is_shown_it(studio: Studio) -> None:
    result = await studio.paint()
    assert result.pictures[0].seed == 42
    assert result.pictures[0].data == (await studio.paint(seed=42)).pictures[0].data


async def test_further_pictures_have_the_next_seeds(studio: Studio) -> None:
    both = (await studio.paint(seed=7, n=2)).pictures
    alone = [(await studio.paint(seed=seed)).pictures[0] for seed in (7, 8)]
    assert [one.seed for one in both] == [7, 8]
    assert [one.data for one in both] == [one.data for one in alone]
    events = await studio.events(n=2)
    assert {one.index for one in events if isinstance(one, PaintProgress)} == {0, 1}


async def test_the_text_in_the_file_is_that_of_its_picture(studio: Studio) -> None:
    result = await studio.paint(prompt="größer\n😀", negative="fog", seed=7, n=2, guidance=4)
    text = text_of(result.pictures[1].data)
    pattern = (
        "größer\n😀\nNegative prompt: fog\nSteps: 3, Sampler: euler, CFG scale: 4.0, Seed: 8, "
        r"Size: 64x64, Model hash: klein, Model: klein, Version: embedd \d.*"
    )
    assert re.fullmatch(pattern, text)
    assert "Negative" not in text_of((await studio.paint()).pictures[0].data)


@pytest.mark.parametrize("kind", [ImageFormat.JPEG, ImageFormat.WEBP])
async def test_other_formats_have_the_text_as_a_comment(studio: Studio, kind: ImageFormat) -> None:
    result = await studio.paint(prompt="größer 😀", format=kind)
    exif = Image.open(io.BytesIO(result.pictures[0].data)).getexif().get_ifd(0x8769)
    comment = exif[0x9286]
    assert comment.startswith(b"UNICODE\0")
    assert comment[8:].decode("utf-16-be").startswith("größer 😀\nSteps: 3")


@pytest.mark.parametrize(
    ("own", "wish", "has_text"),
    [(True, None, True), (True, False, False), (False, None, False), (False, True, True)],
)
async def test_text_is_written_as_the_request_says_else_the_operator(
    *, own: bool, wish: bool | None, has_text: bool
) -> None:
    studio = Studio(options={"metadata": own})
    for kind in ImageFormat:
        result = await studio.paint(metadata=wish, format=kind)
        assert (b"Steps" in result.pictures[0].data.replace(b"\0", b"")) is has_text
    await studio.scheduler.close()


async def test_what_is_wrong_is_refused_before_the_model_is_loaded(studio: Studio) -> None:
    for fields in ({"steps": 0}, {"prompt": ""}, {"width": 2048, "height": 2048}):
        with pytest.raises(InvalidInputError):
            await studio.painter.paint(make_request(**fields))
    with pytest.raises(NotAnImageModelError, match=r'^"encoder" does not make images$'):
        await studio.painter.paint(make_request(model="encoder"))
    with pytest.raises(ModelNotFoundError):
        await studio.painter.paint(make_request(model="none"))
    assert studio.loads.names == []


async def test_without_the_extra_nothing_is_painted_and_the_error_says_what_to_install() -> None:
    studio = Studio(options={"is_installed": False})
    for ask in (studio.paint(), studio.painter.load("klein")):
        with pytest.raises(ExtraMissingError) as caught:
            await ask
        assert str(caught.value) == (
            "image generation needs the optional extra embedd-server[images], which is not "
            "installed: pip install 'embedd-server[images]'"
        )


async def test_an_engines_error_is_that_of_the_request(studio: Studio) -> None:
    with pytest.raises(EngineError, match="refused"):
        await studio.paint(prompt=REFUSE)
    assert await studio.paint()


async def test_a_model_that_does_not_load_is_the_error_of_the_request(studio: Studio) -> None:
    studio.loads.error = ModelLoadError("tensor 'x' not in model file")
    with pytest.raises(ModelLoadError, match="not in model file"):
        await studio.paint()


async def test_previews_come_with_their_steps(studio: Studio) -> None:
    events = await studio.events(steps=4, previews=3)
    shown = [one for one in events if isinstance(one, PaintProgress) and one.preview]
    assert [(one.step, one.preview and one.preview.number) for one in shown] == [
        (1, 0),
        (2, 1),
        (3, 2),
    ]


async def test_a_waiting_request_is_given_its_position(studio: Studio) -> None:
    studio.loads.is_open = False
    first = studio.ask()
    await settle()
    second, third = studio.ask(), studio.ask()
    await settle()
    assert first.last.phase is Phase.SAMPLING
    assert [(one.last.phase, one.last.position) for one in (second, third)] == [
        (Phase.QUEUED, 1),
        (Phase.QUEUED, 2),
    ]
    await second.leave()
    assert third.last.position == 1
    studio.loads.workers[0].gate.set()
    await asyncio.wait([first.task, third.task])
    assert isinstance(first.events[-1], PaintResult)
    assert isinstance(third.events[-1], PaintResult)
    assert studio.loads.workers[0].prompts == ["a lovely cat"] * 2


async def test_too_many_waiting_pictures_are_refused_with_the_seconds_to_wait() -> None:
    studio = Studio(loads=FakeImageLoads(max_waiting=1, is_open=False))
    running, waiting = studio.ask(), studio.ask()
    await settle()
    before = read(studio.metrics)
    with pytest.raises(OverloadedError) as caught:
        await studio.paint()
    assert str(caught.value) == (
        "1 pictures already wait for this model, the limit is 1: retry later, or raise "
        "EMBEDD_MAX_WAITING_IMAGES"
    )
    assert caught.value.retry_after == 20
    assert moved(before, read(studio.metrics)) == {
        "embedd_overloads_total{model=klein,reason=pictures}": 1
    }
    await running.leave()
    await waiting.leave()
    await studio.scheduler.close()


async def test_a_client_that_leaves_ends_the_worker_and_the_next_is_painted(
    studio: Studio,
) -> None:
    asked = studio.ask(prompt=HANG, steps=150)
    await settle()
    before = read(studio.metrics)
    await asked.leave()
    assert studio.loads.workers[0].was_killed
    assert studio.painter.statuses() == []
    assert moved(before, read(studio.metrics)) == {
        "embedd_cancelled_pictures_total{model=klein}": 1,
        "embedd_cancelled_requests_total{model=klein}": 1,
    }
    *events, _ = await studio.events()
    progress = [one for one in events if isinstance(one, PaintProgress)]
    assert [one.phase for one in progress[:2]] == [Phase.LOADING, Phase.SAMPLING]
    assert len(studio.loads.workers) == 2
    assert studio.loads.names == ["klein"], "the model stayed in the scheduler's books"


async def test_a_picture_counts_with_its_steps(studio: Studio) -> None:
    before = read(studio.metrics)
    await studio.paint(n=2)
    found = moved(before, read(studio.metrics))
    assert found["embedd_pictures_total{model=klein}"] == 2
    assert found["embedd_picture_steps_total{model=klein}"] == 6
    assert found["embedd_picture_seconds_count{model=klein}"] == 2


async def test_cancelling_ends_the_requests_of_one_owner(studio: Studio) -> None:
    studio.loads.is_open = False
    mine, other = studio.ask(owner="me"), studio.ask(owner="you")
    await settle()
    assert [one.request.owner for one in studio.painter.statuses()] == ["me", "you"]
    assert [one.progress and one.progress.phase for one in studio.painter.statuses()] == [
        Phase.SAMPLING,
        Phase.QUEUED,
    ]
    studio.loads.is_open = True
    assert studio.painter.cancel("nothing of this owner") == 0
    assert studio.painter.cancel("me") == 1
    await asyncio.wait([mine.task, other.task])
    assert isinstance(mine.task.exception(), PictureCancelledError)
    assert isinstance(other.events[-1], PaintResult)


async def test_loading_paints_nothing_and_unloading_ends_every_size(studio: Studio) -> None:
    timings = await studio.painter.load("sd", keep_alive=60.0)
    assert timings.load == timings.total > 0
    await studio.paint(model="sd", width=512, height=768)
    assert studio.pixels() == [SMALL_PIXELS, 2 * SMALL_PIXELS]
    await studio.painter.unload("sd")
    assert studio.pixels() == []
    assert [worker.closed for worker in studio.loads.workers] == [True, True]


async def test_a_larger_picture_has_the_model_loaded_for_its_size(studio: Studio) -> None:
    await studio.paint(model="sd", width=768, height=1024)
    await studio.paint(model="sd")
    assert studio.pixels() == [4 * SMALL_PIXELS], "what is loaded for larger ones paints all"
    assert studio.loads.names == ["sd"]


async def test_negative_prompts_without_effect_are_warned_of(studio: Studio) -> None:
    text = "the negative prompt has no effect without guidance"
    assert (await studio.paint(negative="fog")).warnings == [text]
    assert (await studio.paint(negative="fog", guidance=4)).warnings == []
    distilled = await studio.paint(model="flux", negative="fog", width=64, height=64, guidance=4)
    assert distilled.warnings == [text]
    assert (await studio.paint()).warnings == []


async def test_an_iterator_that_is_never_taken_paints_nothing(studio: Studio) -> None:
    events = await studio.painter.paint(make_request())
    await events.aclose()
    await settle()
    assert studio.loads.names == []
