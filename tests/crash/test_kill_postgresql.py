"""The gateway, and PostgreSQL below it, are killed under load; see `test_kill` for what must hold.

Producers repeat their requests until they are answered, readers stay or come back, and at the end
messages are compared with what was acknowledged, by every route that shows them.
"""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.test_kill import killed, live_through_kills
from tests.processes import Gateway
from tests.support.pgbouncer import pgbouncer
from tests.support.postgres import PostgresServer
from tests.support.waiting import until


@pytest.mark.timeout(900)
def test_a_gateway_on_postgresql_that_is_killed_loses_doubles_and_reorders_nothing(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    with own_postgres.database() as database:
        live(tmp_path, own_postgres.url(database), strikes=killed)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGKILL], ids=["immediate", "kill"])
def test_a_gateway_whose_postgresql_is_killed_goes_on_and_loses_nothing(
    tmp_path: Path, own_postgres: PostgresServer, how: signal.Signals
) -> None:
    def strike(gateway: Gateway) -> None:
        own_postgres.stop(how)
        until(lambda: refuses(gateway), "the gateway says that the database is away")
        own_postgres.start()
        until(lambda: answers(gateway), "the gateway answers again by itself")

    with own_postgres.database() as database:
        live(tmp_path, own_postgres.url(database), strikes=strike)


def refuses(gateway: Gateway) -> bool:
    response = gateway.http.get("/sessions", params={"limit": 1})
    assert response.status_code in {200, 503}, response.text
    assert response.status_code == 200 or "Retry-After" in response.headers
    return response.status_code == 503


def answers(gateway: Gateway) -> bool:
    return not refuses(gateway)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_gateway_behind_pgbouncer_survives_both_being_killed(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    def both(gateway: Gateway) -> None:
        own_postgres.restart(signal.SIGKILL)
        killed(gateway)

    with pgbouncer(own_postgres) as port, own_postgres.database() as database:
        live(tmp_path, own_postgres.url(database, port), strikes=both, rounds=10)


def live(directory: Path, url: str, *, strikes: Callable[[Gateway], None], rounds: int = 2) -> None:
    live_through_kills(
        directory,
        rounds=rounds,
        durability="fsync",
        checkpoint_seconds="0.5",
        storage_url=url,
        strike=strikes,
    )
