"""Prometheus metrics: counters, histograms, gauges and the values of their labels."""

from embedd.metrics.counters import ImageMetrics, Metrics, ModelMetrics
from embedd.metrics.families import Counter, Histogram
from embedd.metrics.gauges import describe_cache, make_gauge
from embedd.metrics.labels import (
    Awaited,
    DeathReason,
    LoadFailure,
    Overload,
    Unload,
)

__all__ = [
    "Awaited",
    "Counter",
    "DeathReason",
    "Histogram",
    "ImageMetrics",
    "LoadFailure",
    "Metrics",
    "ModelMetrics",
    "Overload",
    "Unload",
    "describe_cache",
    "make_gauge",
]
