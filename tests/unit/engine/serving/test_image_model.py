"""A model that paints: restarts, cancelling, the watchdog, closing; without processes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from embedd.engine.fake_painter import BLANK, HANG, INFO, KILL, REFUSE
from embedd.engine.host.errors import WorkerDiedError
from embedd.engine.image_protocol import PictureOrder
from embedd.engine.serving.image_model import (
    MAX_DEATHS,
    MIN_PATIENCE,
    PATIENCE_FACTOR,
    SLOWEST,
    ServedImageModel,
)
from embedd.engine.serving.picture_queue import PaintedPicture
from embedd.errors import (
    EngineError,
    InsufficientMemoryError,
    ModelLoadError,
    OverloadedError,
    ShuttingDownError,
)
from embedd.images import PaintProgress, Phase
from embedd.metrics import DeathReason
from tests.exposition import moved, read
from tests.fake_images import FakeImageLoads
from tests.fakes import settle
from tests.unit.painter.images import make_image_spec
from tests.unit.painter.orders import make_order


class Painting:
    """One request for pictures."""

    def __init__(self, model: ServedImageModel, *orders: PictureOrder) -> None:
        self.events: list[PaintProgress] = []
        self.task = asyncio.create_task(model.paint(orders, self.events.append))
        # An error that no test looks at is not logged when the task is collected.
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def leave(self) -> None:
        """Its client disconnects."""
        self.task.cancel()
        await asyncio.wait([self.task])
        await settle()

    @property
    def phases(self) -> list[Phase]:
        """Of its events, each once."""
        return list(dict.fromkeys(one.phase for one in self.events))


async def paint(model: ServedImageModel, prompt: str = "a cat", **order: Any) -> PaintedPicture:
    [picture] = await model.paint([make_order(prompt, **order)], lambda _progress: None)
    return picture


@pytest.fixture
async def loads() -> FakeImageLoads:
    return FakeImageLoads()


@pytest.fixture
async def model(loads: FakeImageLoads) -> AsyncIterator[ServedImageModel]:
    one = await loads.load(make_image_spec())
    yield one
    await one.close()


def begin(model: ServedImageModel, *prompts: str, steps: int = 3) -> Painting:
    return Painting(model, *(make_order(prompt, steps=steps) for prompt in prompts or ["a cat"]))


async def test_a_loaded_model_has_the_facts_of_its_worker(model: ServedImageModel) -> None:
    assert (model.info, model.pid, model.cores) == (INFO, 1, 1)
    assert (model.unhealthy_reason, model.waiting_requests, model.waiting_tokens) == (None, 0, 0)
    assert not model.is_calibrated


async def test_a_models_own_threads_go_before_the_servers(loads: FakeImageLoads) -> None:
    model = await loads.load(make_image_spec(threads=7))
    assert model.cores == 7
    await model.close()


async def test_pictures_of_a_request_come_in_order(model: ServedImageModel) -> None:
    orders = [make_order(seed=seed) for seed in (1, 2)]
    pictures = await model.paint(orders, lambda _progress: None)
    assert [one.data for one in pictures] == [
        (await paint(model, "a lovely cat", seed=seed)).data for seed in (1, 2)
    ]


async def test_one_picture_is_painted_at_a_time(
    model: ServedImageModel, loads: FakeImageLoads
) -> None:
    loads.workers[0].gate.clear()
    asked = [begin(model, "first"), begin(model, "second")]
    await settle()
    assert loads.workers[0].prompts == ["first"]
    assert model.waiting_requests == 1
    loads.workers[0].gate.set()
    await asyncio.gather(*(one.task for one in asked))
    assert loads.workers[0].prompts == ["first", "second"]


async def test_a_refused_picture_leaves_the_worker(
    model: ServedImageModel, loads: FakeImageLoads
) -> None:
    for prompt in (REFUSE, BLANK):
        with pytest.raises(EngineError):
            await paint(model, prompt)
    assert await paint(model)
    assert len(loads.workers) == 1


async def test_a_failed_picture_drops_the_rest_of_its_request(
    model: ServedImageModel, loads: FakeImageLoads
) -> None:
    loads.workers[0].gate.clear()
    asked, other = begin(model, REFUSE, "a", "b", "c"), begin(model, "other")
    await settle()
    assert isinstance(asked.task.exception(), EngineError)
    loads.workers[-1].gate.set()
    await other.task
    assert {"b", "c"} & {prompt for one in loads.workers for prompt in one.prompts} == set()


async def test_a_worker_that_dies_fails_its_picture_and_the_next_has_a_new_one(
    model: ServedImageModel, loads: FakeImageLoads
) -> None:
    before = read(loads.metrics)
    with pytest.raises(EngineError) as caught:
        await paint(model, KILL)
    assert str(caught.value) == (
        "the image engine died while it painted: the worker process ended with SIGSEGV"
    )
    assert model.pid is None
    asked = begin(model)
    await asked.task
    assert asked.phases == [Phase.LOADING, Phase.SAMPLING, Phase.DECODING]
    assert model.pid == 2
    found = moved(before, read(loads.metrics))
    assert found["embedd_worker_deaths_total{model=klein,reason=crashed}"] == 1
    assert found["embedd_pictures_total{model=klein}"] == 1


async def test_a_worker_that_died_idle_is_replaced(
    model: ServedImageModel, loads: FakeImageLoads
) -> None:
    loads.workers[0].die()
    assert await paint(model)
    assert len(loads.workers) == 2


async def test_three_deaths_without_a_picture_end_the_model(
    model: ServedImageModel, loads: FakeImageLoads
) -> None:
    for _ in range(2):
        with pytest.raises(EngineError):
            await paint(model, KILL)
    await paint(model)
    for _ in range(3):
        assert model.unhealthy_reason is None
        with pytest.raises(EngineError):
            await paint(model, KILL)
    assert model.unhealthy_reason == (
        'the worker of model "klein" died 3 times without painting a picture: '
        "the worker process ended with SIGSEGV"
    )


async def test_kills_from_outside_fail_their_pictures_and_not_the_model(
    model: ServedImageModel, loads: FakeImageLoads
) -> None:
    for _ in range(MAX_DEATHS + 1):
        asked = begin(model, HANG)
        await settle()
        loads.workers[-1].die(DeathReason.KILLED)
        with pytest.raises(EngineError, match=r"died while it painted: .* SIGKILL"):
            await asked.task
    assert model.unhealthy_reason is None
    assert await paint(model)


async def test_pictures_that_wait_for_a_broken_model_fail(
    model: ServedImageModel, loads: FakeImageLoads
) -> None:
    asked = [begin(model, KILL) for _ in range(4)]
    await asyncio.wait([one.task for one in asked])
    errors = [one.task.exception() for one in asked]
    assert [type(one) for one in errors] == [EngineError] * 3 + [ModelLoadError]


@pytest.mark.parametrize(
    "error", [ModelLoadError("bad file"), InsufficientMemoryError("not enough memory")]
)
async def test_a_model_that_does_not_load_again_is_broken(
    model: ServedImageModel, loads: FakeImageLoads, error: Exception
) -> None:
    loads.workers[0].die()
    loads.error = error
    with pytest.raises(type(error)):
        await paint(model)
    assert model.unhealthy_reason == str(error)


async def test_a_worker_that_dies_while_it_loads_is_an_error_of_the_load(
    loads: FakeImageLoads, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(*_: object, **__: object) -> None:
        raise WorkerDiedError("the worker process ended with SIGABRT", DeathReason.CRASHED)

    monkeypatch.setattr("tests.fake_images.FakeImageWorker.load", die)
    loads.metrics.of_image_model("klein")
    before = read(loads.metrics)
    with pytest.raises(ModelLoadError, match=r'^cannot load model "klein": the worker process'):
        await loads.load(make_image_spec())
    assert moved(before, read(loads.metrics)) == {
        "embedd_worker_deaths_total{model=klein,reason=crashed}": 1
    }


async def test_a_load_that_fails_leaves_no_worker(
    loads: FakeImageLoads, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise ModelLoadError("bad file")

    monkeypatch.setattr("tests.fake_images.FakeImageWorker.load", fail)
    with pytest.raises(ModelLoadError):
        await loads.load(make_image_spec())
    assert [worker.closed for worker in loads.workers] == [True]


async def test_a_client_that_leaves_ends_the_worker(
    model: ServedImageModel, loads: FakeImageLoads
) -> None:
    loads.workers[0].gate.clear()
    asked = begin(model, steps=150)
    await settle()
    before = read(loads.metrics)
    await asked.leave()
    assert loads.workers[0].was_killed
    assert model.pid is None
    assert moved(before, read(loads.metrics)) == {"embedd_cancelled_pictures_total{model=klein}": 1}
    assert len(loads.workers) == 1, "a new one is started when the next picture wants it"
    assert await paint(model)


async def test_a_picture_that_is_nearly_done_is_finished_without_its_client(
    model: ServedImageModel, loads: FakeImageLoads
) -> None:
    loads.workers[0].gate.clear()
    asked, other = begin(model, steps=1), begin(model, "other")
    await settle()
    await asked.leave()
    assert not loads.workers[0].was_killed
    loads.workers[0].gate.set()
    await other.task
    assert len(loads.workers) == 1


async def test_a_waiting_picture_whose_client_leaves_is_never_painted(
    model: ServedImageModel, loads: FakeImageLoads
) -> None:
    loads.workers[0].gate.clear()
    running, waiting = begin(model, "running"), begin(model, "waiting", "too")
    await settle()
    await waiting.leave()
    assert model.waiting_requests == 0
    loads.workers[0].gate.set()
    await running.task
    assert loads.workers[0].prompts == ["running"]


async def test_a_client_that_leaves_while_a_worker_starts_leaves_the_worker(
    model: ServedImageModel, loads: FakeImageLoads, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_load = asyncio.Event()
    load = ServedImageModel._open_worker

    async def wait(self: ServedImageModel) -> Any:
        await may_load.wait()
        return await load(self)

    monkeypatch.setattr(ServedImageModel, "_open_worker", wait)
    loads.workers[0].die()
    asked = begin(model, steps=150)
    await settle()
    assert asked.phases == [Phase.LOADING]
    await asked.leave()
    may_load.set()
    await settle()
    assert loads.workers[1].prompts == []
    assert await paint(model)
    assert len(loads.workers) == 2


async def test_a_finished_picture_counts_when_a_later_one_is_cancelled(
    model: ServedImageModel, loads: FakeImageLoads
) -> None:
    asked = begin(model, "a", HANG, "c")
    await settle()
    before = read(loads.metrics)
    await asked.leave()
    assert moved(before, read(loads.metrics)) == {"embedd_cancelled_pictures_total{model=klein}": 2}


async def test_a_worker_without_a_sign_of_life_is_ended(
    loads: FakeImageLoads,
) -> None:
    loads.min_patience = 0.05
    model = await loads.load(make_image_spec())
    before = read(loads.metrics)
    with pytest.raises(EngineError, match=r": it made no progress for \d+ seconds and was ended$"):
        await paint(model, HANG)
    assert loads.workers[0].was_killed
    assert moved(before, read(loads.metrics)) == {
        "embedd_worker_deaths_total{model=klein,reason=stuck}": 1
    }
    model._min_patience = MIN_PATIENCE
    assert await paint(model)
    await model.close()


async def test_a_sign_of_life_postpones_the_end_of_a_slow_picture(
    model: ServedImageModel, loads: FakeImageLoads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four steps of 50 seconds each, by a clock that the test moves."""
    loop, passed = asyncio.get_running_loop(), 0.0
    now = loop.time
    monkeypatch.setattr(loop, "time", lambda: now() + passed)
    worker = loads.workers[0]
    worker.gate.clear()
    asked = begin(model, steps=4)
    for _ in range(5):
        await settle()
        passed += 50.0
        await worker.let_step()
    assert (await asked.task)[0].data
    assert not worker.was_killed


