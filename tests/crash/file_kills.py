"""A program that is killed at one call of an upload after the other, and looks at what is left.

`python -m tests.crash.file_kills DIRECTORY KIND [URL]` forks a child for each call that changes a
file or a database. The child uploads, names its files in messages, and deletes one; it is killed
right before that call, and in a second round right after it. Then the parent opens the store and
checks that what was acknowledged is there, and that the sweep leaves nothing behind.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.files import files_in
from bamboo_gateway.sessions.commands import NewMessage, NewSession
from bamboo_gateway.sessions.files.sweep import sweep
from bamboo_gateway.sessions.files.uploads import NewFile
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.files.disk import DiskContents
from bamboo_gateway.storage.jsonl.store import JsonlStore
from bamboo_gateway.storage.sql.database import Database
from bamboo_gateway.storage.sql.sqlite.database import SqliteDatabase
from bamboo_gateway.storage.sql.sqlite.store import SqliteStore
from tests.storage.postgresql.conftest import make_store
from tests.support.clocks import FakeClock
from tests.support.gateways import ME, Gateway, gateway
from tests.support.postgres import execute

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels" * 20_000
FILES = 2
TICKS_MAX = 400


class Killer:
    """Kills this process before or after the nth call, once it is armed."""

    def __init__(self, nth: int, *, after: bool) -> None:
        self.left = nth
        self.after = after
        self.armed = False

    def around(self, call: Callable[[], Any]) -> Any:
        if not self.armed:
            return call()
        self.left -= 1
        if self.left == 0 and not self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = call()
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer


def _watched(killer: Killer) -> FileSystem:
    """Return a file system whose changing calls pass the killer."""
    made = FileSystem()
    for name in ("pwrite", "pwrite_synced", "sync", "sync_directory", "rename", "unlink"):
        real = getattr(made, name)

        def call(*args: Any, real: Any = real) -> Any:
            return killer.around(lambda: real(*args))

        setattr(made, name, call)
    return made


def store_of(kind: str, directory: Path, killer: Killer | None) -> SessionStore:
    clock = FakeClock()
    if kind == "postgresql":
        rows = make_store(sys.argv[3])
        if killer is not None:
            _watch(rows._database, killer)
        return rows
    if kind == "jsonl":
        fs = _watched(killer) if killer else FileSystem()
        return JsonlStore(directory, clock, fs=fs)
    store = SqliteStore(SqliteDatabase(directory / "sessions.db", clock), clock)
    if killer is not None:
        contents = store.contents
        assert isinstance(contents, DiskContents)
        contents._fs = _watched(killer)
        _watch(store._database, killer)
    return store


def _watch(database: Database, killer: Killer) -> None:
    """Let the transactions of a database pass the killer: each is killed in front of its end too.

    One that is killed inside is as one that never began; right behind it nothing else has happened.
    """
    commit, writing = database.commit, database.writing

    @contextmanager
    def call(*args: Any, **named: Any) -> Iterator[Any]:
        with killer.around(lambda: writing(*args, **named)) as connection:
            yield connection
            killer.around(lambda: None)

    database.commit = lambda *args: killer.around(lambda: commit(*args))  # type: ignore[method-assign]
    database.writing = call  # type: ignore[method-assign]


async def body() -> AsyncIterator[bytes]:
    for start in range(0, len(PNG), 30_000):
        yield PNG[start : start + 30_000]


async def live(kind: str, directory: Path, killer: Killer, acks: Path) -> None:
    def acknowledged(*what: str) -> None:
        with acks.open("a", encoding="utf-8") as file:
            file.write(json.dumps(what) + "\n")

    store = store_of(kind, directory, killer)
    await store.open()
    async with gateway(store) as gate:
        killer.armed = True
        await gate.manager.create_session(ME, NewSession(id="a"))
        for number in range(FILES):
            new = NewFile(f"{number}.png", "image/png")
            made = (await gate.manager.upload_file(ME, new, body())).answer
            acknowledged("uploaded", made["file_id"])
            part = {"type": "image", "file_id": made["file_id"]}
            await gate.manager.add_messages(ME, "a", [NewMessage("user", [part], id=f"m{number}")])
            acknowledged("named", f"m{number}", made["file_id"])
        free = (await gate.manager.upload_file(ME, NewFile("x", "text/plain"), body())).answer
        acknowledged("free", free["file_id"])
        await gate.manager.delete_file(ME, free["file_id"])
        acknowledged("deleted", free["file_id"])
    os._exit(0)


def read_acks(acks: Path) -> list[list[str]]:
    lines = acks.read_text(encoding="utf-8").splitlines() if acks.exists() else []
    return [json.loads(line) for line in lines]


async def look(kind: str, directory: Path, said: list[list[str]]) -> None:
    store = store_of(kind, directory, None)
    await store.open()
    clock = FakeClock()
    async with gateway(store, clock=clock) as gate:
        for what, *names in said:
            if what == "uploaded":
                assert await content(gate, names[0]) == PNG, said
            if what == "deleted":
                assert await content(gate, names[0]) is None, said
        messages = []
        if await store.load("a") is not None:
            page = await gate.manager.messages(ME, "a")
            messages = [json.loads(message) for message in page.messages]
        named = [one for message in messages for one in files_in(message["content"])]
        for file_id in named:
            assert await content(gate, file_id) == PNG, (said, file_id)
        acknowledged = [name for what, *names in said if what == "named" for name in names[1:]]
        assert set(acknowledged) <= set(named), (said, named)
        for _ in range(3):
            clock.advance(24 * 3600 + 1)
            await sweep(gate.manager._context)
        left, _more = await gate.manager.list_files(ME)
        assert {file["file_id"] for file in left} == set(named), (left, named)
        assert len(await store.contents.contents()) == int(bool(named))
    await store.aclose()
    files = directory / "files" if kind == "jsonl" else directory / "sessions.db-files"
    assert not list((files / "aside").iterdir()) if (files / "aside").exists() else True


async def content(gate: Gateway, file_id: str) -> bytes | None:
    try:
        file = await gate.manager.open_file(ME, file_id)
    except BambooError:
        return None
    return b"".join([piece async for piece in file.read(0, file.record.size)])


def main(root: Path, kind: str) -> None:
    kills = 0
    for after in (False, True):
        for nth in range(1, TICKS_MAX):
            directory = root / f"{kind}-{nth}-{after}"
            directory.mkdir()
            if kind == "postgresql":
                execute(sys.argv[3], "DROP SCHEMA public CASCADE")
                execute(sys.argv[3], "CREATE SCHEMA public")
            acks = root / f"{kind}-{nth}-{after}.acks"
            child = os.fork()
            if child == 0:
                asyncio.run(live(kind, directory, Killer(nth, after=after), acks))
            _, status = os.waitpid(child, 0)
            if os.WIFEXITED(status):
                assert os.WEXITSTATUS(status) == 0, f"the child failed at {nth}"
                break
            kills += 1
            asyncio.run(look(kind, directory, read_acks(acks)))
        else:
            raise AssertionError("the child never came to its end")
    print(kills)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
