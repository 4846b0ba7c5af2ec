"""Gateways on one PostgreSQL under load, while processes, wires, PostgreSQL and Redis fail.

What was acknowledged is there, once and in order, at every replica; readers that change the replica
see exactly the log; every run is executed once at most and has one end; what people see by every
way there is agrees. The same holds for one gateway alone.
"""

from pathlib import Path

import pytest

from tests.cluster.balancer import haproxy
from tests.cluster.deployment import Deployment
from tests.cluster.living import dice_of_the_test, live_through

# A hundred in all, which take a minute and a half.
ROUNDS_OF_ONE, ROUNDS_OF_TWO, ROUNDS_OF_THREE = 20, 30, 50
ROUNDS_OF_TORTURE = 1000


@pytest.mark.timeout(900)
def test_one_gateway_keeps_what_it_promised_through_every_fault(tmp_path: Path) -> None:
    with Deployment(tmp_path, 1) as deployment:
        live_through(deployment, dice_of_the_test(), ROUNDS_OF_ONE)


@pytest.mark.timeout(900)
def test_two_gateways_keep_what_they_promised_through_every_fault(tmp_path: Path) -> None:
    with Deployment(tmp_path, 2) as deployment:
        live_through(deployment, dice_of_the_test(), ROUNDS_OF_TWO)


@pytest.mark.external_service
@pytest.mark.timeout(900)
def test_three_gateways_with_a_bus_behind_a_balancer_keep_what_they_promised(
    tmp_path: Path,
) -> None:
    three(tmp_path, ROUNDS_OF_THREE)


@pytest.mark.slow
@pytest.mark.external_service
@pytest.mark.timeout(7200)
def test_three_gateways_keep_what_they_promised_through_a_thousand_faults(tmp_path: Path) -> None:
    three(tmp_path, ROUNDS_OF_TORTURE)


def three(directory: Path, rounds: int) -> None:
    with (
        Deployment(directory, 3, with_redis=True, with_pgbouncer=True) as deployment,
        haproxy(directory, [one.front.port for one in deployment.replicas]) as url,
    ):
        live_through(deployment, dice_of_the_test(), rounds, more_urls=(url,))
