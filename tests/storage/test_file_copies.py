"""Files in backups and migrations: each content, or a refusal that says why."""

from collections.abc import AsyncIterator
from hashlib import sha256
from itertools import permutations
from pathlib import Path

import pytest

from bamboo_gateway.domain.errors import Gone, StorageFailed
from bamboo_gateway.sessions.commands import NewMessage, NewSession
from bamboo_gateway.sessions.files.uploads import NewFile
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import SessionStore, StoreUnusable
from bamboo_gateway.storage.factory import (
    back_up,
    check_store,
    make_store,
    open_backup,
    restore_backup,
)
from bamboo_gateway.storage.migration.migrate import migrate
from tests.contract.conftest import storage_url as contract_url
from tests.support.clocks import FakeClock
from tests.support.gateways import ME, Gateway, gateway
from tests.support.postgres import execute
from tests.support.settings import given_settings

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels" * 100_000
STORES = ("jsonl:", "sqlite:")
FLIP = "UPDATE file_pieces SET body = overlay(body placing 'X'::bytea from 9) WHERE number = 1"


def storage_url(request: pytest.FixtureRequest, store: str) -> str:
    return contract_url(request, store) if store == "postgresql" else store


def settings_of(directory: Path, store: str) -> Settings:
    return given_settings(data_dir=directory, storage_url=store)


async def body() -> AsyncIterator[bytes]:
    for start in range(0, len(PNG), 100_000):
        yield PNG[start : start + 100_000]


async def filled(settings: Settings) -> str:
    """Fill a store with a session that names a file; return the file's id."""
    store = make_store(settings, FakeClock())
    await store.open()
    async with gateway(store) as gate:
        file = await gate.manager.upload_file(ME, NewFile("a.png", "image/png"), body())
        file_id: str = file.answer["file_id"]
        await gate.manager.create_session(ME, NewSession(id="s"))
        part = {"type": "image", "file_id": file_id}
        await gate.manager.add_messages(ME, "s", [NewMessage("user", [part])])
    await store.aclose()
    return file_id


async def content(gate: Gateway, file_id: str) -> bytes:
    file = await gate.manager.open_file(ME, file_id)
    return b"".join([piece async for piece in file.read(0, file.record.size)])


async def check(store: SessionStore, file_id: str) -> None:
    await store.open()
    async with gateway(store) as gate:
        assert await content(gate, file_id) == PNG
        assert (await store.load("s") or pytest.fail("no session")).files == [file_id]
    await store.aclose()


@pytest.mark.parametrize("store", STORES)
async def test_a_backup_has_the_files_and_restores_them(tmp_path: Path, store: str) -> None:
    source, target = settings_of(tmp_path / "a", store), settings_of(tmp_path / "b", store)
    file_id = await filled(source)
    back_up(source, tmp_path / "backup", FakeClock())
    restore_backup(target, open_backup(tmp_path / "backup"), FakeClock())
    await check(make_store(target, FakeClock()), file_id)


@pytest.mark.parametrize("store", STORES)
async def test_there_is_no_backup_with_a_damaged_content(tmp_path: Path, store: str) -> None:
    """R10."""
    source = settings_of(tmp_path / "a", store)
    await filled(source)
    [path] = [one for one in (tmp_path / "a").rglob("*") if len(one.name) == 64]
    path.write_bytes(PNG[:-1] + b"!")
    with pytest.raises(StoreUnusable, match="doctor --repair"):
        back_up(source, tmp_path / "backup", FakeClock())
    assert not (tmp_path / "backup").exists()


@pytest.mark.parametrize(("one", "other"), [*permutations((*STORES, "postgresql"), 2)])
async def test_a_migration_copies_the_files(
    request: pytest.FixtureRequest, tmp_path: Path, one: str, other: str
) -> None:
    source = settings_of(tmp_path / "a", storage_url(request, one))
    target = settings_of(tmp_path / "b", storage_url(request, other))
    file_id = await filled(source)
    store = make_store(source, FakeClock())
    await store.open()
    await migrate(store, lambda: make_store(target, FakeClock()), "here")
    await store.aclose()
    await check(make_store(target, FakeClock()), file_id)


async def test_no_migration_takes_a_damaged_content_from_a_database(
    tmp_path: Path, postgres_url: str
) -> None:
    """R10."""
    source, target = settings_of(tmp_path, postgres_url), settings_of(tmp_path / "b", "sqlite:")
    await filled(source)
    execute(postgres_url, FLIP)
    store = make_store(source, FakeClock())
    await store.open()
    with pytest.raises(StorageFailed, match="doctor --repair"):
        await migrate(store, lambda: make_store(target, FakeClock()), "here")
    await store.aclose()


DAMAGES = {
    "a flipped byte": FLIP,
    "a lost piece": "DELETE FROM file_pieces WHERE number = 1",
    "a lost last piece": "DELETE FROM file_pieces WHERE number = 2",
    "a wrong size": "UPDATE file_contents SET size = size - 1",
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_doctor_finds_a_damaged_content_in_a_database_and_sets_it_aside(
    tmp_path: Path, postgres_url: str, damage: str
) -> None:
    """R10. Nothing is changed without `--repair`, and a repeated upload makes the file whole."""
    settings = settings_of(tmp_path, postgres_url)
    file_id = await filled(settings)
    assert check_store(settings, FakeClock()) == []
    execute(postgres_url, DAMAGES[damage])
    [found] = check_store(settings, FakeClock())
    assert (found.severity, found.repaired) == ("fail", False)
    assert not (tmp_path / "quarantine").exists()
    assert [one.repaired for one in check_store(settings, FakeClock(), repair=True)] == [True]
    [aside] = (tmp_path / "quarantine").iterdir()
    assert aside.name.endswith(sha256(PNG).hexdigest())
    assert aside.stat().st_mode & 0o777 == 0o600
    assert check_store(settings, FakeClock()) == []
    store = make_store(settings, FakeClock())
    await store.open()
    async with gateway(store) as gate:
        with pytest.raises(Gone):
            await content(gate, file_id)
        await gate.manager.upload_file(ME, NewFile("again", "image/png"), body())
        assert await content(gate, file_id) == PNG
    await store.aclose()


async def test_a_content_that_is_lost_is_said(tmp_path: Path) -> None:
    """R4."""
    settings = settings_of(tmp_path / "a", "jsonl:")
    file_id = await filled(settings)
    [path] = [one for one in (tmp_path / "a").rglob("*") if len(one.name) == 64]
    path.unlink()
    store = make_store(settings, FakeClock())
    await store.open()
    async with gateway(store) as gate:
        with pytest.raises(Gone):
            await content(gate, file_id)
    await store.aclose()
