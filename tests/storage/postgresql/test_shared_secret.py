"""The secret of tickets and cookies is in the database: all gateways with it accept the same."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bamboo_gateway.credentials.errors import CredentialsUnusable
from bamboo_gateway.credentials.gate import Gate
from bamboo_gateway.domain.callers import ALL_RIGHTS, Caller
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import SupportsSecret
from bamboo_gateway.storage.sql.postgresql.database import make_database
from bamboo_gateway.storage.sql.postgresql.store import PostgresStore
from tests.processes import Gateway
from tests.storage.writing import StepClock
from tests.support.pgbouncer import pgbouncer
from tests.support.postgres import GivenServer, PostgresServer, execute
from tests.support.postgres_proxy import Cut, PostgresProxy

MINE, THEIRS = b"m" * 32, b"t" * 32
ALICE = Caller("key-a", "alice", ALL_RIGHTS, None, "local")


def make_store(url: str) -> PostgresStore:
    return PostgresStore(make_database(url, None), StepClock())


async def kept(url: str, proposed: bytes) -> bytes:
    store = make_store(url)
    await store.open()
    try:
        return await store.keep_secret(proposed)
    finally:
        await store.aclose()


async def test_the_first_secret_stays(
    postgres_server: PostgresServer | GivenServer, postgres_database: str
):
    """Also behind PgBouncer."""
    assert await kept(postgres_server.url(postgres_database), MINE) == MINE
    with pgbouncer(postgres_server) as port:
        assert await kept(postgres_server.url(postgres_database, port), THEIRS) == MINE


async def test_of_secrets_that_are_proposed_at_once_all_get_the_same(postgres_url: str):
    store = make_store(postgres_url)
    await store.open()
    database = store._keeper
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(database.keep_secret, [bytes([n]) * 32 for n in range(8)]))
    await store.aclose()
    assert len(found) == 1


@pytest.mark.parametrize("where", list(Cut))
@pytest.mark.parametrize("statement", [b"ticket_secret", b"COMMIT"])
async def test_a_connection_that_breaks_meanwhile_costs_a_moment(
    through_proxy: str, proxy: PostgresProxy, where: Cut, statement: bytes
):
    store = make_store(through_proxy)
    await store.open()
    cut = False

    def once(sent: bytes) -> Cut | None:
        nonlocal cut
        if cut or statement not in sent:
            return None
        cut = True
        return where

    proxy.cut_when(once)
    assert await store.keep_secret(MINE) == MINE
    assert cut
    assert await store.keep_secret(THEIRS) == MINE
    await store.aclose()


async def test_a_gate_takes_the_secret_of_the_store_and_proposes_that_of_the_file(tmp_path: Path):
    asked: list[bytes] = []

    async def keep(proposed: bytes) -> bytes:
        asked.append(proposed)
        return asked[0]

    one = Settings(storage_url="postgresql:///x", data_dir=tmp_path / "one", insecure=True)
    other = Settings(storage_url="postgresql:///x", data_dir=tmp_path / "other", insecure=True)
    (tmp_path / "one").mkdir()
    file = tmp_path / "one" / "ticket-secret"
    file.write_bytes(MINE + b"\n")
    file.chmod(0o600)
    clock = StepClock()
    async with Gate(one, clock, keep) as first, Gate(other, clock, keep) as second:
        assert asked[0] == MINE != asked[1]
        ticket = first.make_ticket(ALICE, "s1").text
        assert second.ticket(ticket, None) is not None
    assert not (tmp_path / "other").exists()
    file.chmod(0o644)
    with pytest.raises(CredentialsUnusable, match="chmod 600"):
        async with Gate(one, clock, keep):
            pass


def test_tickets_outlive_the_machine_of_a_gateway(tmp_path: Path, postgres_url: str) -> None:
    with Gateway(tmp_path, flags=["--storage-url", postgres_url]) as gateway:
        gateway.call("POST", "/sessions", json={"id": "s1"})
        ticket = gateway.call("POST", "/sessions/s1/ticket")["ticket"]
        assert gateway.stop() == 0
        assert not (gateway.data_dir / "ticket-secret").exists()
        shutil.rmtree(gateway.data_dir)
        gateway.start()
        answer = gateway.http.get("/sessions/s1", params={"ticket": ticket})
        assert answer.status_code == 200, answer.text
        assert gateway.stop() == 0
        [(secret,)] = execute(postgres_url, "SELECT text FROM meta WHERE name = 'ticket_secret'")
        assert secret not in gateway.log


def test_only_postgresql_keeps_it() -> None:
    assert issubclass(PostgresStore, SupportsSecret)
