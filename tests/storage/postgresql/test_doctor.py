"""`bamboo doctor` on PostgreSQL: findings, repairs, new epochs, and no change without `repair`."""

from pathlib import Path

import pytest

from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import StoreBusy, StoreUnusable
from bamboo_gateway.storage.factory import check_store
from bamboo_gateway.storage.reports import Finding
from bamboo_gateway.storage.sql.postgresql import processes
from bamboo_gateway.storage.sql.postgresql.doctor import check
from tests.storage.postgresql.conftest import make_database, open_store
from tests.storage.writing import (
    StepClock,
    Writer,
    committed,
    everything,
    message,
    seqs,
    token,
)
from tests.support.postgres import execute

SESSIONS = ("one", "two", "three")
STATE = (
    "SELECT (SELECT array_agg(s ORDER BY key) FROM sessions s),"
    " (SELECT array_agg(u ORDER BY scope, slot) FROM usage u),"
    " (SELECT array_agg(m ORDER BY session_key, kind, seq) FROM marks m),"
    " (SELECT array_agg(e ORDER BY session_key, seq) FROM events e),"
    " (SELECT array_agg(h ORDER BY key, user_id) FROM session_shares h),"
    " (SELECT array_agg(m ORDER BY name) FROM meta m)"
)


async def filled(url: str) -> dict[str, Writer]:
    writers = {}
    async with open_store(url) as store:
        for name in SESSIONS:
            writer = writers[name] = Writer(name, store.next_epoch())
            for number in range(3):
                commit = writer.commit(message(f"m{number}", "hello"), token(), note=f"k{number}")
                await committed(store, commit)
    return writers


def doctor(
    url: str, directory: Path, *, repair: bool = False, new_epochs: bool = False
) -> list[Finding]:
    clock = StepClock()
    quarantine = directory / "quarantine"
    return check(make_database(url), quarantine, clock, repair=repair, new_epochs=new_epochs)


async def test_a_healthy_database_has_no_findings(tmp_path: Path, postgres_url: str) -> None:
    await filled(postgres_url)
    settings = Settings(data_dir=tmp_path, storage_url=postgres_url)
    before = execute(postgres_url, STATE)
    assert check_store(settings, StepClock()) == []
    assert check_store(settings, StepClock(), repair=True) == []
    assert execute(postgres_url, STATE) == before
    assert not (tmp_path / "quarantine").exists()


def test_a_database_without_tables_is_refused_and_gets_none(
    tmp_path: Path, postgres_url: str
) -> None:
    with pytest.raises(StoreUnusable, match="no tables"):
        doctor(postgres_url, tmp_path, new_epochs=True)
    assert execute(postgres_url, "SELECT to_regclass('sessions')") == [(None,)]


async def test_a_database_that_a_gateway_uses_is_left_alone(
    tmp_path: Path, postgres_url: str
) -> None:
    """R8."""
    writers = await filled(postgres_url)
    async with open_store(postgres_url) as store:
        with pytest.raises(StoreBusy, match="Stop them first"):
            doctor(postgres_url, tmp_path, new_epochs=True)
        assert await store.load("one") == writers["one"].head
        await committed(store, writers["one"].commit(token("goes on")))


async def test_a_gateway_whose_row_came_with_a_dump_does_not_use_the_restored_database(
    tmp_path: Path, postgres_url: str
) -> None:
    """Its process lives, and writes into another database."""
    await filled(postgres_url)
    name = processes.own_name()
    execute(postgres_url, f"INSERT INTO executors VALUES ('other', 5, 0, '{name}', 0, 0)")
    [note] = doctor(postgres_url, tmp_path, new_epochs=True)
    assert note.repaired
    assert execute(postgres_url, "SELECT count(*) FROM executors") == [(0,)]


