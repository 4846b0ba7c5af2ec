"""Make a directory as a killed gateway leaves it: `make_directory.py DIRECTORY SHOWN.json`."""

import asyncio
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import anyio

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.errors import Conflict
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.jsonl.store import JsonlStore
from tests.storage.writing import (
    T0,
    StepClock,
    Writer,
    committed,
    complete,
    everything,
    message,
    run_start,
    token,
)


def made(user_id: str, title: str | None, **more: Any) -> dict[str, Any]:
    return {"type": "session_created", "user_id": user_id, "title": title, **more}


def changed(to: str) -> dict[str, Any]:
    return {"type": "state_change", "from": "idle", "to": to}


async def fill(store: JsonlStore) -> dict[str, Writer]:
    epoch = store.next_epoch()
    by_name: dict[str, Writer] = {}

    async def say(name: str, *drafts: dict[str, Any], **options: Any) -> None:
        writer = by_name.setdefault(name, Writer(name, epoch))
        await committed(store, writer.commit(*drafts, **options))

    await say("plain", made("ann", "Plain ß"), message("m1", "an apple"), note="k1")
    await say("plain", message("m2", "京都 and pears"))
    await say("Deltas", made("bob", None))
    await say("Deltas", run_start("run_1"), *[token(f"t{number}") for number in range(40)])
    await say("Deltas", message("m1", "t-all"), complete("run_1"))
    await say("archived", made("ann", "Archived"), message("m1", "old apple"))
    await say("archived", changed("archived"))
    await store.pack("archived", epoch)
    above = {"session_id": "plain", "seq": 2}
    forked = made("ann", "Fork", parent={"session_id": "plain"}, ancestors=[above])
    await say("fork", forked, message("m1", "an apple"))
    await say("shared", made("bob", "Shared"), message("m1", "for ann"))
    given = {"id": "shr_1", "user_id": "ann", "created_at": format_ms(T0)}
    share = {"type": "session_shared", "share": given}
    await say("shared", share)
    said = (message("m1", "first"), message("m2", "second"), message("m3", "third"))
    await say("damaged", made("ann", "Damaged"), *said)
    await say("closed", made("bob", "Closed"), changed("closed"))
    await say("gone", made("ann", "Gone"), message("m1", "gone"))
    await store.delete("gone", epoch)
    await store.release("plain")
    return by_name


async def shown(store: SessionStore, names: list[str]) -> dict[str, Any]:
    """Return what the sessions show."""
    sessions: dict[str, Any] = {}
    for name in names:
        head = await store.load(name)
        assert head is not None
        bodies = [record.body for record in await everything(store, name)]
        sessions[name] = {
            "epoch": head.epoch,
            "seq": head.seq,
            "title": head.title,
            "user_id": head.user_id,
            "events": len(bodies),
            "bodies": hashlib.sha256(b"\n".join(bodies)).hexdigest(),
        }
    return sessions


async def main(root: Path, shows: Path) -> None:
    store = JsonlStore(root, StepClock())
    await store.open()
    writers = await fill(store)
    assert await store.checkpoint()
    await store.aclose()
    log = root / "events" / "damaged.jsonl"
    damaged = (await anyio.Path(log).read_bytes()).replace(b"second", b"SECond")
    await anyio.Path(log).write_bytes(damaged)
    store = JsonlStore(root, StepClock())
    await store.open()
    head = await store.load("damaged")
    assert head is not None
    try:
        await store.read("damaged", head.epoch, 0, limit=100, max_bytes=1 << 20)
    except Conflict:
        print("repaired")
    assert await store.checkpoint()
    # The journal alone has what follows.
    await committed(store, writers["plain"].commit(message("m3", "after the checkpoint")))
    open_run = Writer("unfinished", writers["plain"].head.epoch)
    await committed(store, open_run.commit(made("ann", "Unfinished"), message("m1", "ask")))
    await committed(store, open_run.commit(run_start("run_9"), token("half")))
    names = sorted([*writers.keys() - {"gone"}, "unfinished"])
    text = codec.encode(await shown(store, names)) + b"\n"
    await anyio.Path(shows).write_bytes(text)
    # As by a kill.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
