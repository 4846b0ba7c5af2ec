"""What a store has to keep when its sessions move to another: one of everything."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.factory import make_store
from bamboo_gateway.storage.reports import ValueChange
from tests.storage.writing import (
    T0,
    StepClock,
    Writer,
    answer_to,
    append,
    committed,
    complete,
    message,
    run_start,
    token,
)

SHARE = {
    "id": "share-1",
    "user_id": "bob",
    "created_at": format_ms(T0),
    "expires_at": format_ms(T0 + 9_000_000),
    "token_sha256": None,
}
ARCHIVED = {"type": "state_change", "from": "idle", "to": "archived"}


@dataclass(frozen=True, slots=True)
class Place:
    """A place for a store. `make` returns the store, not open; one in memory stays the same."""

    make: Callable[[], SessionStore]

    @classmethod
    def at(cls, url: str, directory: Path, clock: StepClock) -> "Place":
        settings = Settings(storage_url=url, data_dir=directory)
        if url == "memory:":
            only = make_store(settings, clock)
            return cls(lambda: only)
        return cls(lambda: make_store(settings, clock))

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[SessionStore]:
        store = self.make()
        await store.open()
        try:
            yield store
        finally:
            await store.aclose()


async def fill(store: SessionStore) -> None:
    """Store sessions of all kinds, and values beside them."""
    some = [
        ValueChange(kind, f"key {n:04}", bytes([n % 256]) * n)
        # Those of one kind are more than a page of a migration.
        for kind, count in (("x", 520), ("y", 20))
        for n in range(count)
    ]
    await store.write_values([*some, ValueChange("x", "", b"no key")])
    writers = {
        name: Writer(name, store.next_epoch(), T0 + number)
        for number, name in enumerate(
            ("plain", "Plain", "noted", "long", "compacted", "open", "queued", "packed")
        )
    }
    for name, writer in writers.items():
        title = {"plain": "T\u0000itle", "Plain": ""}.get(name, "京都 🏯 İ ß")
        created = {"type": "session_created", "user_id": "ann", "title": title, "ttl_seconds": 60}
        await committed(store, writer.commit(created))
    await committed(store, writers["plain"].commit(message("m", 'NUL \u0000, "quotes" and \\')))
    await committed(store, writers["plain"].commit({"type": "session_shared", "share": SHARE}))
    store.touch("plain", writers["plain"].head.epoch, T0 + 77_000)
    await _note(store, writers["noted"])
    for start in range(0, 2500, 500):
        said = [message(f"m{n}", "x" * 600) for n in range(start, start + 500)]
        await committed(store, writers["long"].commit(*said, note=f"k{start}"))
    compacted = writers["compacted"]
    for number in range(4):
        run = [run_start(f"r{number}"), *[token()] * 50]
        await committed(store, compacted.commit(*run, note=f"in{number}"))
        await committed(store, compacted.commit(message(f"m{number}"), complete(f"r{number}")))
    # Also the note of a removed event: it has the seq of the event before.
    await store.compact("compacted", compacted.head.epoch, compacted.head.seq - 60)
    await committed(store, writers["open"].commit(run_start("r"), token(), token()))
    queued = {"type": "run_queued", "run_id": "q", "agent": "a", "messages": [], "options": {}}
    await committed(store, writers["queued"].commit(run_start("r"), queued))
    for name in ("packed", "not-packed"):
        writer = writers.get(name) or Writer(name, store.next_epoch())
        await committed(store, writer.commit(message("m"), note="n"))
        await committed(store, writer.commit(ARCHIVED))
        if name == "packed":
            await store.pack(name, writer.head.epoch)


async def _note(store: SessionStore, writer: Writer) -> None:
    """Give a session many notes of one seq, more than a search returns at once."""
    for round_ in range(3):
        # At once: they wait for a few syncs, and not each for one.
        answers = [append(store, writer.commit(note=f"{round_}-{number}")) for number in range(700)]
        assert {await answer_to(answer) for answer in answers} == {None}
        await committed(store, writer.commit(message(f"m{round_}"), note=f"last-{round_}"))
