"""What the page shows as it changes: one sample a second of the server's metrics."""

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from prometheus_client.metrics_core import Metric

from embedd.errors import OverloadedError

INTERVAL: Final = 1.0  # seconds between two samples
KEPT: Final = 600  # samples
MAX_STREAMS: Final = 16

# Fields of a sample → the series of all models whose sum it is.
_SUMS: Final = {
    "requests": "embedd_requests_total",
    "in_flight": "embedd_requests_in_flight",
    "inputs": "embedd_inputs_total",
    "tokens": "embedd_engine_tokens_total",
    "waiting_tokens": "embedd_waiting_tokens",
    "waiting_requests": "embedd_waiting_requests",
    "batches": "embedd_batch_tokens_count",
    "batched_tokens": "embedd_batch_tokens_sum",
    "batch_limit": "embedd_model_batch_tokens",
    "cache_hits": "embedd_cache_hits_total",
    "cache_misses": "embedd_cache_misses_total",
    "cache_bytes": "embedd_cache_bytes",
    "truncated": "embedd_truncated_inputs_total",
}
_QUEUE: Final = "embedd_queue_seconds_bucket"
# The counters and histograms that a sample is made of, by the names that they have in code.
FAMILIES: Final = frozenset(
    re.sub(r"_(total|count|sum|bucket)$", "", series) for series in (*_SUMS.values(), _QUEUE)
)
_MEMORY: Final = "embedd_model_bytes"


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The metrics at one moment, summed over models. What counts, counts from the start.

    Args:
        time: Seconds since 1970.
        batch_limit: The most tokens of a batch, summed over the models in memory.
        queue: Requests whose time in the queue was at most so many seconds, by that number.
        memory: Bytes by model.
    """

    time: float
    requests: float = 0.0
    in_flight: float = 0.0
    inputs: float = 0.0
    tokens: float = 0.0
    waiting_tokens: float = 0.0
    waiting_requests: float = 0.0
    batches: float = 0.0
    batched_tokens: float = 0.0
    batch_limit: float = 0.0
    cache_hits: float = 0.0
    cache_misses: float = 0.0
    cache_bytes: float = 0.0
    truncated: float = 0.0
    queue: Mapping[str, float] = {}
    memory: Mapping[str, float] = {}


def take_sample(metrics: Iterable[Metric], now: float) -> Sample:
    """Return the sample of *metrics* at the time *now*."""
    sums = dict.fromkeys(_SUMS, 0.0)
    fields = {series: field for field, series in _SUMS.items()}
    queue: dict[str, float] = {}
    memory: dict[str, float] = {}
    for metric in metrics:
        for name, labels, value, *_ in metric.samples:
            if name in fields:
                sums[fields[name]] += value
            elif name == _QUEUE:
                queue[labels["le"]] = queue.get(labels["le"], 0.0) + value
            elif name == _MEMORY:
                memory[labels["model"]] = value
    return Sample(time=now, **sums, queue=queue, memory=memory)


class Live:
    """The last samples, and those who follow them.

    Args:
        collect: Returns the metrics of now, `FAMILIES` and the gauges at least.
    """

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect
        self._samples: deque[Sample] = deque(maxlen=KEPT)
        self._followers: set[asyncio.Queue[Sample]] = set()

    async def watch(self) -> None:
        """Take a sample every second, for ever."""
        while True:
            sample = take_sample(self._collect(), time.time())
            self._samples.append(sample)
            for follower in self._followers:
                # A follower that does not keep up misses samples; the next one has all counts.
                if follower.empty():
                    follower.put_nowait(sample)
            await asyncio.sleep(INTERVAL)

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[tuple[list[Sample], asyncio.Queue[Sample]]]:
        """Return the samples that are kept, and a queue of those to come.

        Raises:
            OverloadedError: `MAX_STREAMS` follow already.
        """
        if len(self._followers) >= MAX_STREAMS:
            raise OverloadedError(
                f"{MAX_STREAMS} pages are following the live figures, which is the limit: "
                "close one of them",
                retry_after=10,
            )
        queue: asyncio.Queue[Sample] = asyncio.Queue()
        self._followers.add(queue)
        try:
            yield list(self._samples), queue
        finally:
            self._followers.discard(queue)
