"""What deploy/ says of metrics and settings exists in the code."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from embedd.config import SETTINGS
from tests.test_repository import expose_everything

ROOT = Path(__file__).parent.parent
CHART = ROOT / "deploy" / "helm" / "embedd"
DASHBOARD: dict[str, Any] = json.loads((CHART / "files" / "dashboard.json").read_text())
ALERTS: dict[str, Any] = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
SELECTOR = re.compile(r"\b((?:embedd|process)_\w+)(?:\{([^}]*)\})?")
# Labels that Prometheus adds when it reads the metrics, and the bound of a histogram's bucket.
FOREIGN = {"job", "instance", "namespace", "service", "le"}


def find_series() -> dict[str, set[str]]:
    """Every series of a server and its labels."""
    series: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(expose_everything()):
        for sample in family.samples:
            series.setdefault(sample.name, set()).update(sample.labels)
    return series


SERIES = find_series()


def find_queries() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        yield variable["query"]


def find_unknown(query: str) -> list[str]:
    """Series of *query* that do not exist, and labels that theirs do not have."""
    unknown = []
    for name, selectors in SELECTOR.findall(query):
        if name not in SERIES:
            unknown.append(name)
            continue
        labels = set(re.findall(r"(\w+)\s*[=!]~?\"", selectors))
        unknown += [f"{name}{{{label}}}" for label in labels - SERIES[name] - FOREIGN]
    return unknown


@pytest.mark.parametrize("query", list(find_queries()))
def test_every_series_of_the_dashboard_exists(query: str) -> None:
    assert find_unknown(query) == []


@pytest.mark.parametrize("rule", ALERTS["groups"][0]["rules"], ids=lambda rule: rule["alert"])
def test_every_series_of_the_alerts_exists(rule: dict[str, Any]) -> None:
    assert find_unknown(rule["expr"]) == []
    shown = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
    known = set().union(*(SERIES.get(name, set()) for name, _ in SELECTOR.findall(rule["expr"])))
    assert shown <= known | FOREIGN


@pytest.mark.parametrize(
    ("query", "unknown"),
    [
        ("rate(embedd_request_total[5m])", ["embedd_request_total"]),
        ('embedd_inputs_total{models="a"}', ["embedd_inputs_total{models}"]),
    ],
)
def test_a_series_that_does_not_exist_is_found(query: str, unknown: list[str]) -> None:
    assert find_unknown(query) == unknown


def test_the_dashboard_has_a_panel_for_every_model_metric_that_alerts_use() -> None:
    shown = {name for query in find_queries() for name, _ in SELECTOR.findall(query)}
    for rule in ALERTS["groups"][0]["rules"]:
        for name, _ in SELECTOR.findall(rule["expr"]):
            assert name in shown, name


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_deploy_names_no_setting_that_does_not_exist() -> None:
    names = {setting.name for setting in SETTINGS}
    for file in (ROOT / "deploy").rglob("*"):
        if file.is_file():
            named = set(re.findall(r"\bEMBEDD_([A-Z][A-Z_]+)", file.read_text()))
            assert named <= names, file
