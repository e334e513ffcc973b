"""Counters and histograms that one thread changes, the event loop's.

Those of the library take a lock and check their arguments for each change, of which a request makes
nine: they were a twentieth of the server's time for a short text.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Add *amount*, which is not negative."""
        self.value += amount


class Histogram:
    """How often values were within each of *bounds*, which ascend, and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count *value*."""
        self.sum += value
        self.counts[bisect_left(self._bounds, value)] += 1


_Series = TypeVar("_Series", Counter, Histogram)


class Family(Collector, Generic[_Series]):
    """The series called *name*, one for each combination of the values of its labels *names*."""

    def __init__(
        self,
        name: str,
        names: Sequence[str],
        make: Callable[[], _Series],
        describe: Callable[[Mapping[tuple[str, ...], _Series]], Metric],
        registry: CollectorRegistry,
    ) -> None:
        self.name = name
        self._names = names
        self._make: Callable[[], _Series] = make
        self._describe: Callable[[Mapping[tuple[str, ...], _Series]], Metric] = describe
        self._series: dict[tuple[str, ...], _Series] = {}
        registry.register(self)

    def labels(self, *values: object) -> _Series:
        """Return the series with these values of the labels, in their order."""
        key = tuple(map(str, values))
        found = self._series.get(key)
        if found is None:
            found = self._series[key] = self._make()
        return found

    def remove(self, name: str, value: str) -> None:
        """Forget the series whose label *name* has this value."""
        at = self._names.index(name)
        for key in [key for key in self._series if key[at] == value]:
            del self._series[key]

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client.registry.Collector`."""
        return [self._describe(self._series)]


def make_counters(
    name: str, text: str, labels: Sequence[str], registry: CollectorRegistry
) -> Family[Counter]:
    """Return the counters called *name*; *text* is their help."""

    def describe(series: Mapping[tuple[str, ...], Counter]) -> Metric:
        family = CounterMetricFamily(name, text, labels=labels)
        for values, counter in list(series.items()):
            family.add_metric(values, counter.value)
        return family

    return Family(name, labels, Counter, describe, registry)


def make_histograms(
    name: str,
    text: str,
    labels: Sequence[str],
    bounds: Sequence[float],
    registry: CollectorRegistry,
) -> Family[Histogram]:
    """Return the histograms called *name* with buckets up to each of *bounds*, and beyond."""
    ends = [*map(str, map(float, bounds)), "+Inf"]

    def describe(series: Mapping[tuple[str, ...], Histogram]) -> Metric:
        family = HistogramMetricFamily(name, text, labels=labels)
        for values, one in list(series.items()):
            buckets = list(zip(ends, accumulate(one.counts), strict=True))
            family.add_metric(values, buckets, one.sum)
        return family

    return Family(name, labels, lambda: Histogram(bounds), describe, registry)
