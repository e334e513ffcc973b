"""Everything that is counted and measured, in the format of Prometheus."""

from embedd.metrics.counters import Metrics, ModelMetrics
from embedd.metrics.gauges import ModelState, State
from embedd.metrics.labels import (
    Awaited,
    DeathReason,
    LoadFailure,
    Overload,
    Unload,
    VectorSource,
)

__all__ = [
    "Awaited",
    "DeathReason",
    "LoadFailure",
    "Metrics",
    "ModelMetrics",
    "ModelState",
    "Overload",
    "State",
    "Unload",
    "VectorSource",
]
