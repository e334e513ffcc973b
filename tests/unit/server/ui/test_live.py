"""Samples are the sums of the metrics; a page that is slow or one too many stalls no other."""

import asyncio
from functools import partial

import pytest

from embedd.errors import OverloadedError
from embedd.metrics import Metrics
from embedd.metrics.gauges import make_gauge
from embedd.server.ui.live import FAMILIES, KEPT, MAX_STREAMS, Live, take_sample


def test_a_sample_sums_over_the_models() -> None:
    metrics = Metrics()
    for model, tokens in (("a", 10), ("b", 30)):
        metrics.of_model(model).computed(tokens=tokens, sequences=2, seconds=0.1)
        metrics.of_model(model).answered(inputs=2, tokens=9, truncated=1, reused={}, queue=0.004)
    metrics.requests.labels("/api/embed", 200).inc(3)
    metrics.watch(lambda: [make_gauge("model_bytes", "", ("model",), {("a",): 5, ("b",): 6})])
    sample = take_sample(metrics.collect(FAMILIES), 7.0)
    assert sample.time == 7.0
    assert (sample.requests, sample.inputs, sample.tokens, sample.truncated) == (3, 4, 40, 2)
    assert (sample.batches, sample.batched_tokens) == (2, 40)
    assert sample.queue["0.0025"] == 0
    assert sample.queue["0.005"] == sample.queue["+Inf"] == 2
    assert sample.memory == {"a": 5, "b": 6}


def test_a_sample_takes_no_counters_that_it_does_not_need() -> None:
    metrics = Metrics()
    metrics.in_flight = 3
    metrics.requests.labels("/api/embed", 200).inc(2)
    metrics.request_seconds.labels("/api/embed").observe(0.1)
    metrics.of_model("a").computed(tokens=10, sequences=2, seconds=0.1)
    found = list(metrics.collect(FAMILIES))
    assert {metric.name for metric in found} <= {*FAMILIES, "embedd_requests_in_flight"}
    sample = take_sample(found, 0.0)
    assert (sample.in_flight, sample.requests, sample.tokens) == (3, 2, 10)


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Live:
    """One whose seconds are short."""
    monkeypatch.setattr("embedd.server.ui.live.INTERVAL", 0)
    return Live(partial(Metrics().collect, FAMILIES))


async def watch(live: Live, samples: int) -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(live.watch())
        async with live.follow() as (_, coming):
            for _ in range(samples):
                await coming.get()
        task.cancel()


async def test_the_last_ten_minutes_are_kept(live: Live) -> None:
    await watch(live, KEPT + 5)
    async with live.follow() as (kept, _):
        assert len(kept) == KEPT
        times = [sample.time for sample in kept]
        assert times == sorted(times)


async def test_a_page_that_does_not_read_has_one_sample_waiting(live: Live) -> None:
    async with live.follow() as (_, slow):
        await watch(live, 5)
        assert slow.qsize() == 1


async def test_there_is_a_limit_of_pages_and_one_that_leaves_makes_room(live: Live) -> None:
    async with asyncio.timeout(60):
        pages = [live.follow() for _ in range(MAX_STREAMS)]
        for page in pages:
            await page.__aenter__()
        with pytest.raises(OverloadedError, match="16 pages are following"):
            await live.follow().__aenter__()
        await pages[0].__aexit__(None, None, None)
        async with live.follow():
            pass
        for page in pages[1:]:
            await page.__aexit__(None, None, None)
