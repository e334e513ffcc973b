"""Renders the Helm chart and checks what it renders, without a cluster."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "embedd"
KUBERNETES = ("1.30", "1.34", "1.37")

Manifest = dict[str, Any]

# Of the custom resources, which Kubernetes' own schemas do not have: the fields that each level
# may have, by the documentation of the Prometheus operator and of KEDA. `*` is any key.
CUSTOM: dict[str, Any] = {
    "ServiceMonitor": {
        "selector": {"matchLabels": {"*": str}},
        "endpoints": [
            {
                "port": str,
                "path": str,
                "interval": str,
                "authorization": {"credentials": {"name": str, "key": str}},
            }
        ],
    },
    "PrometheusRule": {
        "groups": [
            {
                "name": str,
                "rules": [
                    {
                        "alert": str,
                        "expr": str,
                        "for": str,
                        "labels": {"*": str},
                        "annotations": {"*": str},
                    }
                ],
            }
        ]
    },
    "ScaledObject": {
        "scaleTargetRef": {"name": str},
        "minReplicaCount": int,
        "maxReplicaCount": int,
        "cooldownPeriod": int,
        "advanced": {
            "horizontalPodAutoscalerConfig": {
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": int}}
            }
        },
        "triggers": [
            {"type": str, "metadata": {"serverAddress": str, "query": str, "threshold": str}}
        ],
    },
}


def render(values: Mapping[str, Any], chart: Path = CHART) -> list[Manifest]:
    """Every object that the chart makes of *values*."""
    with helm_python.Chart.load(str(chart)) as loaded:
        files = loaded.render(dict(values), name="prod", namespace="search")
    return [
        manifest
        for name, text in sorted(files.items())
        if name.endswith(".yaml")
        for manifest in yaml.safe_load_all(text)
        if manifest
    ]


def of_kind(manifests: list[Manifest], kind: str) -> Manifest:
    """The one object of this kind."""
    [found] = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def validate(manifest: Manifest) -> None:
    """Check every field of *manifest*, by the schemas of several versions of Kubernetes."""
    expected = CUSTOM.get(manifest["kind"])
    if expected is None:
        for version in KUBERNETES:
            kubernetes_validate.validate(manifest, version, strict=True)
        return
    wrong = list(find_wrong(manifest["spec"], expected, manifest["kind"]))
    assert wrong == [], f"unknown fields or wrong types: {wrong}"


def find_wrong(found: object, expected: object, place: str) -> Iterator[str]:
    """Places in *found* that are not as *expected* says."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key, value in found.items():
            inner = expected.get(key, expected.get("*"))
            if inner is None:
                yield f"{place}.{key}"
            else:
                yield from find_wrong(value, inner, f"{place}.{key}")
    elif isinstance(expected, list) and isinstance(found, list):
        for index, value in enumerate(found):
            yield from find_wrong(value, expected[0], f"{place}[{index}]")
    elif not (isinstance(expected, type) and isinstance(found, expected)):
        yield place
