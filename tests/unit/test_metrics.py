"""What the metrics tell, in Prometheus' own words."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from embedd.metrics import Metrics, ModelState, State


def read(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Samples by name and labels, as Prometheus' own parser reads them."""
    body, _ = metrics.expose("")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def of(model: str, **labels: str) -> frozenset[tuple[str, str]]:
    return frozenset({"model": model, **labels}.items())


def test_counters_grow_by_model() -> None:
    metrics = Metrics()
    for model, tokens in (("a", 3), ("a", 4), ("b", 5)):
        metrics.of_model(model).computed(tokens=tokens, sequences=1, seconds=0.01)
    metrics.of_model("a").answered(inputs=3, tokens=9, truncated=1, reused=2, queue=0.5)
    found = read(metrics)
    assert found["embedd_engine_tokens_total", of("a")] == 7
    assert found["embedd_engine_tokens_total", of("b")] == 5
    assert found["embedd_batch_seconds_count", of("a")] == 2
    assert found["embedd_inputs_total", of("a")] == 3
    assert found["embedd_tokens_total", of("a")] == 9
    assert found["embedd_truncated_inputs_total", of("a")] == 1
    assert found["embedd_reused_inputs_total", of("a")] == 2
    assert found["embedd_queue_seconds_sum", of("a")] == 0.5


def test_the_state_is_looked_at_when_somebody_reads() -> None:
    metrics = Metrics()
    models: list[ModelState] = []
    metrics.watch(
        lambda: State(models=models, cache_size=10, cache_entries=2, cache_hits=3, cache_misses=4)
    )
    assert ("embedd_model_loaded", of("a", engine="llama", rung="cpu1")) not in read(metrics)
    models.append(ModelState(name="a", engine="llama", rung="cpu1", size=5, waiting_tokens=6))
    found = read(metrics)
    assert found["embedd_model_loaded", of("a", engine="llama", rung="cpu1")] == 1
    assert found["embedd_model_bytes", of("a")] == 5
    assert found["embedd_waiting_tokens", of("a")] == 6
    nothing: frozenset[tuple[str, str]] = frozenset()
    cache = {name: found[f"embedd_cache_{name}", nothing] for name in ("bytes", "entries")}
    assert cache == {"bytes": 10, "entries": 2}
    assert found["embedd_cache_hits_total", nothing] == 3
    assert found["embedd_cache_misses_total", nothing] == 4


def test_who_asks_for_openmetrics_gets_it() -> None:
    body, content_type = Metrics().expose("application/openmetrics-text")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


@pytest.mark.parametrize("version", ["1.0.0", "2.x", "x", ""])
def test_a_version_that_is_none_is_no_fault_of_the_server(version: str) -> None:
    body, content_type = Metrics().expose(f"application/openmetrics-text; version={version}")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
