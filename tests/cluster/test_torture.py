"""Gateways on one PostgreSQL under load, while processes, wires, PostgreSQL and Redis fail.

What was acknowledged is there, once and in order, at every replica; readers that change the replica
see exactly the log; every run is executed once at most and has one end; what people see by every
way there is agrees. The same holds for one gateway alone.
"""

from pathlib import Path

import pytest

from tests.cluster.deployment import Deployment
from tests.cluster.living import dice_of_the_test, live_through

ROUNDS = 100


@pytest.mark.timeout(900)
def test_one_gateway_keeps_what_it_promised_through_every_fault(tmp_path: Path) -> None:
    with Deployment(tmp_path, 1) as deployment:
        live_through(deployment, dice_of_the_test(), 30)


@pytest.mark.timeout(900)
def test_two_gateways_keep_what_they_promised_through_every_fault(tmp_path: Path) -> None:
    with Deployment(tmp_path, 2) as deployment:
        live_through(deployment, dice_of_the_test(), 30)
