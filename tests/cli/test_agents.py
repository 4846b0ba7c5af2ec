"""`bamboo agents list`, and lists by metadata."""

import json

from tests.cli.running import bamboo
from tests.processes import Gateway


def test_agents_are_listed_with_their_options(gateway: Gateway, url: str) -> None:
    del gateway
    table = bamboo("agents", "list", url=url).stdout
    assert "default (default)" in table
    assert "demo" in table
    (line,) = bamboo("agents", "list", "--json", url=url).stdout.splitlines()
    assert "delay_ms" in json.loads(line)["options"]["properties"]


def test_sessions_are_listed_by_metadata(gateway: Gateway, url: str) -> None:
    for name, project in (("meta-1", "bamboo"), ("meta-2", "other")):
        gateway.call("POST", "/sessions", json={"id": name, "metadata": {"project": project}})
    listing = ("sessions", "list", "--metadata", "project=bamboo", "--json")
    lines = bamboo(*listing, url=url).stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["meta-1"]


def test_a_filter_without_a_value_is_wrong_usage(gateway: Gateway, url: str) -> None:
    del gateway
    result = bamboo("sessions", "list", "--metadata", "project", url=url)
    assert result.returncode == 2
    assert "KEY=VALUE" in result.stderr
