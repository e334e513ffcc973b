"""Image models are leased, evicted and expired as all others, in the same budget."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from embedd.engine.image_spec import SMALL_PIXELS, ImageSpec
from embedd.engine.serving.image_model import ServedImageModel
from embedd.errors import InsufficientMemoryError, ModelLoadError
from embedd.images import ImagePart
from embedd.metrics import Metrics
from embedd.scheduler.gauges import describe_models
from embedd.scheduler.memory import (
    ATTENTION_BYTES,
    DECODED_BYTES,
    FLASH_STEP_BYTES,
    IMAGE_LIBRARY,
    estimate_image_bytes,
)
from embedd.scheduler.scheduler import Scheduler
from tests.exposition import moved, read
from tests.fake_images import FakeImageLoads
from tests.fakes import Clock, FakeLoader, FakeModel, settle
from tests.unit.painter.images import make_image_spec
from tests.unit.scheduler.clients import make_spec

GIB = 1 << 30
ENCODER = make_spec("encoder", GIB)


def make_image(name: str, weights: int) -> ImageSpec:
    """A spec whose worker is estimated to take about *weights* bytes."""
    return make_image_spec(name, weights=weights, pixels=64 * 64)


class Desk:
    """A scheduler of both kinds of models; every load succeeds at once."""

    def __init__(self, memory: int = 10 * GIB) -> None:
        self.clock = Clock()
        self.images = FakeImageLoads()
        self.metrics = Metrics()
        self.scheduler = Scheduler(
            load=self._load,
            load_image=self.images.load,
            estimate=lambda spec: spec.weights,
            memory=memory,
            max_models=3,
            max_queue=512,
            keep_alive=300.0,
            metrics=self.metrics,
            clock=self.clock,
        )

    async def _load(self, spec: object) -> FakeModel:
        return FakeModel(ENCODER)

    @property
    def loaded(self) -> list[str]:
        return sorted(one.spec.name for one in self.scheduler.statuses())


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    one = Desk()
    yield one
    await one.scheduler.close()


async def test_a_lease_of_an_image_model_gives_one_that_paints(desk: Desk) -> None:
    async with desk.scheduler.lease(make_image("a", GIB)) as model:
        assert isinstance(model, ServedImageModel)
        [status] = desk.scheduler.statuses()
    assert (status.pid, status.info, status.waiting_requests) == (1, model.info, 0)


async def test_names_of_equal_files_share_a_model_and_other_files_or_sizes_do_not(
    desk: Desk,
) -> None:
    spec = make_image("a", GIB)
    renamed = replace(spec, name="b", threads=2)
    larger = replace(spec, name="large", pixels=2 * SMALL_PIXELS)
    other = replace(spec, name="other", parts={**spec.parts, ImagePart.VAE: spec.path})
    for one in (spec, renamed, larger, other):
        async with desk.scheduler.lease(one):
            pass
    assert desk.loaded == ["a", "large", "other"]


async def test_an_idle_encoder_is_evicted_for_an_image_model_and_the_other_way_round() -> None:
    desk = Desk(memory=2 * GIB + GIB // 2)
    async with desk.scheduler.lease(ENCODER, 60):
        pass
    async with desk.scheduler.lease(make_image("a", GIB), 600):
        pass
    assert desk.loaded == ["a", "encoder"]
    async with desk.scheduler.lease(make_image("b", GIB), 100):
        pass
    await settle()
    assert desk.loaded == ["a", "b"]
    async with desk.scheduler.lease(ENCODER):
        pass
    assert desk.loaded == ["a", "encoder"]
    assert desk.images.workers[1].closed
    await desk.scheduler.close()


async def test_an_idle_image_model_expires(desk: Desk) -> None:
    async with desk.scheduler.lease(make_image("a", GIB), 5.0):
        desk.clock.advance(100)
    assert desk.loaded == ["a"]
    desk.clock.advance(6)
    await settle()
    assert desk.loaded == []
    assert desk.images.workers[0].closed


async def test_an_image_model_larger_than_the_budget_is_refused(desk: Desk) -> None:
    with pytest.raises(InsufficientMemoryError, match=r'model "a" needs about \d+ bytes'):
        async with desk.scheduler.lease(make_image("a", 10 * GIB)):
            pass


async def test_a_broken_image_model_is_loaded_anew(desk: Desk) -> None:
    async with desk.scheduler.lease(make_image("a", GIB)) as model:
        model.unhealthy_reason = "died too often"
    async with desk.scheduler.lease(make_image("a", GIB)) as again:
        assert again is not model
    assert desk.images.names == ["a", "a"]


async def test_a_scheduler_without_a_loader_of_images_refuses_them() -> None:
    scheduler = Scheduler(
        load=FakeLoader().load,
        estimate=lambda spec: spec.weights,
        memory=10 * GIB,
        max_models=3,
        max_queue=512,
        keep_alive=300.0,
        metrics=Metrics(),
    )
    with pytest.raises(ModelLoadError, match="makes images"):
        async with scheduler.lease(make_image("a", GIB)):
            pass
    await scheduler.close()


async def test_an_image_model_has_gauges_of_its_own(desk: Desk) -> None:
    metrics = Metrics()
    before = read(metrics)
    async with desk.scheduler.lease(make_image("a", GIB)):
        pass
    [status] = desk.scheduler.statuses()
    metrics.watch(lambda: describe_models([replace(status, waiting_requests=2)], {}))
    assert moved(before, read(metrics)) == {
        "embedd_model_loaded{backend=fake,engine=fake,model=a}": 1,
        "embedd_model_bytes{model=a}": status.size,
        "embedd_model_cores{model=a}": 1,
        "embedd_waiting_requests{awaited=picture,model=a}": 2,
    }


@pytest.mark.parametrize(
    ("side", "step"),
    [
        # As measured with SD1: 50 MB at 256, 560 MB at 512; with flash attention 277 MB at 768.
        (256, 50e6),
        (512, 560e6),
        (768, 277e6),
    ],
)
def test_a_step_is_planned_as_it_was_measured(side: int, step: float) -> None:
    spec = make_image_spec(weights=0, pixels=side * side)
    decoded = DECODED_BYTES * min(side * side, SMALL_PIXELS)
    planned = estimate_image_bytes(spec) - IMAGE_LIBRARY - decoded
    assert step <= planned <= 1.2 * step


def test_weights_and_decoder_are_planned_and_tiles_bound_the_decoder() -> None:
    small, large = make_image_spec(weights=7), make_image_spec(weights=8)
    assert estimate_image_bytes(large) - estimate_image_bytes(small) == 1
    assert estimate_image_bytes(small) > DECODED_BYTES * SMALL_PIXELS + 16 * ATTENTION_BYTES
    larger = [estimate_image_bytes(replace(small, pixels=k * SMALL_PIXELS)) for k in (2, 4)]
    assert larger[1] - larger[0] == 2 * SMALL_PIXELS * FLASH_STEP_BYTES
