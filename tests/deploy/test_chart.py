"""The Helm chart: what it renders is valid and is what an operator expects."""

import shutil
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest

from tests.deploy.chart import CHART, of_kind, render, validate

Values = dict[str, Any]

MATRIX: dict[str, Values] = {
    "nothing set": {},
    "the image's model": {"models": {"source": "image", "load": ["all-minilm"]}},
    "no model": {"models": {"load": []}},
    "several models": {
        "models": {"load": ["bge-m3", "hf.co/nomic-ai/nomic-embed-text-v1.5-GGUF:Q8_0"]}
    },
    "a volume of the chart": {
        "models": {"source": "pvc", "pvc": {"storageClassName": "nfs", "size": "50Gi"}}
    },
    "a volume that exists": {"models": {"source": "pvc", "pvc": {"existingClaim": "models"}}},
    "keys": {"auth": {"apiKeysSecret": "keys", "adminKeySecret": "admin"}},
    "settings": {"settings": {"EMBEDD_MAX_WAIT": "5s", "EMBEDD_CACHE_BYTES": 0}},
    "hpa": {"autoscaling": {"kind": "hpa", "minReplicas": 2, "maxReplicas": 9}},
    "keda": {"autoscaling": {"kind": "keda", "prometheusUrl": "http://prometheus:9090"}},
    "network policy": {"networkPolicy": {"enabled": True}},
    "network policy with peers": {
        "networkPolicy": {
            "enabled": True,
            "from": [{"namespaceSelector": {"matchLabels": {"team": "search"}}}],
        }
    },
    "monitoring": {
        "monitoring": {
            "serviceMonitor": True,
            "rules": True,
            "dashboard": True,
            "labels": {"release": "prometheus"},
        },
        "auth": {"apiKeysSecret": "keys"},
    },
    "where and how": {
        "replicaCount": 3,
        "podLabels": {"team": "search"},
        "podAnnotations": {"a/b": "c"},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "cpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"podAntiAffinity": {}},
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "embedd"}},
            }
        ],
        "image": {"repository": "registry/embedd", "tag": "1.0", "pullSecrets": [{"name": "pull"}]},
        "service": {"type": "LoadBalancer", "port": 80, "annotations": {"a": "b"}},
        "podDisruptionBudget": {"enabled": True, "maxUnavailable": "25%"},
        "serviceAccount": {"create": True, "name": "embedd", "annotations": {"a": "b"}},
    },
    "as little as can be": {
        "podDisruptionBudget": {"enabled": False},
        "serviceAccount": {"create": False},
        "models": {"source": "image", "load": []},
    },
}

