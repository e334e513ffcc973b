"""What is so at this moment: asked for when somebody looks, never kept."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from embedd.metrics.labels import Awaited

MODEL: Final = ("model",)
_Sums = Counter[tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """A model in memory as it is now: ``size`` in bytes.

    Args:
        batch_tokens, replicas, cores: What it computes with.
        calibrated: Whether these were measured on this machine.
    """

    name: str
    engine: str
    backend: str
    size: int
    waiting_tokens: int
    waiting_requests: int
    batch_tokens: int
    replicas: int
    cores: int
    calibrated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is asked for when somebody looks: nothing is counted for it before.

    ``cache_size`` is in bytes; ``load_waiters`` are requests by the model that they wait for.
    """

    models: Iterable[ModelState]
    load_waiters: Mapping[str, int]
    cache_size: int
    cache_entries: int
    cache_hits: int
    cache_misses: int


class StateCollector(Collector):
    """Asks *look* for the state of the server whenever the metrics are read."""

    def __init__(self, look: Callable[[], State]) -> None:
        self._look = look

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client.registry.Collector`."""
        state = self._look()
        yield from _describe_models(list(state.models))
        yield _describe_waiting(state)
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


def _describe_models(models: list[ModelState]) -> Iterable[Metric]:
    """Gauges of the models in memory.

    A name that was made anew may be there twice, while its former model leaves: a metric must
    not have the same labels twice. What can be added up is, else the newer one counts.
    """
    loaded, sizes, tokens = _Sums(), _Sums(), _Sums()
    for one in models:
        loaded[one.name, one.engine, one.backend] += 1
        sizes[one.name,] += one.size
        tokens[one.name,] += one.waiting_tokens
    newest = {one.name: one for one in models}.values()
    yield _gauge("model_loaded", "Models in memory.", ("model", "engine", "backend"), loaded)
    yield _gauge("model_bytes", "Memory of a model in memory.", MODEL, sizes)
    yield _gauge("waiting_tokens", "Tokens that no batch has taken.", MODEL, tokens)
    yield _gauge(
        "model_batch_tokens",
        "Tokens that a batch may have.",
        MODEL,
        {(one.name,): one.batch_tokens for one in newest},
    )
    yield _gauge(
        "model_replicas",
        "Batches that may be computed side by side.",
        MODEL,
        {(one.name,): one.replicas for one in newest},
    )
    yield _gauge(
        "model_cores",
        "Cores that a model may use now.",
        MODEL,
        {(one.name,): one.cores for one in newest},
    )
    yield _gauge(
        "model_calibrated",
        "1 if that was measured on this machine, 0 if it is a safe start.",
        MODEL,
        {(one.name,): one.calibrated for one in newest},
    )


def _describe_waiting(state: State) -> Metric:
    requests = _Sums()
    for name, count in state.load_waiters.items():
        requests[name, Awaited.LOAD] += count
    for model in state.models:
        requests[model.name, Awaited.BATCH] += model.waiting_requests
    return _gauge("waiting_requests", "Requests that wait.", ("model", "awaited"), requests)


def _gauge(
    name: str, text: str, labels: tuple[str, ...], samples: Mapping[tuple[str, ...], int]
) -> Metric:
    family = GaugeMetricFamily(f"embedd_{name}", text, labels=labels)
    for values, value in samples.items():
        family.add_metric(values, value)
    return family
