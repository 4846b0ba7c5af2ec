"""Files in backups and migrations: each content, or a refusal that says why."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bamboo_gateway.domain.errors import Gone
from bamboo_gateway.sessions.commands import NewMessage, NewSession
from bamboo_gateway.sessions.files.uploads import NewFile
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import SessionStore, StoreUnusable
from bamboo_gateway.storage.factory import back_up, make_store, open_backup, restore_backup
from bamboo_gateway.storage.migration.migrate import migrate
from tests.support.clocks import FakeClock
from tests.support.gateways import ME, Gateway, gateway
from tests.support.settings import given_settings

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels" * 100_000
STORES = ("jsonl:", "sqlite:")


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


@pytest.mark.parametrize(("one", "other"), [STORES, STORES[::-1]])
async def test_a_migration_copies_the_files(tmp_path: Path, one: str, other: str) -> None:
    source, target = settings_of(tmp_path / "a", one), settings_of(tmp_path / "b", other)
    file_id = await filled(source)
    store = make_store(source, FakeClock())
    await store.open()
    await migrate(store, lambda: make_store(target, FakeClock()), "here")
    await store.aclose()
    await check(make_store(target, FakeClock()), file_id)


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