@pytest.mark.parametrize(
    "text",
    [
        "DELETE FROM marks WHERE session_key = 2 AND seq = 2",
        "INSERT INTO marks (session_key, kind, seq, key) VALUES (2, 2, 1, 'r')",
        "UPDATE sessions SET stored_bytes = stored_bytes + 5 WHERE key = 2",
        "UPDATE usage SET stored_bytes = 1",
        "UPDATE sessions SET message_count = 77 WHERE key = 2",
        "INSERT INTO session_shares (user_id, key) VALUES ('u', 2)",
        "INSERT INTO events (session_key, seq, is_delta, body) VALUES (99, 1, false, '{}')",
        "UPDATE meta SET number = 1 WHERE name = 'last_epoch'",
    ],
)
async def test_what_follows_from_other_rows_is_made_again(
    tmp_path: Path, postgres_url: str, text: str
) -> None:
    writers = await filled(postgres_url)
    healthy = execute(postgres_url, STATE)
    execute(postgres_url, text)
    changed = execute(postgres_url, STATE)
    assert changed != healthy
    found = doctor(postgres_url, tmp_path)
    assert found
    assert [(one.severity, one.repaired) for one in found] == [("warn", False)] * len(found)
    assert execute(postgres_url, STATE) == changed
    assert all(finding.repaired for finding in doctor(postgres_url, tmp_path, repair=True))
    assert doctor(postgres_url, tmp_path) == []
    async with open_store(postgres_url) as store:
        for name, writer in writers.items():
            assert await store.load(name) == writer.head
            assert len(await store.find(name, writer.head.epoch, "message")) == 3


async def test_interrupted_work_is_named_and_is_no_fault(tmp_path: Path, postgres_url: str) -> None:
    await filled(postgres_url)
    execute(
        postgres_url,
        "INSERT INTO leftovers (work, session_key, deltas_upto, touched_at)"
        " VALUES ('extension', 2, 0, 1)",
    )
    [found] = doctor(postgres_url, tmp_path)
    assert (found.severity, found.subject, found.is_open) == ("note", "leftovers", False)


async def test_a_damaged_event_costs_itself_and_is_said_by_a_new_epoch(
    tmp_path: Path, postgres_url: str
) -> None:
    """R4, R10."""
    writers = await filled(postgres_url)
    execute(postgres_url, "UPDATE events SET body = '{\"t' WHERE session_key = 2 AND seq = 4")
    [found] = [one for one in doctor(postgres_url, tmp_path) if one.severity == "fail"]
    assert found.subject == "two"
    assert not (tmp_path / "quarantine").exists()
    doctor(postgres_url, tmp_path, repair=True)
    assert doctor(postgres_url, tmp_path) == []
    [kept] = (tmp_path / "quarantine").iterdir()
    assert b'{"t'.hex() in kept.read_text()
    async with open_store(postgres_url) as store:
        head = await store.load("two")
        assert head is not None
        assert head.epoch > writers["two"].head.epoch
        assert 4 not in await seqs(store, "two")
        assert await store.load("one") == writers["one"].head
        await committed(store, Writer.of(head).commit(token()))


async def test_a_damaged_archive_is_said_and_not_called_repaired(
    tmp_path: Path, postgres_url: str
) -> None:
    writers = await filled(postgres_url)
    async with open_store(postgres_url) as store:
        await store.pack("two", writers["two"].head.epoch)
    assert doctor(postgres_url, tmp_path) == []
    execute(postgres_url, "UPDATE archives SET body = 'nonsense' WHERE session_key = 2")
    found = [one for one in doctor(postgres_url, tmp_path, repair=True) if one.severity == "fail"]
    assert [(one.subject, one.repaired) for one in found] == [("two", False)]


async def test_every_session_gets_a_new_epoch_when_asked(tmp_path: Path, postgres_url: str) -> None:
    """R3: after a backup was restored."""
    writers = await filled(postgres_url)
    async with open_store(postgres_url) as store:
        await store.pack("two", writers["two"].head.epoch)
        expected = {name: await everything(store, name) for name in SESSIONS}
    [note] = doctor(postgres_url, tmp_path, new_epochs=True)
    assert (note.severity, note.repaired) == ("note", True)
    async with open_store(postgres_url) as store:
        for name, writer in writers.items():
            head = await store.load(name)
            assert head is not None
            assert head.epoch > max(other.head.epoch for other in writers.values())
            assert head.seq == writer.head.seq
            assert await everything(store, name) == expected[name]
            kept = await store.find(name, head.epoch, "note", key="k1")
            assert len(kept) == 1
            assert store.next_epoch() > head.epoch
