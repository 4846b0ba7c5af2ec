"""The manifests: Kubernetes takes them, and their numbers fit the gateway's own."""

import os
import subprocess
import sys
from typing import Any

import pytest
import yaml

from bamboo_gateway.server.server import _CLOSE_SECONDS
from bamboo_gateway.settings import load_settings
from tests.processes import REPOSITORY, environment, lacking

DIRECTORY = REPOSITORY / "deploy" / "kubernetes"
SCHEMAS = REPOSITORY / ".venv" / "kubernetes"
FILES = sorted(file for file in DIRECTORY.glob("*.yaml") if file.name != "kustomization.yaml")
VERSIONS = ("1.29", "1.33", "1.37")
_CHECK_SECONDS = 100


def read(name: str) -> Any:
    return yaml.safe_load((DIRECTORY / name).read_text("utf-8"))


def pod() -> Any:
    return read("deployment.yaml")["spec"]["template"]["spec"]


def container() -> Any:
    (found,) = pod()["containers"]
    return found


@pytest.mark.external_service
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(version: str) -> None:
    if not SCHEMAS.is_dir():
        lacking(f"{SCHEMAS}: .ci/run installs it")
    done = subprocess.run(
        [sys.executable, "-m", "kubernetes_validate", "-k", version, "--strict", *FILES],
        env=environment(PYTHONPATH=os.fspath(SCHEMAS)),
        capture_output=True,
        text=True,
        check=False,
        timeout=_CHECK_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("passed") == len(FILES), done.stdout


def test_the_kustomization_names_every_manifest_but_the_example_of_a_secret() -> None:
    names = {file.name for file in FILES} - {"secret.example.yaml"}
    assert set(read("kustomization.yaml")["resources"]) == names


def test_the_pods_of_the_deployment_are_those_of_the_service_and_the_budget() -> None:
    labels = read("deployment.yaml")["spec"]["template"]["metadata"]["labels"].items()
    selectors = [
        read("deployment.yaml")["spec"]["selector"]["matchLabels"],
        read("service.yaml")["spec"]["selector"],
        read("disruption-budget.yaml")["spec"]["selector"]["matchLabels"],
        pod()["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels for selector in selectors)


def test_the_settings_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BAMBOO_")]:
        monkeypatch.delenv(name)
    for name, value in {**values(), **secrets()}.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.storage_url.startswith("postgresql://")
    assert settings.bus_url is not None
    assert settings.api_keys


def test_a_pod_is_given_the_time_that_the_gateway_takes_to_end() -> None:
    _, seconds = container()["lifecycle"]["preStop"]["exec"]["command"]
    drain = float(values()["BAMBOO_DRAIN_TIMEOUT_SECONDS"])
    grace = pod()["terminationGracePeriodSeconds"]
    assert float(seconds) + drain + _CLOSE_SECONDS < grace


def test_a_pod_is_not_restarted_because_the_database_is_away() -> None:
    assert container()["livenessProbe"]["httpGet"]["path"] == "/health/live"
    assert container()["startupProbe"]["httpGet"]["path"] == "/health/live"
    assert container()["readinessProbe"]["httpGet"]["path"] == "/health/ready"


def test_a_rollout_and_a_drained_node_take_one_replica_at_a_time() -> None:
    rollout = read("deployment.yaml")["spec"]["strategy"]["rollingUpdate"]
    assert rollout == {"maxSurge": 1, "maxUnavailable": 0}
    assert read("disruption-budget.yaml")["spec"]["maxUnavailable"] == 1


def test_the_container_may_do_no_more_than_it_needs() -> None:
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["automountServiceAccountToken"] is False
    assert pod()["enableServiceLinks"] is False


def values() -> dict[str, str]:
    return dict(read("configuration.yaml")["data"])


def secrets() -> dict[str, str]:
    return dict(read("secret.example.yaml")["stringData"])
