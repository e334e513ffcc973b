"""What every worker that paints promises: real processes, and the fake of most tests."""

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from PIL import Image

from embedd.config import image_worker_environment
from embedd.engine.fake_painter import BLANK, HANG, INFO, KILL, REFUSE
from embedd.engine.host.errors import WorkerDiedError
from embedd.engine.host.image_process import ImageWorker
from embedd.engine.ipc.image_messages import LoadPainter
from embedd.errors import EngineError
from embedd.images import ImageFormat, ImagePart, Phase, Preview
from embedd.metrics import DeathReason
from tests.fake_images import FakeImageWorker
from tests.unit.painter.images import make_image_spec
from tests.unit.painter.orders import make_order

Steps = list[tuple[Phase, int]]


async def start_process(path: Path) -> ImageWorker:
    worker = await ImageWorker.start(image_worker_environment())
    await worker.load(make_load(path))
    return worker


async def start_fake(path: Path) -> ImageWorker:
    worker = FakeImageWorker(os.getpid())
    await worker.load(make_load(path))
    return worker


def make_load(path: Path) -> LoadPainter:
    spec = make_image_spec(parts={ImagePart.MODEL: path})
    return LoadPainter(spec=spec, engine="fake", threads=1)


@pytest.fixture(params=[start_process, start_fake])
async def worker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ImageWorker]:
    path = tmp_path / "model"
    path.touch()
    start: Callable[[Path], Awaitable[ImageWorker]] = request.param
    started = await start(path)
    yield started
    await started.close()


def ignore(_phase: Phase, _step: int, _preview: Preview | None) -> None:
    pass


async def test_a_loaded_worker_has_the_facts_of_its_model(worker: ImageWorker) -> None:
    assert worker.info == INFO
    assert worker.pid > 0
    assert worker.death is None


async def test_a_picture_has_the_size_and_format_of_its_order(worker: ImageWorker) -> None:
    for kind in ImageFormat:
        order = make_order(width=72, height=56, painted_width=80, painted_height=64, format=kind)
        painted = await worker.paint(order, ignore)
        image = Image.open(io.BytesIO(painted.data))
        assert (image.size, image.format) == ((72, 56), kind.upper())
        assert painted.sample_seconds >= 0 <= painted.decode_seconds


async def test_equal_orders_give_equal_files_and_others_do_not(worker: ImageWorker) -> None:
    first, again, other = [await worker.paint(make_order(seed=seed), ignore) for seed in (7, 7, 8)]
    assert first.data == again.data != other.data


async def test_every_step_is_reported_once_and_then_the_decoding(worker: ImageWorker) -> None:
    steps: Steps = []
    await worker.paint(make_order(steps=3), lambda phase, step, _: steps.append((phase, step)))
    assert steps == [*((Phase.SAMPLING, step) for step in range(4)), (Phase.DECODING, 3)]


async def test_previews_are_files_of_the_size_of_the_picture(worker: ImageWorker) -> None:
    previews: list[tuple[int, Preview]] = []

    def take(_phase: Phase, step: int, preview: Preview | None) -> None:
        if preview is not None:
            previews.append((step, preview))

    order = make_order(
        width=72, height=56, painted_width=80, painted_height=64, steps=4, previews=3
    )
    await worker.paint(order, take)
    assert [(step, one.number) for step, one in previews] == [(1, 0), (2, 1), (3, 2)]
    assert {Image.open(io.BytesIO(one.data)).size for _, one in previews} == {(72, 56)}


async def test_a_refused_picture_does_not_affect_the_next(worker: ImageWorker) -> None:
    with pytest.raises(EngineError, match=r"^the engine refused the picture$"):
        await worker.paint(make_order(REFUSE), ignore)
    with pytest.raises(EngineError, match=r"^the picture is blank: "):
        await worker.paint(make_order(BLANK), ignore)
    assert (await worker.paint(make_order(), ignore)).data


async def test_a_death_while_painting_fails_the_picture_and_later_ones(worker: ImageWorker) -> None:
    with pytest.raises(WorkerDiedError, match="SIGSEGV") as caught:
        await worker.paint(make_order(KILL), ignore)
    assert caught.value.reason is DeathReason.CRASHED
    assert worker.death is not None
    assert not worker.was_killed
    with pytest.raises(WorkerDiedError, match="SIGSEGV"):
        await worker.paint(make_order(), ignore)


async def test_killing_ends_a_picture_that_hangs(worker: ImageWorker) -> None:
    def take(_phase: Phase, _step: int, _preview: Preview | None) -> None:
        asyncio.get_running_loop().call_soon(worker.kill)

    with pytest.raises(WorkerDiedError):
        await worker.paint(make_order(HANG), take)
    assert worker.was_killed


async def test_closing_ends_a_picture_that_hangs(worker: ImageWorker) -> None:
    begun = asyncio.Event()
    painting = asyncio.create_task(worker.paint(make_order(HANG), lambda *_: begun.set()))
    await begun.wait()
    await worker.close()
    with pytest.raises(WorkerDiedError):
        await painting


async def test_a_caller_that_leaves_leaves_the_worker_painting(worker: ImageWorker) -> None:
    begun = asyncio.Event()
    painting = asyncio.create_task(worker.paint(make_order(steps=20), lambda *_: begun.set()))
    await begun.wait()
    painting.cancel()
    await asyncio.wait([painting])
    steps: Steps = []
    await worker.paint(make_order(), lambda phase, step, _: steps.append((phase, step)))
    assert steps[0] == (Phase.SAMPLING, 0), "nothing of the picture before"
    assert worker.death is None


async def test_a_killed_process_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.touch()
    worker = await start_process(path)
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match=r"^the worker process ended with SIGKILL"):
        await worker.paint(make_order(), ignore)
    await worker.close()
    with pytest.raises(ProcessLookupError):
        os.kill(worker.pid, 0)
