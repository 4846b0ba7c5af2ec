"""Every client plays every scenario of clients/scenarios against a real gateway process."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.stage import Driver, Stage, drivers, scenarios
from tests.processes import Gateway
from tests.support.http_proxy import HttpProxy

# A prime: the cuts of an answer fall on all places of its lines.
CUT_STEP = 67


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Return the gateway of the scenarios that neither end it nor set anything."""
    with Gateway(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


def play(name: str, driver: str, shared: Gateway, directory: Path, cut_step: int) -> None:
    scenario = json.loads(scenarios()[name].read_text("utf-8"))
    own = "gateway" in scenario or any(
        step.get("gateway", "call") != "call" for step in scenario["steps"]
    )
    if not own:
        act(scenario, driver, shared, cut_step)
        return
    with Gateway(directory, scenario.get("gateway")) as gateway:
        act(scenario, driver, gateway, cut_step)


def act(scenario: dict[str, Any], driver: str, gateway: Gateway, cut_step: int) -> None:
    with HttpProxy(gateway.port) as proxy, Driver(drivers()[driver]) as client:
        stage = Stage(gateway, proxy, client, cut_step)
        stage.connect()
        stage.play(scenario["steps"])


@pytest.mark.parametrize("driver", drivers())
@pytest.mark.parametrize("name", scenarios())
def test_the_client_passes_the_scenario(
    name: str, driver: str, shared: Gateway, tmp_path: Path
) -> None:
    play(name, driver, shared, tmp_path, CUT_STEP)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # some thousand streams
@pytest.mark.parametrize("driver", drivers())
def test_a_stream_is_cut_at_every_byte(driver: str, shared: Gateway, tmp_path: Path) -> None:
    play("cut_at_every_byte", driver, shared, tmp_path, 1)
