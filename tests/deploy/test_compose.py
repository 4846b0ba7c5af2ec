"""The profile `cluster` of docker-compose.yml, and HAProxy's configuration for it."""

import subprocess
from typing import Any

import pytest
import yaml

from bamboo_gateway.settings import Settings
from tests.processes import REPOSITORY, program

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
