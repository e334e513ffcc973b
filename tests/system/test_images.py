"""Pictures by the real library in real processes, from a tiny model: faults, memory, neighbours."""

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from embedd.cache import VectorCache
from embedd.choices import EngineChoice
from embedd.config import Settings, image_worker_environment
from embedd.engine.image_loader import ImageLoader
from embedd.engine.image_spec import ImageModel
from embedd.engine.spec import ModelSpec
from embedd.engine.tuning.store import SingleUse
from embedd.engine.worker.painting import NICENESS
from embedd.errors import EngineError, ModelLoadError, OverloadedError
from embedd.images import ImageFormat, ImagePart, PaintProgress, PaintRequest, PaintResult, Phase
from embedd.metrics import Metrics
from embedd.painter.painter import Painter
from embedd.runtime import make_loader
from embedd.scheduler.memory import estimate_bytes, estimate_image_bytes
from embedd.scheduler.scheduler import Scheduler
from embedd.types import Pooling
from tests.conftest import MakeSettings
from tests.needs import require_diffusion
from tests.tiny_images import write_tiny_klein, write_tiny_klein_parts
from tests.tiny_models import write_tiny_bert
from tests.unit.painter.images import make_image_model, make_image_spec, make_request

BUDGET = 8 << 30
STEPS = 2


@dataclass
class Studio:
    """A painter over real workers, beside an encoder."""

    settings: Settings
    models: dict[str, ImageModel]
    memory: int = BUDGET
    max_waiting: int = 16
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.encoders = make_loader(self.settings, SingleUse(), self.metrics, VectorCache(0))
        images = ImageLoader(
            environment=image_worker_environment(),
            cores=2,
            metrics=self.metrics,
            max_waiting=self.max_waiting,
        )
        self.scheduler = Scheduler(
            load=self.encoders.load,
            load_image=images.load,
            estimate=estimate_bytes,
            memory=self.memory,
            max_models=3,
            max_queue=512,
            keep_alive=300.0,
            metrics=self.metrics,
        )
        self.painter = Painter(find=self.find, scheduler=self.scheduler)

    async def find(self, name: str) -> ImageModel:
        return self.models[name]

    async def paint(self, **fields: Any) -> PaintResult:
        return await self.painter.paint_all(self.request(**fields))

    def request(self, **fields: Any) -> PaintRequest:
        return make_request(**({"seed": 7, "steps": STEPS} | fields))

    def pids(self) -> dict[str, int]:
        return {one.spec.name: one.pid for one in self.scheduler.statuses() if one.pid}

    async def close(self) -> None:
        await self.scheduler.close()
        await self.encoders.close()


def make_model(path: Path, name: str = "klein") -> ImageModel:
    return make_model_of({ImagePart.MODEL: path}, name)


def make_model_of(parts: Mapping[ImagePart, Path], name: str = "klein") -> ImageModel:
    weights = sum(path.stat().st_size for path in parts.values() if path.exists())
    spec = make_image_spec(name, parts=parts, weights=weights)
    return make_image_model(name, spec=spec, width=64, height=64)


@pytest.fixture(autouse=True)
def _needs_the_extra() -> None:
    require_diffusion()


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(engine=EngineChoice.LLAMA)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_klein: Path) -> dict[str, ImageModel]:
    folder = tmp_path_factory.mktemp("images")
    other = write_tiny_klein(folder / "other.gguf", seed=1)
    broken = write_tiny_klein(folder / "broken.gguf", without="model.diffusion_model.img_in.weight")
    parts = write_tiny_klein_parts(folder)
    return {
        "klein": make_model(tiny_klein),
        "other": make_model(other, "other"),
        "parts": make_model_of(parts, "parts"),
        "broken": make_model(broken, "broken"),
    }


@pytest.fixture
async def studio(settings: Settings, models: dict[str, ImageModel]) -> AsyncIterator[Studio]:
    one = Studio(settings, models)
    yield one
    await one.close()


async def begin(studio: Studio, step: int, **fields: Any) -> asyncio.Task[PaintResult]:
    """A picture that is being painted and has got to *step*."""
    reached = asyncio.Event()

    async def paint() -> PaintResult:
        async with aclosing(await studio.painter.paint(studio.request(**fields))) as events:
            async for event in events:
                if isinstance(event, PaintResult):
                    return event
                if event.phase is Phase.SAMPLING and event.step >= step:
                    reached.set()
        raise AssertionError("no result")

    task = asyncio.create_task(paint())
    async with asyncio.timeout(60):
        await reached.wait()
    return task


async def wait_until_gone(pid: int) -> None:
    async with asyncio.timeout(60):
        while psutil.pid_exists(pid):
            await asyncio.sleep(0.01)


