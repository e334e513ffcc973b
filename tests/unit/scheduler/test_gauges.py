"""The gauges of the models in memory: read at each scrape, one series for each name."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from embedd.metrics import Metrics
from embedd.scheduler.gauges import describe_models
from embedd.scheduler.records import ModelStatus
from tests.exposition import moved, read
from tests.unit.engine.fake_worker import INFO
from tests.unit.scheduler.clients import make_spec


def status(name: str = "a", *, batch_tokens: int = 256, **changes: Any) -> ModelStatus:
    info = replace(INFO, engine="llama", backend="llama", max_batch_tokens=batch_tokens, replicas=2)
    values: dict[str, Any] = {
        "info": info,
        "size": 5,
        "expires_in": 1.0,
        "waiting_tokens": 6,
        "waiting_requests": 7,
        "cores": 4,
        "is_calibrated": True,
    }
    return ModelStatus(spec=make_spec(name), **(values | changes))


def watch(*statuses: ModelStatus, waiters: Mapping[str, int] | None = None) -> Metrics:
    metrics = Metrics()
    metrics.watch(lambda: describe_models(statuses, waiters or {}))
    return metrics


def test_every_fact_of_a_loaded_model_has_a_gauge() -> None:
    assert moved(read(watch()), read(watch(status(), waiters={"b": 8}))) == {
        "embedd_model_loaded{backend=llama,engine=llama,model=a}": 1,
        "embedd_model_bytes{model=a}": 5,
        "embedd_waiting_tokens{model=a}": 6,
        "embedd_waiting_requests{awaited=batch,model=a}": 7,
        "embedd_waiting_requests{awaited=load,model=b}": 8,
        "embedd_model_batch_tokens{model=a}": 256,
        "embedd_model_replicas{model=a}": 2,
        "embedd_model_cores{model=a}": 4,
        "embedd_model_calibrated{model=a}": 1,
    }


def test_a_model_that_is_being_loaded_has_no_gauges() -> None:
    assert read(watch(status(info=None))) == read(watch())


def test_a_name_that_is_in_memory_twice_has_each_series_once() -> None:
    """It was created anew, and requests still run on the model that it was before."""
    metrics = watch(status(batch_tokens=1), status(batch_tokens=2))
    lines = metrics.expose("")[0].decode().splitlines()
    series = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]
    assert len(series) == len(set(series)) > 0
    found = read(metrics)
    assert found["embedd_model_loaded{backend=llama,engine=llama,model=a}"] == 2
    assert found["embedd_model_bytes{model=a}"] == 10
    assert found["embedd_waiting_tokens{model=a}"] == 12
    assert found["embedd_waiting_requests{awaited=batch,model=a}"] == 14
    assert found["embedd_model_batch_tokens{model=a}"] == 2
