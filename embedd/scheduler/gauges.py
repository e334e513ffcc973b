"""Gauges of the models in memory, made from their status."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from prometheus_client.metrics_core import Metric

from embedd.engine.image_spec import ImageInfo
from embedd.metrics import Awaited, make_gauge
from embedd.scheduler.records import ModelStatus

MODEL: Final = ("model",)
_Sums = Counter[tuple[str, ...]]


def describe_models(
    models: Sequence[ModelStatus], load_waiters: Mapping[str, int]
) -> Iterator[Metric]:
    """Yield the gauges of *models*; those that are loading have none.

    A model that was created anew may be in memory twice under one name while the old one is
    being unloaded, but a metric must not have the same labels twice: sizes and what waits are
    summed, of the settings the newer model's are shown.

    Args:
        load_waiters: Requests that wait for a load, by the name of the model.
    """
    loaded, sizes, tokens = _Sums(), _Sums(), _Sums()
    waiting = _Sums({(name, Awaited.LOAD): count for name, count in load_waiters.items()})
    batch_tokens, replicas, cores, calibrated = _Sums(), _Sums(), _Sums(), _Sums()
    for one in models:
        if one.info is None:
            continue
        name = one.spec.name
        loaded[name, one.info.engine, one.info.backend] += 1
        sizes[name,] += one.size
        if isinstance(one.info, ImageInfo):
            waiting[name, Awaited.PICTURE] += one.waiting_requests
            cores[name,] = one.cores
            continue
        tokens[name,] += one.waiting_tokens
        waiting[name, Awaited.BATCH] += one.waiting_requests
        batch_tokens[name,] = one.info.max_batch_tokens
        replicas[name,] = one.info.replicas
        cores[name,] = one.cores
        calibrated[name,] = one.is_calibrated
    yield make_gauge("model_loaded", "Models in memory.", (*MODEL, "engine", "backend"), loaded)
    yield make_gauge("model_bytes", "Bytes of the memory budget reserved for it.", MODEL, sizes)
    yield make_gauge("waiting_tokens", "Tokens that wait for a batch.", MODEL, tokens)
    yield make_gauge("model_batch_tokens", "Most tokens of a batch.", MODEL, batch_tokens)
    yield make_gauge("model_replicas", "Batches computed at the same time.", MODEL, replicas)
    yield make_gauge("model_cores", "Cores that it may use now.", MODEL, cores)
    yield make_gauge(
        "model_calibrated",
        "1 if its settings were measured on this machine, 0 for safe start values.",
        MODEL,
        calibrated,
    )
    yield make_gauge("waiting_requests", "Requests that wait.", (*MODEL, "awaited"), waiting)
