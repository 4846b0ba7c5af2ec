"""`bamboo doctor` on SQLite: findings, repairs, and no change without `repair`; R10: damage."""

from pathlib import Path

import apsw
import pytest

from bamboo_gateway.domain.errors import StorageFailed
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import ChangesLost, StoreUnusable
from bamboo_gateway.storage.factory import check_store
from tests.storage.sqlite.support import bodies, doctor, opened, overwrite_page, page_of
from tests.storage.writing import StepClock, Writer, committed, message, seqs, token

SESSIONS = ("one", "two", "three")


async def filled(path: Path, *, large: bool = False) -> dict[str, Writer]:
    writers = {}
    async with opened(path) as store:
        for name in SESSIONS:
            writer = writers[name] = Writer(name, store.next_epoch())
            for number in range(40 if large else 3):
                text = "x" * (900 if large else 10)
                commit = writer.commit(message(f"m{number}", text), token(), note=f"k{number}")
                await committed(store, commit)
    return writers


def change(path: Path, text: str) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(text)
    assert connection.total_changes()
    connection.close()


async def test_a_healthy_database_has_no_findings(tmp_path: Path) -> None:
    await filled(tmp_path / "sessions.db")
    settings = Settings(data_dir=tmp_path, storage_url="sqlite:")
    assert check_store(settings, StepClock()) == []
    assert check_store(settings, StepClock(), repair=True) == []


def test_there_is_nothing_to_check_without_a_database(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable):
        doctor(tmp_path / "none.db")


@pytest.mark.parametrize(
    "text",
    [
        "DELETE FROM marks WHERE session_key = 2 AND seq = 2",
        "UPDATE sessions SET stored_bytes = stored_bytes + 5 WHERE key = 2",
        "UPDATE usage SET stored_bytes = 1",
        "UPDATE sessions SET message_count = 77 WHERE key = 2",
        "INSERT INTO session_shares VALUES ('u', 2, NULL)",
        "INSERT INTO events VALUES (99, 1, 0, NULL, x'7b7d')",
        "UPDATE meta SET number = 1 WHERE name = 'last_epoch'",
    ],
)
async def test_what_follows_from_other_rows_is_made_again(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.db"
    writers = await filled(path)
    before = path.read_bytes()
    change(path, text)
    changed = path.read_bytes()
    assert changed != before
    found = doctor(path)
    assert [finding.severity for finding in found] == ["warn"] * len(found)
    assert found
    assert not any(finding.repaired for finding in found)
    assert all(finding.repaired for finding in doctor(path, repair=True))
    assert doctor(path) == []
    async with opened(path) as store:
        for name, writer in writers.items():
            assert await store.load(name) == writer.head
            assert len(await store.find(name, writer.head.epoch, "message")) == 3


async def test_a_damaged_event_costs_itself_and_is_said_by_a_new_epoch(tmp_path: Path) -> None:
    """R4, R10."""
    path = tmp_path / "s.db"
    writers = await filled(path)
    change(path, "UPDATE events SET body = x'7b2274' WHERE session_key = 2 AND seq = 4")
    [found] = [finding for finding in doctor(path) if finding.severity == "fail"]
    assert found.subject == "two"
    doctor(path, repair=True)
    assert doctor(path) == []
    assert list((tmp_path / "quarantine").iterdir())
    async with opened(path) as store:
        head = await store.load("two")
        assert head is not None
        assert head.epoch > writers["two"].head.epoch
        assert 4 not in await seqs(store, "two")
        assert await store.load("one") == writers["one"].head
        await committed(store, Writer.of(head).commit(token()))


async def test_a_damaged_page_is_said_and_the_other_sessions_are_served(tmp_path: Path) -> None:
    """R10: while the gateway runs, and after a repair."""
    path = tmp_path / "s.db"
    writers = await filled(path, large=True)
    expected = {}
    async with opened(path) as store:
        expected = {name: await bodies(store, name) for name in SESSIONS}
    # The rows of the first session lie in the first pages.
    overwrite_page(path, page_of(path, "events", 2))
    assert any(finding.severity == "fail" for finding in doctor(path))
    async with opened(path) as store:
        with pytest.raises(StorageFailed, match="bamboo doctor"):
            await bodies(store, "one")
        assert await bodies(store, "three") == expected["three"]
        await committed(store, writers["three"].commit(token("goes on")))
        expected["three"] = await bodies(store, "three")
    assert any(finding.severity == "fail" for finding in doctor(path, repair=True))
    assert doctor(path) == []
    assert list((tmp_path / "quarantine").iterdir())
    async with opened(path) as store:
        assert await bodies(store, "three") == expected["three"]
        left = await bodies(store, "one")
        assert 0 < len(left) < len(expected["one"])
        assert set(left) < set(expected["one"])
        head = await store.load("one")
        assert head is not None
        assert head.epoch > writers["one"].head.epoch


async def test_every_session_gets_a_new_epoch_when_asked(tmp_path: Path) -> None:
    """R3: after a backup was restored."""
    path = tmp_path / "s.db"
    writers = await filled(path)
    [note] = doctor(path, new_epochs=True)
    assert (note.severity, note.repaired) == ("note", True)
    async with opened(path) as store:
        for name, writer in writers.items():
            head = await store.load(name)
            assert head is not None
            assert head.epoch > max(other.head.epoch for other in writers.values())
            assert head.seq == writer.head.seq


async def test_new_epochs_begin_a_new_feed_of_changes(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with opened(path) as store:
        writer = Writer("s", store.next_epoch())
        await committed(store, writer.commit())
        known = await store.last_change()
    assert doctor(path) == []
    async with opened(path) as store:
        assert await store.last_change() == known
    doctor(path, new_epochs=True)
    async with opened(path) as store:
        with pytest.raises(ChangesLost):
            await store.changes(*known, 10)


async def test_a_count_of_changes_that_is_behind_is_found(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with opened(path) as store:
        await committed(store, Writer("s", store.next_epoch()).commit())
        known = await store.last_change()
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE meta SET number = 0 WHERE name = 'last_change'")
    connection.close()
    assert [finding.subject for finding in doctor(path)] == ["meta"]
    doctor(path, repair=True)
    assert doctor(path) == []
    async with opened(path) as store:
        assert (await store.last_change())[1] >= known[1]
        with pytest.raises(ChangesLost):
            await store.changes(*known, 10)


async def test_only_so_many_deletions_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bamboo_gateway.storage.sql.change_feed.GONE_SESSIONS_MAX", 3)
    monkeypatch.setattr("bamboo_gateway.storage.sql.change_feed._SLACK", 1)
    async with opened(tmp_path / "s.db") as store:
        numbers = [await store.last_change()]
        for number in range(6):
            writer = Writer(f"s{number}", store.next_epoch())
            await committed(store, writer.commit())
            await store.delete(f"s{number}", writer.head.epoch)
            numbers.append(await store.last_change())
        with pytest.raises(ChangesLost):
            await store.changes(*numbers[1], 10)
        page = await store.changes(*numbers[3], 10)
        assert [change.session_id for change in page.changes] == ["s3", "s4", "s5"]