@pytest.mark.parametrize(
    ("weights", "pause", "seconds"),
    [
        (1, 0.0, MIN_PATIENCE),
        (1, 10.0, PATIENCE_FACTOR * 10),
        (10**12, 0.0, SLOWEST * 10**12 * 64 * 64),
    ],
)
async def test_slow_models_and_large_pictures_are_given_more_time(
    loads: FakeImageLoads, weights: int, pause: float, seconds: float
) -> None:
    model = await loads.load(make_image_spec(weights=weights))
    model._longest_pause = pause
    [job] = model._queue.admit([make_order()], lambda _progress: None)
    assert model._patience(job) == seconds
    await model.close()


async def test_closing_fails_all_pictures_and_ends_the_worker(
    model: ServedImageModel, loads: FakeImageLoads
) -> None:
    asked = [begin(model, HANG), begin(model), begin(model)]
    await settle()
    await model.close()
    errors = [one.task.exception() for one in asked]
    assert [type(one) for one in errors] == [ShuttingDownError] * 3
    assert loads.workers[0].closed
    with pytest.raises(ShuttingDownError):
        await paint(model)


async def test_too_many_waiting_pictures_are_refused_and_counted() -> None:
    loads = FakeImageLoads(max_waiting=1, is_open=False)
    model = await loads.load(make_image_spec())
    asked = [begin(model), begin(model)]
    await settle()
    before = read(loads.metrics)
    with pytest.raises(OverloadedError):
        await paint(model)
    assert moved(before, read(loads.metrics)) == {
        "embedd_overloads_total{model=klein,reason=pictures}": 1
    }
    await model.close()
    assert all(one.task.done() for one in asked)


async def test_an_unexpected_error_fails_the_picture_and_is_logged(
    model: ServedImageModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> Callable[[], None]:
        raise ValueError("a mistake")

    with monkeypatch.context() as patch:
        patch.setattr("tests.fake_images.paint_gradient", fail)
        with pytest.raises(EngineError, match=r"^internal error$"):
            await paint(model)
    assert "picture failed" in caplog.text
    assert await paint(model)