def open_picture(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


async def test_pictures_have_their_size_seed_and_text(studio: Studio) -> None:
    both = await studio.paint(n=2, width=72, height=64, negative="fog", guidance=4.0)
    again = await studio.paint(seed=8, width=72, height=64, negative="fog", guidance=4.0)
    first, second = both.pictures
    assert first.data != second.data == again.pictures[0].data
    for picture in both.pictures:
        image = open_picture(picture.data)
        assert (image.size, image.format) == ((72, 64), "PNG")
        assert f"Seed: {picture.seed}, Size: 72x64" in str(image.info["parameters"])
    assert (both.served_by.engine, both.served_by.backend) == ("diffusion", "diffusion")
    assert both.timings.load > 0 == again.timings.load
    assert min(both.timings.sample, both.timings.decode) > 0


async def test_events_have_every_step_once_and_previews_of_the_size(studio: Studio) -> None:
    request = studio.request(steps=3, previews=2, width=64, height=128, format=ImageFormat.JPEG)
    async with aclosing(await studio.painter.paint(request)) as events:
        *progress, result = [event async for event in events]
    assert isinstance(result, PaintResult)
    steps = [one for one in progress if isinstance(one, PaintProgress)]
    assert [(one.phase, one.step) for one in steps] == [
        (Phase.LOADING, 0),
        *((Phase.SAMPLING, step) for step in range(4)),
        (Phase.DECODING, 3),
    ]
    previews = [open_picture(one.preview.data) for one in steps if one.preview]
    assert [(one.size, one.format) for one in previews] == [((64, 128), "JPEG")] * 2


async def test_several_files_give_the_picture_of_one(studio: Studio) -> None:
    one, several = (
        await studio.paint(metadata=False),
        await studio.paint(model="parts", metadata=False),
    )
    assert one.pictures[0].data == several.pictures[0].data


async def test_a_missing_tensor_is_the_error_of_the_request(studio: Studio) -> None:
    with pytest.raises(ModelLoadError, match=r"tensor 'model\.diffusion_model\.img_in\.weight'"):
        await studio.paint(model="broken")


async def test_a_killed_worker_fails_its_picture_and_the_next_is_painted(studio: Studio) -> None:
    painting = await begin(studio, 3, steps=150)
    os.kill(studio.pids()["klein"], signal.SIGKILL)
    with pytest.raises(EngineError, match=r"^the image engine died while it painted: .* SIGKILL"):
        await painting
    assert (await studio.paint()).pictures


async def test_a_client_that_leaves_ends_the_worker_and_gives_its_memory_back(
    studio: Studio,
) -> None:
    painting = await begin(studio, 3, steps=150)
    pid = studio.pids()["klein"]
    painting.cancel()
    await wait_until_gone(pid)
    assert studio.pids() == {}
    assert (await studio.paint()).pictures
    assert studio.pids()["klein"] != pid


async def test_two_at_once_queue_and_one_beyond_the_limit_is_refused(
    settings: Settings, models: dict[str, ImageModel]
) -> None:
    studio = Studio(settings, models, max_waiting=1)
    first = await begin(studio, 0, steps=150)
    second = asyncio.create_task(studio.paint())
    async with asyncio.timeout(60):
        while not any(one.waiting_requests for one in studio.scheduler.statuses()):
            await asyncio.sleep(0.01)
    with pytest.raises(OverloadedError, match="1 pictures already wait"):
        await studio.paint()
    first.cancel()
    assert (await second).pictures
    await studio.close()


async def test_many_pictures_take_no_more_memory_than_a_few(studio: Studio) -> None:
    """Forty: a context, a graph or a picture that stayed would add up."""
    whole, own = [], []
    for number in range(40):
        await studio.paint(steps=1, seed=number)
        used = psutil.Process(studio.pids()["klein"]).memory_info()
        whole.append(used.rss)
        # Pages of files come and go as the machine has room for them.
        own.append(used.rss - getattr(used, "shared", 0))
    assert max(own[8:]) - max(own[:8]) < 2 << 20, own
    assert max(whole) < estimate_image_bytes(studio.models["klein"].own_spec)


async def test_the_worker_gives_way_to_others(studio: Studio) -> None:
    await studio.painter.load("klein")
    worker = psutil.Process(studio.pids()["klein"])
    own = psutil.Process().nice()  # which a run of the tests may have been given
    assert worker.nice() == min(19, own + NICENESS)
    assert worker.environ()["OMP_WAIT_POLICY"] == "passive"


def make_encoder(path: Path) -> ModelSpec:
    return ModelSpec(
        name="encoder",
        digest="sha256:0",
        path=write_tiny_bert(path),
        pooling=Pooling.MEAN,
        context_length=64,
        vocabulary=100,
        width=32,
        weights=path.stat().st_size,
    )


async def test_models_of_both_kinds_share_a_budget_and_are_evicted_for_each_other(
    settings: Settings, models: dict[str, ImageModel], tmp_path: Path
) -> None:
    encoder = make_encoder(tmp_path / "encoder.gguf")
    image = estimate_image_bytes(models["klein"].own_spec)
    budget = 2 * max(image, estimate_bytes(encoder)) + min(image, estimate_bytes(encoder)) // 2
    studio = Studio(settings, models, memory=budget)
    most = 0

    def measure() -> list[str]:
        nonlocal most
        pids = studio.pids()
        most = max(most, sum(psutil.Process(pid).memory_info().rss for pid in pids.values()))
        return sorted(pids)

    await studio.paint(model="klein", keep_alive=600.0)
    async with studio.scheduler.lease(encoder, 60.0) as model:
        await model.embed(await model.tokenize(["hello world"]))
        assert measure() == ["encoder", "klein"]
    await studio.paint(model="other", keep_alive=100.0)
    assert measure() == ["klein", "other"], "the shortest keep_alive went"
    async with studio.scheduler.lease(encoder) as model:
        await model.embed(await model.tokenize(["hello world"]))
        assert measure() == ["encoder", "klein"]
    assert most <= budget
    await studio.close()


async def test_painting_beside_embedding_does_not_disturb_either(
    studio: Studio, tmp_path: Path
) -> None:
    encoder = make_encoder(tmp_path / "encoder.gguf")
    async with studio.scheduler.lease(encoder) as model:
        ids = await model.tokenize(["hello world"])
        alone = (await model.embed(ids)).vectors
        painting = await begin(studio, 0, steps=20)
        beside = [(await model.embed(ids, store=False)).vectors for _ in range(20)]
        assert all((one == alone).all() for one in beside)
        assert (await painting).pictures
