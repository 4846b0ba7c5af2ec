"""The profile `cluster` of docker-compose.yml, and HAProxy's configuration for it."""

import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from bamboo_gateway.settings import Settings
from tests.cluster.balancer import haproxy
from tests.processes import REPOSITORY, Gateway, program
from tests.support.waiting import until

SERVICES: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text("utf-8"))[
    "services"
]
HAPROXY = REPOSITORY / "deploy" / "haproxy" / "haproxy.cfg"


def test_what_a_service_of_the_profile_needs_is_in_the_profile() -> None:
    members = {name for name, one in SERVICES.items() if "cluster" in one.get("profiles", ())}
    assert members == {"replica", "haproxy", "redis", "postgres"}
    needed = {name for member in members for name in SERVICES[member].get("depends_on", ())}
    assert needed <= members


def test_a_replica_is_as_confined_as_the_gateway_alone() -> None:
    for name in ("read_only", "cap_drop", "security_opt", "stop_grace_period", "image"):
        assert SERVICES["replica"][name] == SERVICES["bamboo"][name], name


def test_a_replica_has_settings_that_there_are() -> None:
    known = {f"BAMBOO_{name.upper()}" for name in Settings.model_fields}
    given = {name for name in SERVICES["replica"]["environment"] if name.startswith("BAMBOO_")}
    assert {"BAMBOO_STORAGE_URL", "BAMBOO_BUS_URL"} <= given <= known
    environment = SERVICES["replica"]["environment"]
    settings = Settings(
        storage_url=environment["BAMBOO_STORAGE_URL"], bus_url=environment["BAMBOO_BUS_URL"]
    )
    assert settings.bus_url is not None


def test_only_the_balancer_is_published_and_only_to_this_machine() -> None:
    published = {
        name: SERVICES[name]["ports"]
        for name in ("replica", "haproxy", "redis", "postgres")
        if "ports" in SERVICES[name]
    }
    assert published == {"haproxy": ["127.0.0.1:8090:8080"]}


def test_the_balancer_knows_as_many_replicas_as_there_are() -> None:
    count = SERVICES["replica"]["deploy"]["replicas"]
    assert f"server-template replica {count} replica:8080" in HAPROXY.read_text("utf-8")
    (mount,) = SERVICES["haproxy"]["volumes"]
    assert mount.startswith("./deploy/haproxy/haproxy.cfg:")


@pytest.mark.external_service
def test_haproxy_takes_the_configuration() -> None:
    subprocess.run([program("haproxy"), "-c", "-f", HAPROXY], check=True)


@pytest.mark.external_service
def test_haproxy_finds_a_gateway_that_asks_for_no_key(tmp_path: Path) -> None:
    settings = {
        name: value
        for name, value in SERVICES["replica"]["environment"].items()
        if name in {"BAMBOO_INSECURE", "BAMBOO_API_KEYS"} and value is not None
    }
    with Gateway(tmp_path, settings) as gateway, haproxy(tmp_path, [gateway.port]) as url:
        assert httpx.get(f"{url}/api/v1/sessions", trust_env=False).status_code == 200


@pytest.mark.external_service
def test_haproxy_that_finds_no_gateway_answers_as_a_gateway_without_its_database(
    tmp_path: Path,
) -> None:
    with Gateway(tmp_path) as gateway, haproxy(tmp_path, [gateway.port]) as url:
        gateway.stop()

        def is_refused() -> bool:
            return httpx.get(f"{url}/api/v1/sessions", trust_env=False).status_code == 503

        until(is_refused, "the balancer has seen that the gateway is gone")
        answer = httpx.get(f"{url}/api/v1/sessions", trust_env=False)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["retry-after"] == "2"
        assert answer.json()["code"] == "unavailable"
        assert answer.json()["retryable"] is True
