"""The image's file, the unit of systemd, the alerts, Compose, the example for KubeRay."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.deploy.chart import validate

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CASES = Path(__file__).with_name("alerts_test.yaml")
ALERTS = DEPLOY / "helm" / "embedd" / "files" / "alerts.yaml"
UNIT = DEPLOY / "systemd" / "embedd.service"
HADOLINT = Path(sys.executable).with_name("hadolint")


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def need(tool: str) -> str:
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} is not installed")
    return found


def test_hadolint_has_no_complaint() -> None:
    done = run(HADOLINT, DEPLOY / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_finds_a_fault(tmp_path: Path) -> None:
    broken = tmp_path / "Dockerfile"
    broken.write_text((DEPLOY / "Dockerfile").read_text() + "RUN cd /tmp\n")
    assert run(HADOLINT, broken).returncode == 1


def check_alerts(folder: Path, rules: str) -> subprocess.CompletedProcess[str]:
    """What promtool says of *rules* in the cases."""
    (folder / "alerts.yaml").write_text(rules)
    return run(need("promtool"), "test", "rules", shutil.copy(CASES, folder))


def test_the_alerts_fire_when_they_should(tmp_path: Path) -> None:
    done = check_alerts(tmp_path, ALERTS.read_text())
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_alert_fails_its_case(tmp_path: Path) -> None:
    broken = ALERTS.read_text().replace('{reason="memory"}', '{reason="oom"}')
    assert check_alerts(tmp_path, broken).returncode != 0


def test_every_alert_has_a_case() -> None:
    cases = yaml.safe_load(CASES.read_text())
    tested = {
        case["alertname"]
        for group in cases["tests"]
        for case in group["alert_rule_test"]
        if case.get("exp_alerts")
    }
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    assert tested == {rule["alert"] for rule in rules}


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    tool = need("systemd-analyze")
    unit = tmp_path / "embedd.service"
    unit.write_text(UNIT.read_text().replace("/opt/embedd/bin/embedd", "/bin/true"))
    done = run(tool, "verify", "--man=no", unit)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_is_locked_down() -> None:
    done = run(need("systemd-analyze"), "security", "--offline=true", "--no-pager", UNIT)
    [score] = re.findall(r"exposure level for embedd.service: ([0-9.]+)", done.stdout)
    assert float(score) < 2.0


def test_compose_mounts_files_that_exist() -> None:
    folder = DEPLOY / "compose"
    services = yaml.safe_load((folder / "compose.yaml").read_text())["services"]
    assert {"embedd", "prometheus", "grafana"} == set(services)
    mounted = [
        volume.split(":")[0]
        for service in services.values()
        for volume in service.get("volumes", [])
        if volume.startswith(".")
    ]
    assert len(mounted) == 5
    for name in mounted:
        assert (folder / name).resolve().is_file(), name


def test_prometheus_accepts_its_configuration() -> None:
    done = run(
        need("promtool"), "check", "config", "--syntax-only", DEPLOY / "compose/prometheus.yaml"
    )
    assert done.returncode == 0, done.stderr


# The fields of KubeRay's API that the example may use; the pods in it are Kubernetes' own.
RAY_JOB = {"entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "rayClusterSpec"}
RAY_CLUSTER = {"rayVersion", "enableInTreeAutoscaling", "headGroupSpec", "workerGroupSpecs"}
RAY_GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


def test_the_job_for_kuberay_has_known_fields_and_pods_that_kubernetes_accepts() -> None:
    text = (ROOT / "docs" / "cluster.md").read_text()
    [block] = re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    job = yaml.safe_load(block)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert set(job["spec"]) <= RAY_JOB
    assert set(cluster) <= RAY_CLUSTER
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert set(group) <= RAY_GROUP
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, **group["template"]}
        validate(pod)
        [container] = pod["spec"]["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}
