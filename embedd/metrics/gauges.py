"""Gauges: what is read from the server's state whenever `/metrics` is asked for.

Those of the models in memory are made in `embedd.scheduler.gauges`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Samples: TypeAlias = Mapping[tuple[str, ...], float]  # values of the labels → value


class StateCollector(Collector):
    """Calls *look* for the present gauges whenever the metrics are read."""

    def __init__(self, look: Callable[[], Iterable[Metric]]) -> None:
        self._look = look

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client.registry.Collector`."""
        return self._look()


def make_gauge(name: str, text: str, labels: tuple[str, ...], samples: Samples) -> Metric:
    """Return a gauge with one sample for each key of *samples*; *text* is its help."""
    family = GaugeMetricFamily(f"embedd_{name}", text, labels=labels)
    for values, value in samples.items():
        family.add_metric(values, value)
    return family


def describe_cache(*, size: int, entries: int, hits: int, misses: int) -> Iterator[Metric]:
    """Yield the metrics of the vector cache; *size* is in bytes."""
    yield make_gauge("cache_bytes", "Memory of the cached vectors.", (), {(): size})
    yield make_gauge("cache_entries", "Vectors in the cache.", (), {(): entries})
    yield CounterMetricFamily(
        "embedd_cache_hits", "Sequences whose vector was in the cache.", value=hits
    )
    yield CounterMetricFamily(
        "embedd_cache_misses", "Sequences whose vector was not in the cache.", value=misses
    )