REFUSED: dict[str, Values] = {
    "a misspelt value": {"replicas": 3},
    "a misspelt value inside": {"models": {"sources": "pvc"}},
    "a source that does not exist": {"models": {"source": "s3"}},
    "half a core": {"resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}},
    "a setting that is not embedd's": {"settings": {"OLLAMA_HOST": "0.0.0.0"}},
    "keda without an address of Prometheus": {"autoscaling": {"kind": "keda"}},
    "port 0": {"service": {"port": 0}},
}


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_every_object_is_valid(values: Values) -> None:
    manifests = render(values)
    assert {"Deployment", "Service"} <= {manifest["kind"] for manifest in manifests}
    for manifest in manifests:
        validate(manifest)


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_lint_has_no_complaint(values: Values) -> None:
    report = helm_python.lint(str(CHART), values, strict=True)
    assert report["errors"] == []
    assert [found["error"] for found in report["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("values", REFUSED.values(), ids=REFUSED)
def test_wrong_values_are_refused(values: Values) -> None:
    with helm_python.Chart.load(str(CHART)) as chart, pytest.raises(helm_python.HelmValuesError):
        chart.validate_schema(chart.merge_values(values))


def test_a_wrong_field_in_a_template_is_found(tmp_path: Path) -> None:
    chart = tmp_path / "embedd"
    shutil.copytree(CHART, chart)
    template = chart / "templates" / "deployment.yaml"
    template.write_text(
        template.read_text().replace("readOnlyRootFilesystem", "readOnlyFilesystem")
    )
    helpers = chart / "templates" / "_helpers.tpl"
    helpers.write_text(helpers.read_text().replace("readOnlyRootFilesystem", "readOnlyFilesystem"))
    with pytest.raises(kubernetes_validate.ValidationError, match="readOnlyFilesystem"):
        validate(of_kind(render({}, chart), "Deployment"))


def test_a_wrong_field_of_a_custom_resource_is_found() -> None:
    monitor = of_kind(render(MATRIX["monitoring"]), "ServiceMonitor")
    monitor["spec"]["endpoints"][0]["intervals"] = "15s"
    with pytest.raises(AssertionError, match=r"ServiceMonitor.endpoints\[0\].intervals"):
        validate(monitor)


def pod(values: Values) -> dict[str, Any]:
    spec: dict[str, Any] = of_kind(render(values), "Deployment")["spec"]["template"]["spec"]
    return spec


def test_every_container_is_locked_down() -> None:
    spec = pod({})
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for container in [*spec["initContainers"], *spec["containers"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_traffic_waits_for_the_models_and_a_slow_load_is_not_killed() -> None:
    [container] = pod({"models": {"load": ["bge-m3"]}})["containers"]
    assert container["args"] == ["serve", "--load", "bge-m3"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert container["startupProbe"]["httpGet"]["path"] == "/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 600


def test_a_replica_leaves_the_service_before_it_stops_and_has_time_to_answer() -> None:
    spec = pod({"drainSeconds": 7})
    assert spec["containers"][0]["lifecycle"] == {"preStop": {"sleep": {"seconds": 7}}}
    assert spec["terminationGracePeriodSeconds"] >= 7 + 30  # EMBEDD_SHUTDOWN_GRACE


def test_each_container_has_as_many_threads_as_it_requests_cores() -> None:
    spec = pod({})
    for container in [*spec["initContainers"], *spec["containers"]]:
        [threads] = [entry for entry in container["env"] if entry["name"] == "EMBEDD_THREADS"]
        reference = threads["valueFrom"]["resourceFieldRef"]
        assert reference == {"containerName": container["name"], "resource": "requests.cpu"}


def test_keys_come_from_secrets_alone() -> None:
    spec = pod(MATRIX["keys"])
    environment = {entry["name"]: entry for entry in spec["containers"][0]["env"]}
    assert environment["EMBEDD_API_KEY_FILE"]["value"] == "/run/secrets/embedd/api-keys"
    reference = environment["EMBEDD_ADMIN_KEY"]["valueFrom"]["secretKeyRef"]
    assert reference == {"name": "admin", "key": "admin-key"}
    [volume] = [volume for volume in spec["volumes"] if volume["name"] == "api-keys"]
    assert volume["secret"]["secretName"] == "keys"


def test_an_autoscaler_sets_the_replicas_alone() -> None:
    for values in (MATRIX["hpa"], MATRIX["keda"]):
        assert "replicas" not in of_kind(render(values), "Deployment")["spec"]
    assert of_kind(render({"replicaCount": 3}), "Deployment")["spec"]["replicas"] == 3


def test_the_rules_and_the_dashboard_are_the_files_of_the_chart() -> None:
    manifests = render(MATRIX["monitoring"])
    rules = of_kind(manifests, "PrometheusRule")["spec"]["groups"][0]["rules"]
    assert {rule["alert"] for rule in rules} >= {"EmbeddDown", "EmbeddOutOfMemory"}
    dashboard = of_kind(manifests, "ConfigMap")["data"]["embedd.json"]
    assert dashboard.strip() == (CHART / "files" / "dashboard.json").read_text().strip()
