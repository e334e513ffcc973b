"""What the metrics tell, in Prometheus' own words."""

from typing import Any

import pytest

from embedd.metrics import Metrics, ModelState, State, VectorSource
from embedd.metrics.counters import MANY_MODELS
from tests.exposition import moved, read


def state(*models: ModelState, **changes: Any) -> State:
    values: dict[str, Any] = {
        "load_waiters": {},
        "cache_size": 10,
        "cache_entries": 2,
        "cache_hits": 3,
        "cache_misses": 4,
    }
    return State(models=models, **(values | changes))


def model(name: str = "a", **changes: Any) -> ModelState:
    values: dict[str, Any] = {
        "engine": "llama",
        "backend": "llama",
        "size": 5,
        "waiting_tokens": 6,
        "waiting_requests": 7,
        "batch_tokens": 256,
        "replicas": 2,
        "cores": 4,
        "calibrated": True,
    }
    return ModelState(name=name, **(values | changes))


def test_counters_grow_by_model() -> None:
    metrics = Metrics()
    for name, tokens in (("a", 3), ("a", 4), ("b", 5)):
        metrics.of_model(name).computed(tokens=tokens, sequences=1, seconds=0.01)
    metrics.of_model("a").answered(
        inputs=3,
        tokens=9,
        truncated=1,
        reused={VectorSource.CACHE: 2, VectorSource.EQUAL: 1},
        queue=0.5,
    )
    found = read(metrics)
    assert found["embedd_engine_tokens_total{model=a}"] == 7
    assert found["embedd_engine_tokens_total{model=b}"] == 5
    assert found["embedd_batch_seconds_count{model=a}"] == 2
    assert found["embedd_inputs_total{model=a}"] == 3
    assert found["embedd_tokens_total{model=a}"] == 9
    assert found["embedd_truncated_inputs_total{model=a}"] == 1
    assert found["embedd_reused_inputs_total{model=a,source=cache}"] == 2
    assert found["embedd_reused_inputs_total{model=a,source=joined}"] == 0
    assert found["embedd_reused_inputs_total{model=a,source=equal}"] == 1
    assert found["embedd_queue_seconds_sum{model=a}"] == 0.5


def test_the_state_is_looked_at_when_somebody_reads() -> None:
    metrics = Metrics()
    now = [state()]
    metrics.watch(lambda: now[0])
    before = read(metrics)
    now[0] = state(model(), load_waiters={"b": 8})
    assert moved(before, read(metrics)) == {
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
    assert {name: value for name, value in before.items() if "cache" in name} == {
        "embedd_cache_bytes": 10,
        "embedd_cache_entries": 2,
        "embedd_cache_hits_total": 3,
        "embedd_cache_misses_total": 4,
    }


def test_a_name_that_is_in_memory_twice_has_each_series_once() -> None:
    """It was made anew, and requests still run on what it was before."""
    metrics = Metrics()
    metrics.watch(lambda: state(model(batch_tokens=1), model(batch_tokens=2)))
    lines = metrics.expose("")[0].decode().splitlines()
    series = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]
    assert len(series) == len(set(series))
    found = read(metrics)
    assert found["embedd_model_loaded{backend=llama,engine=llama,model=a}"] == 2
    assert found["embedd_model_bytes{model=a}"] == 10
    assert found["embedd_waiting_tokens{model=a}"] == 12
    assert found["embedd_waiting_requests{awaited=batch,model=a}"] == 14
    assert found["embedd_model_batch_tokens{model=a}"] == 2


# Bounds


def test_ten_thousand_models_that_come_and_go_leave_no_series() -> None:
    metrics, store = Metrics(), {"stays"}
    metrics.watch(state, store.__contains__)
    nothing = len(metrics.expose("")[0])
    metrics.of_model("stays").inputs.inc(5)
    metrics.of_model("stays").backend_failed("llama")
    one = len(metrics.expose("")[0]) - nothing
    for number in range(10_000):
        store.add(name := f"model{number}")
        metrics.of_model(name).inputs.inc()
        metrics.of_model(name).backend_failed("llama")
        store.remove(name)
    assert len(metrics.expose("")[0]) < nothing + 1.2 * one * MANY_MODELS
    assert read(metrics)["embedd_inputs_total{model=stays}"] == 5


class Looks:
    """A store that has every model, and counts who looks."""

    count = 0

    def is_known(self, _name: str) -> bool:
        self.count += 1
        return True


def test_a_store_with_many_models_keeps_all_their_series() -> None:
    metrics, looks = Metrics(), Looks()
    metrics.watch(state, looks.is_known)
    for number in range(5 * MANY_MODELS):
        metrics.of_model(f"model{number}").inputs.inc()
    found = read(metrics)
    names = [f"embedd_inputs_total{{model=model{number}}}" for number in range(5 * MANY_MODELS)]
    assert [found[name] for name in names] == [1] * len(names)
    assert looks.count < 2 * len(names), "a look at the store for each new model is too much"


def test_a_model_that_was_forgotten_counts_from_nothing() -> None:
    metrics, store = Metrics(), set[str]()
    metrics.watch(state, store.__contains__)
    metrics.of_model("a").inputs.inc(3)
    for number in range(MANY_MODELS):
        metrics.of_model(f"model{number}")
    assert "embedd_inputs_total{model=a}" not in read(metrics)
    metrics.of_model("a").inputs.inc()
    assert read(metrics)["embedd_inputs_total{model=a}"] == 1


# Formats


def test_who_asks_for_openmetrics_gets_it() -> None:
    body, content_type = Metrics().expose("application/openmetrics-text")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


@pytest.mark.parametrize("version", ["1.0.0", "2.x", "x", ""])
def test_a_version_that_is_none_is_no_fault_of_the_server(version: str) -> None:
    body, content_type = Metrics().expose(f"application/openmetrics-text; version={version}")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
