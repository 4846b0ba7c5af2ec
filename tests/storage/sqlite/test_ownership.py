"""R8, and bad input: who may open a database, and what is said when it cannot be opened."""

import os
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from bamboo_gateway.domain import codec
from bamboo_gateway.storage.base import StoreBusy, StoreUnusable
from bamboo_gateway.storage.sql.sqlite import schema
from tests.storage.sqlite.support import doctor, make, opened
from tests.storage.sqlite.vfs import image_of
from tests.storage.writing import Writer, committed, seqs, token


def content_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def run(program: str, path: Path) -> str:
    """Run a program in another process; return what it wrote to stderr."""
    command = [sys.executable, "-c", program, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


async def refusal_of(path: Path) -> str:
    before = content_of(path)
    store = make(path)
    with pytest.raises(StoreUnusable) as caught:
        await store.open()
    assert "\n" not in caught.value.detail
    assert content_of(path) == before
    return caught.value.detail


async def test_a_second_process_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with opened(path):
        with pytest.raises(StoreBusy, match=f"pid {os.getpid()}"):
            await make(path).open()
        with pytest.raises(StoreBusy):
            doctor(path)
        program = (
            "import asyncio, sys; from pathlib import Path; "
            "from tests.storage.sqlite.support import make; "
            "asyncio.run(make(Path(sys.argv[1])).open())"
        )
        assert "StoreBusy" in run(program, path)
    async with opened(path):
        pass


async def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "data" / "s.db"
    old = os.umask(0)
    try:
        async with opened(path) as store:
            await committed(store, Writer("a", store.next_epoch()).commit(token()))
            for file in path.parent.iterdir():
                assert file.stat().st_mode & 0o777 == 0o600, file.name
        assert path.parent.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(old)


async def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(b"no database " * 1000)
    assert "no SQLite database" in await refusal_of(path)


async def test_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.db").mkdir()
    assert "cannot be used" in await refusal_of(tmp_path / "s.db")


async def test_the_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    assert "another program" in await refusal_of(path)


@pytest.mark.parametrize(
    ("step", "words"), [(1, "newer version"), (-1, "bamboo migrate schema")], ids=["newer", "older"]
)
async def test_another_schema_is_refused_with_what_to_do(
    tmp_path: Path, step: int, words: str
) -> None:
    path = tmp_path / "s.db"
    async with opened(path):
        pass
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", schema.VERSION + step)
    connection.close()
    assert words in await refusal_of(path)


async def test_a_schema_is_upgraded_by_its_migrations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    async with opened(path):
        pass
    steps = ("ALTER TABLE meta ADD COLUMN more TEXT", "UPDATE meta SET more = 'yes'")
    monkeypatch.setattr(schema, "MIGRATIONS", {1: steps, 2: ("this is no SQL",)})
    connection = apsw.Connection(str(path))
    try:
        assert schema.upgrade(connection, 2) == [2]
        with pytest.raises(apsw.SQLError):
            schema.upgrade(connection, 3)
        assert connection.pragma("user_version") == 2
        assert connection.execute("SELECT DISTINCT more FROM meta").get == "yes"
    finally:
        connection.close()


async def test_after_a_power_loss_sessions_of_mode_os_get_new_epochs(tmp_path: Path) -> None:
    """R3, R4: the last commits may be lost, and their positions are given to others."""
    path = tmp_path / "one" / "s.db"
    async with opened(path, durability="os") as store:
        writer = Writer("a", store.next_epoch())
        await committed(store, writer.commit(token()))
        image = image_of(path, tmp_path / "image")
    lock = image.with_name("s.db-lock")
    content = codec.decode(lock.read_bytes())
    lock.write_bytes(codec.encode(content | {"boot": "another"}))
    store = make(image)
    report = await store.open()
    assert (report.clean, report.new_epochs) == (False, 1)
    head = await store.load("a")
    assert head is not None
    assert head.epoch > writer.head.epoch
    assert await seqs(store, "a") == [1, 2]
    await store.aclose()
