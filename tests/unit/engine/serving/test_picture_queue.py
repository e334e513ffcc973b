"""The queue of pictures: order, positions, limits, seconds to wait."""

from collections.abc import Sequence

import pytest

from embedd.engine.host.image_process import PaintedFile
from embedd.engine.serving.picture_queue import FIRST_GUESS, PictureJob, PictureQueue
from embedd.errors import EngineError, OverloadedError
from embedd.images import PaintProgress, Phase, Preview
from tests.fakes import Clock
from tests.unit.painter.orders import make_order

FILE = PaintedFile(data=b"file", sample_seconds=3.0, decode_seconds=1.0)


class Events(list[PaintProgress]):
    """The events of a request's pictures."""

    @property
    def positions(self) -> list[tuple[int, int]]:
        """Picture and position of each event of waiting."""
        return [(one.index, one.position) for one in self if one.phase is Phase.QUEUED]


def admit(queue: PictureQueue, events: Events, count: int = 1) -> Sequence[PictureJob]:
    return queue.admit([make_order()] * count, events.append)


async def test_pictures_are_taken_in_the_order_in_which_they_came() -> None:
    queue = PictureQueue(8)
    jobs = [*admit(queue, Events(), 2), *admit(queue, Events())]
    assert [queue.take() for _ in range(4)] == [*jobs, None]
    assert queue.running is None


async def test_a_waiting_picture_hears_its_position_whenever_that_changes() -> None:
    queue, first, second = PictureQueue(8), Events(), Events()
    admit(queue, first, 2)
    assert first.positions == [], "the first request is about to be painted"
    queue.take()
    admit(queue, second)
    assert (first.positions, second.positions) == ([(1, 1)], [(0, 2)])
    queue.take()
    assert second.positions == [(0, 2), (0, 1)]


async def test_a_removed_picture_is_never_taken_and_others_move_up() -> None:
    queue, second = PictureQueue(8), Events()
    running, *first = admit(queue, Events(), 3)
    queue.take()
    [last] = admit(queue, second)
    queue.remove([running, *first])
    assert queue.running is running
    assert second.positions[-1] == (0, 1)
    assert len(queue) == 1
    assert [queue.take(), queue.take()] == [last, None]


async def test_an_idle_queue_takes_a_request_of_any_size() -> None:
    queue = PictureQueue(0)
    assert len(admit(queue, Events(), 4)) == 4


async def test_a_request_that_would_make_too_many_wait_is_refused_as_a_whole() -> None:
    queue = PictureQueue(2)
    admit(queue, Events(), 1)
    admit(queue, Events(), 1)
    with pytest.raises(OverloadedError, match=r"^1 pictures already wait for this model"):
        admit(queue, Events(), 2)
    assert len(queue) == 2
    admit(queue, Events(), 1)
    with pytest.raises(OverloadedError, match=r"^2 pictures .* the limit is 2: retry later"):
        admit(queue, Events(), 1)


async def test_the_seconds_to_wait_are_those_of_the_pictures_before() -> None:
    clock = Clock()
    queue = PictureQueue(0, clock.time)
    admit(queue, Events())
    with pytest.raises(OverloadedError) as caught:
        admit(queue, Events())
    assert caught.value.retry_after == FIRST_GUESS
    job = queue.take()
    assert job is not None
    clock.advance(33.5)
    queue.finish(job, FILE)
    with pytest.raises(OverloadedError) as caught:
        admit(queue, Events())
    assert caught.value.retry_after == 34


async def test_the_time_of_a_picture_is_split_into_its_parts() -> None:
    clock = Clock()
    queue = PictureQueue(2, clock.time)
    [job] = admit(queue, Events())
    clock.advance(5)
    queue.take()
    clock.advance(2)
    queue.mark_loaded(job)
    clock.advance(4)
    timings = queue.finish(job, FILE).timings
    assert (timings.queue, timings.load, timings.sample, timings.decode) == (5, 2, 3, 1)
    assert timings.total == 11


async def test_a_worker_that_was_ready_took_no_time_to_load() -> None:
    clock = Clock()
    queue = PictureQueue(2, clock.time)
    [job] = admit(queue, Events())
    queue.take()
    assert queue.finish(job, FILE).timings.load == 0


async def test_a_sign_of_life_is_not_an_event_and_a_preview_is_one() -> None:
    events = Events()
    [job] = admit(PictureQueue(2), events)
    for _ in range(3):
        job.report(Phase.SAMPLING, 0)
    job.report(Phase.SAMPLING, 1, preview=Preview(number=0, data=b"x"))
    job.report(Phase.SAMPLING, 1)
    assert [(one.phase, one.step, one.preview is None) for one in events] == [
        (Phase.SAMPLING, 0, True),
        (Phase.SAMPLING, 1, False),
    ]


async def test_a_finished_or_cancelled_picture_has_no_more_events() -> None:
    events = Events()
    [job] = admit(PictureQueue(2), events)
    job.done.cancel()
    job.report(Phase.SAMPLING, 1)
    job.fail(EngineError("too late"))
    assert events == []
    assert job.done.cancelled()


@pytest.mark.parametrize(
    ("phase", "step", "steps", "nearly"),
    [
        (Phase.QUEUED, 0, 1, False),
        (Phase.SAMPLING, 0, 1, True),
        (Phase.SAMPLING, 0, 2, False),
        (Phase.SAMPLING, 1, 2, True),
        (Phase.SAMPLING, 148, 150, False),
        (Phase.DECODING, 2, 2, True),
    ],
)
async def test_a_picture_is_nearly_done_with_at_most_one_step_left(
    phase: Phase, step: int, steps: int, *, nearly: bool
) -> None:
    [job] = PictureQueue(2).admit([make_order(steps=steps)], lambda _progress: None)
    job.report(phase, step)
    assert job.is_nearly_done is nearly
