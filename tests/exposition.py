"""Metrics as Prometheus' own parser reads them."""

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from embedd.metrics import Metrics

Samples = Mapping[str, float]


def parse(text: str) -> Samples:
    """Samples of embedd's own, as ``name{label=value,…}``, the labels in order."""
    return {
        _token_piece(sample.name, sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("embedd_")
    }


def read(metrics: Metrics) -> Samples:
    """What *metrics* exposes now."""
    return parse(metrics.expose("")[0].decode())


def moved(before: Samples, after: Samples) -> Samples:
    """Samples that changed, and by how much; histograms by their count alone."""
    return {
        name: value - before.get(name, 0.0)
        for name, value in after.items()
        if value != before.get(name, 0.0) and not _is_part_of_histogram(name)
    }


def _token_piece(name: str, labels: Mapping[str, str]) -> str:
    inside = ",".join(f"{label}={value}" for label, value in sorted(labels.items()))
    return f"{name}{{{inside}}}" if inside else name


def _is_part_of_histogram(name: str) -> bool:
    return name.partition("{")[0].endswith(("_bucket", "_sum"))
