"""Everything that is counted and measured, in the format of Prometheus.

Names follow its conventions: seconds and bytes, ``_total`` for what only grows. Labels are
bounded: models are those that were loaded, routes those that exist.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

OPEN_METRICS: Final = "application/openmetrics-text"
REQUEST_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
BATCH_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
BATCH_TOKENS: Final = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
LOAD_SECONDS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """A model in memory as it is now: ``size`` in bytes."""

    name: str
    engine: str
    rung: str
    size: int
    waiting_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is asked for when somebody looks: nothing is counted for it before.

    ``cache_size`` is in bytes.
    """

    models: Iterable[ModelState]
    cache_size: int
    cache_entries: int
    cache_hits: int
    cache_misses: int


class ModelMetrics:
    """The counters of one model: found once, then only counted up."""

    def __init__(self, metrics: "Metrics", model: str) -> None:
        self.inputs = metrics.inputs.labels(model)
        self.tokens = metrics.tokens.labels(model)
        self.truncated = metrics.truncated.labels(model)
        self.reused = metrics.reused.labels(model)
        self.queue_seconds = metrics.queue_seconds.labels(model)
        self.engine_tokens = metrics.engine_tokens.labels(model)
        self.engine_sequences = metrics.engine_sequences.labels(model)
        self.batch_tokens = metrics.batch_tokens.labels(model)
        self.batch_seconds = metrics.batch_seconds.labels(model)
        self.load_seconds = metrics.load_seconds.labels(model)
        self.worker_deaths = metrics.worker_deaths.labels(model)
        self.overloads = metrics.overloads.labels(model)

    def computed(self, *, tokens: int, sequences: int, seconds: float) -> None:
        """The engine has computed a batch."""
        self.engine_tokens.inc(tokens)
        self.engine_sequences.inc(sequences)
        self.batch_tokens.observe(tokens)
        self.batch_seconds.observe(seconds)

    def answered(
        self, *, inputs: int, tokens: int, truncated: int, reused: int, queue: float
    ) -> None:
        """A request got its vectors or scores."""
        self.inputs.inc(inputs)
        self.tokens.inc(tokens)
        self.truncated.inc(truncated)
        self.reused.inc(reused)
        self.queue_seconds.observe(queue)


class Metrics:
    """All metrics of one server."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self.of_model: Callable[[str], ModelMetrics] = cache(self._make_model)
        self.requests = self._counter("requests", "Requests answered.", "route", "status")
        self.in_flight = Gauge(
            "embedd_requests_in_flight", "Requests being answered.", registry=self._registry
        )
        self.request_seconds = self._histogram(
            "request_seconds", "From a request's head to its last byte.", REQUEST_SECONDS, "route"
        )
        self.inputs = self._counter("inputs", "Inputs answered.", "model")
        self.tokens = self._counter("tokens", "Tokens of the inputs answered.", "model")
        self.truncated = self._counter("truncated_inputs", "Inputs that were cut.", "model")
        self.reused = self._counter(
            "reused_inputs", "Inputs answered with a vector that was computed before.", "model"
        )
        self.queue_seconds = self._histogram(
            "queue_seconds", "What requests waited for a batch.", BATCH_SECONDS, "model"
        )
        self.engine_tokens = self._counter("engine_tokens", "Tokens computed.", "model")
        self.engine_sequences = self._counter("engine_sequences", "Sequences computed.", "model")
        self.batch_tokens = self._histogram(
            "batch_tokens", "Tokens of the batches computed.", BATCH_TOKENS, "model"
        )
        self.batch_seconds = self._histogram(
            "batch_seconds", "What batches took to compute.", BATCH_SECONDS, "model"
        )
        self.load_seconds = self._histogram(
            "load_seconds", "What loading took.", LOAD_SECONDS, "model"
        )
        self.worker_deaths = self._counter("worker_deaths", "Workers that died.", "model")
        self.overloads = self._counter(
            "overloads", "Requests refused because too many tokens waited.", "model"
        )

    def watch(self, look: Callable[[], State]) -> None:
        """*look* is asked whenever somebody reads the metrics."""
        self._registry.register(_StateCollector(look))

    def expose(self, accept: str) -> tuple[bytes, str]:
        """All metrics, in the format that the ``Accept`` header asks for, and its type."""
        # Only the choice is the client's: the library fails on versions that are no numbers.
        wanted = f"{OPEN_METRICS}; version=1.0.0" if OPEN_METRICS in accept else ""
        encode, content_type = choose_encoder(wanted)
        return encode(self._registry), content_type

    def _make_model(self, name: str) -> ModelMetrics:
        return ModelMetrics(self, name)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"embedd_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: Iterable[float], *labels: str) -> Histogram:
        return Histogram(
            f"embedd_{name}", text, labels, buckets=tuple(buckets), registry=self._registry
        )


class _StateCollector(Collector):
    def __init__(self, look: Callable[[], State]) -> None:
        self._look = look

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client.registry.Collector`."""
        state = self._look()
        loaded = GaugeMetricFamily(
            "embedd_model_loaded",
            "1 for each model in memory.",
            labels=["model", "engine", "rung"],
        )
        size = GaugeMetricFamily(
            "embedd_model_bytes", "Memory of a model in memory.", labels=["model"]
        )
        waiting = GaugeMetricFamily(
            "embedd_waiting_tokens", "Tokens that no batch has taken.", labels=["model"]
        )
        for model in state.models:
            loaded.add_metric([model.name, model.engine, model.rung], 1)
            size.add_metric([model.name], model.size)
            waiting.add_metric([model.name], model.waiting_tokens)
        yield from (loaded, size, waiting)
        yield GaugeMetricFamily(
            "embedd_cache_bytes", "Memory of vectors kept.", value=state.cache_size
        )
        yield GaugeMetricFamily("embedd_cache_entries", "Vectors kept.", value=state.cache_entries)
        yield CounterMetricFamily(
            "embedd_cache_hits", "Sequences whose vector was kept.", value=state.cache_hits
        )
        yield CounterMetricFamily(
            "embedd_cache_misses", "Sequences whose vector was not.", value=state.cache_misses
        )
