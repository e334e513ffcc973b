"""Counters and gauges, read as Prometheus reads them."""

from collections.abc import Iterable

import pytest
from prometheus_client.metrics_core import Metric

from embedd.metrics import Metrics, describe_cache
from embedd.metrics.counters import BATCH_SECONDS, MANY_MODELS
from embedd.types import VectorSource
from tests.exposition import moved, read


def no_gauges() -> Iterable[Metric]:
    return ()


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


def test_gauges_are_read_at_every_scrape() -> None:
    metrics = Metrics()
    now = {"size": 10, "entries": 2, "hits": 3, "misses": 4}
    metrics.watch(lambda: describe_cache(**now))
    before = read(metrics)
    assert {name: value for name, value in before.items() if "cache" in name} == {
        "embedd_cache_bytes": 10,
        "embedd_cache_entries": 2,
        "embedd_cache_hits_total": 3,
        "embedd_cache_misses_total": 4,
    }
    now["hits"] = 9
    assert moved(before, read(metrics)) == {"embedd_cache_hits_total": 6}


def test_a_value_counts_in_the_bucket_of_its_bound_and_in_all_larger_ones() -> None:
    metrics = Metrics()
    for seconds in (0.001, 0.0011, 10, 11):
        metrics.of_model("a").computed(tokens=1, sequences=1, seconds=seconds)
    text = metrics.expose("")[0].decode()
    counts = {
        line.partition('le="')[2].partition('"')[0]: float(line.split()[-1])
        for line in text.splitlines()
        if line.startswith("embedd_batch_seconds_bucket{")
    }
    assert list(counts) == [*map(str, map(float, BATCH_SECONDS)), "+Inf"]
    assert (counts["0.001"], counts["0.0025"], counts["2.5"]) == (
        1,
        2,
        2,
    )
    assert (counts["10.0"], counts["+Inf"]) == (3, 4)


# Bounds


def test_ten_thousand_models_that_come_and_go_leave_no_series() -> None:
    metrics, store = Metrics(), {"stays"}
    metrics.watch(no_gauges, store.__contains__)
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
    """A store that has every model, and counts the look-ups."""

    count = 0

    def is_known(self, _name: str) -> bool:
        self.count += 1
        return True


def test_a_store_with_many_models_keeps_all_their_series() -> None:
    metrics, looks = Metrics(), Looks()
    metrics.watch(no_gauges, looks.is_known)
    for number in range(5 * MANY_MODELS):
        metrics.of_model(f"model{number}").inputs.inc()
    found = read(metrics)
    names = [f"embedd_inputs_total{{model=model{number}}}" for number in range(5 * MANY_MODELS)]
    assert [found[name] for name in names] == [1] * len(names)
    assert looks.count < 2 * len(names), "a look at the store for each new model is too much"


def test_a_model_that_was_forgotten_counts_from_nothing() -> None:
    metrics, store = Metrics(), set[str]()
    metrics.watch(no_gauges, store.__contains__)
    metrics.of_model("a").inputs.inc(3)
    for number in range(MANY_MODELS):
        metrics.of_model(f"model{number}")
    assert "embedd_inputs_total{model=a}" not in read(metrics)
    metrics.of_model("a").inputs.inc()
    assert read(metrics)["embedd_inputs_total{model=a}"] == 1


# Formats


def test_a_client_that_asks_for_openmetrics_gets_it() -> None:
    body, content_type = Metrics().expose("application/openmetrics-text")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


@pytest.mark.parametrize("version", ["1.0.0", "2.x", "x", ""])
def test_an_invalid_version_of_openmetrics_is_answered_with_the_first(version: str) -> None:
    body, content_type = Metrics().expose(f"application/openmetrics-text; version={version}")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
