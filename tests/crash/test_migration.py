"""`bamboo migrate data` that is killed, at many moments, and goes on (R9)."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import apsw
import psycopg
import psycopg.errors
import pytest

from bamboo_gateway.domain.clock import SystemClock
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.factory import make_store
from bamboo_gateway.storage.jsonl.store import JsonlStore
from tests.cli.running import bamboo
from tests.contract.conftest import storage_url
from tests.processes import BAMBOO, REPOSITORY, environment, start_program
from tests.storage.migrating import fill
from tests.storage.test_migration import contents
from tests.storage.writing import Writer, committed, message
from tests.support.waiting import SECONDS

SESSIONS = 150


async def filled(store: SessionStore) -> None:
    await fill(store)
    for number in range(SESSIONS):
        writer = Writer(f"s-{number:03d}", store.next_epoch())
        await committed(store, writer.commit(message("m", "x" * 2000), note="n"))


@dataclass(frozen=True)
class Target:
    """Where a migration goes, looked at by another way than the store's."""

    url: str
    ask: Callable[[str], int]

    def sessions(self) -> int:
        return self.ask("SELECT count(*) FROM sessions")

    def is_unfinished(self) -> bool:
        return self.ask("SELECT count(*) FROM meta WHERE name = 'migration'") == 1


def files_target(root: Path) -> Target:
    def ask(sql: str) -> int:
        if "meta" in sql:
            return int((root / "MIGRATION").exists())
        return len(list(root.glob("events/*.jsonl")))

    return Target(f"jsonl:{root}", ask)


def sqlite_target(path: Path) -> Target:
    def ask(sql: str) -> int:
        try:
            connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        except apsw.CantOpenError:
            return 0
        try:
            return int(connection.execute(sql).get)
        except (apsw.SQLError, apsw.BusyError, apsw.CantOpenError):
            return 0  # its tables are being made
        finally:
            connection.close()

    return Target(f"sqlite://{path}", ask)


def postgres_target(url: str) -> Target:
    def ask(sql: str) -> int:
        with psycopg.connect(url) as connection:
            try:
                row = connection.execute(sql.encode()).fetchone()
            except psycopg.errors.UndefinedTable:
                return 0
            assert row is not None
            return int(row[0])

    return Target(url, ask)


@pytest.fixture(params=["jsonl", "sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    match request.param:
        case "jsonl":
            return files_target(tmp_path / "target")
        case "sqlite":
            return sqlite_target(tmp_path / "target.db")
        case _:
            return postgres_target(storage_url(request, "postgresql"))


def killed_when(arrived: int, source: str, target: Target, log: Path) -> bool:
    """Start a migration, and kill it once the target has so many; whether it was in time."""
    with log.open("ab") as out, Path("/dev/null").open("rb") as nothing:
        command = [*BAMBOO, "migrate", "data", source, target.url]
        process = start_program(command, environment(), REPOSITORY, (nothing, out, out))
    until = time.monotonic() + SECONDS
    while target.sessions() < arrived and process.poll() is None:
        assert time.monotonic() < until, log.read_text(encoding="utf-8")
    process.kill()
    return process.wait(SECONDS) != 0


async def test_a_migration_that_is_killed_at_many_moments_goes_on_to_its_end(
    tmp_path: Path, target: Target
) -> None:
    source = tmp_path / "source"
    store = JsonlStore(source, SystemClock())
    await store.open()
    await filled(store)
    expected = await contents(store)
    await store.aclose()
    kills = refusals = 0
    for arrived in (0, 1, 2, 40, 100, SESSIONS):
        kills += killed_when(arrived, f"jsonl:{source}", target, tmp_path / "log")
        if not target.is_unfinished():
            continue  # it had not begun, or it has ended
        # Nobody serves what is half there.
        refused = bamboo("serve", "--port", "0", "--storage-url", target.url)
        assert refused.returncode != 0
        assert "`bamboo migrate data` again, and it goes on" in refused.stderr
        assert f"a migration from jsonl:{source}" in refused.stderr
        refusals += 1
    assert kills > 3
    assert refusals > 1
    if target.is_unfinished():  # the last kill came in time
        assert_done(bamboo("migrate", "data", f"jsonl:{source}", target.url), expected["usage"])
    seen = make_store(Settings(storage_url=target.url, data_dir=tmp_path / "data"), SystemClock())
    await seen.open()
    assert await contents(seen) == expected
    await seen.aclose()


def assert_done(ended: subprocess.CompletedProcess[str], sessions: int) -> None:
    assert ended.returncode == 0, ended.stderr
    assert f"Copied {sessions} sessions (1 archived): " in ended.stdout
    assert "Both sides were read afterwards, and are equal: sha256 " in ended.stdout
