"""k. Stores: appends beside a bare batched insert, one session's commits, reads as a log grows.

*Appends*: as many writers as sessions, each giving its next commit of one line when the one before
is acknowledged, to `store.append` and to a bare insert of the same lines: one thread, one
transaction for all that waits, the same driver, nothing else. *One session*: the time of a commit,
through the event loop and the store's thread, beside that of a bare transaction of the same line.
Both take turns in one process, on the same disk, synced. *Reads*: a page in the middle of a log,
its last messages, and its head, with 1,000 events and with as many as the size allows.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.append import _SPOKEN, Append, _events, _write
from benchmarks.harness import Bench, Row, median, median_ratio
from benchmarks.launch import isolate

TITLE = "Stores beside a bare insert, and as logs grow"
_TIME_MS = 1_763_661_234_567


def run(bench: Bench) -> list[Row]:
    """Measure the store that `--storage` names."""
    config = {
        "core": bench.server_core,
        "directory": str(bench.directory / "stores"),
        "storage": bench.storage,
        "seconds": bench.pick(2.0, 1.0, 0.2),
        "rounds": bench.runs,
        "writers": bench.pick([64, 512], [64, 512], [8]),
        "commits": bench.pick(400, 200, 20),
        "sizes": bench.pick([1000, 1_000_000], [1000, 100_000], [100, 1000]),
        "reads": bench.pick(200, 100, 10),
    }
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.stores", json.dumps(config)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    # The last line: the store may log before it.
    found = json.loads(child.stdout.splitlines()[-1])
    rows = [
        Row(
            f"{bench.storage} appends, {writers} writers",
            "events/s",
            median(rates["store"]),
            limit=median(rates["bare"]) if rates["bare"] else None,
            ratio=median_ratio(rates["store"], rates["bare"]) if rates["bare"] else None,
            of="appends: store / bare insert",
            goal=">= 0.5" if rates["bare"] else None,
            runs=bench.runs,
        )
        for writers, rates in found["appends"].items()
    ]
    one = found["one"]
    rows.append(
        Row(
            f"{bench.storage} one session's commit, p50",
            "ms",
            one["store"],
            limit=one["bare"],
            ratio=one["store"] / one["bare"] if one["bare"] else None,
            of="commit: store / bare transaction",
            goal="<= 2.0" if one["bare"] else None,
            runs=bench.runs,
        )
    )
    small, large = config["sizes"]
    for what, (few, many) in found["reads"].items():
        rows.append(
            Row(
                f"{bench.storage} {what}, {large:,} events",
                "ms",
                many,
                limit=few,
                ratio=many / few,
                of=f"reads: with {large:,} events / with {small:,}",
                goal="<= 2.0",
                runs=bench.runs,
            )
        )
    return rows


async def _measure(config: dict[str, Any]) -> dict[str, Any]:
    from bamboo_gateway.domain.clock import SystemClock
    from bamboo_gateway.settings import load_settings
    from bamboo_gateway.storage.factory import make_store

    directory = Path(config["directory"])
    settings = load_settings(storage_url=config["storage"], data_dir=directory)
    store = make_store(settings, SystemClock())
    await store.open()
    try:
        return {
            "appends": {
                str(writers): await _appends(store, config, writers)
                for writers in config["writers"]
            },
            "one": await _one(store, config),
            "reads": await _reads(store, config),
        }
    finally:
        await store.aclose()


async def _appends(store: Any, config: dict[str, Any], writers: int) -> dict[str, list[float]]:
    """Let the store and the bare insert take turns."""
    appends = {"store": _to_store(store, f"appends-{writers}", writers)}
    close: Callable[[], None] | None = None
    bare = _bare(config, writers)
    if bare is not None:
        seqs = [0] * writers

        def append(writer: int, done: Callable[[Any], None]) -> None:
            seqs[writer] += 1
            [(seq, _, body)] = _events(_SPOKEN, 1, seqs[writer])
            bare.append([(writer, seq, body)], done)

        appends["bare"] = append
        close = bare.close
    rates: dict[str, list[float]] = {"store": [], "bare": []}
    for append_to in appends.values():
        await _write(append_to, writers, config["seconds"] * 0.3)
    for _ in range(config["rounds"]):
        for name, append_to in appends.items():
            rates[name].append(await _write(append_to, writers, config["seconds"]))
    if close is not None:
        close()
    return rates


def _bare(config: dict[str, Any], writers: int) -> Any:
    """Make the bare insert of the same driver; None for stores without a database."""
    if config["storage"].startswith("sqlite:"):
        from benchmarks.peers.bare_sqlite import BareSqlite

        path = Path(config["directory"]) / f"bare-{writers}.db"
        return BareSqlite(path, asyncio.get_running_loop())
    if config["storage"].startswith("postgres"):
        from benchmarks.peers.bare_postgres import BarePostgres

        return BarePostgres(config["storage"], asyncio.get_running_loop())
    return None


def _to_store(store: Any, name: str, writers: int) -> Append:
    from bamboo_gateway.domain.sessions import SessionHead
    from bamboo_gateway.storage.commits import Commit

    seqs = [0] * writers
    epochs = [store.next_epoch() for _ in seqs]

    def append(writer: int, done: Callable[[Any], None]) -> None:
        first = seqs[writer] + 1
        seqs[writer] = first
        session = f"{name}-{writer}"
        head = SessionHead(session, epochs[writer], first) if first == 1 else None
        events = _events(_SPOKEN, 1, first)
        create = first == 1
        commit = Commit(session, epochs[writer], first, events, (), head, _TIME_MS, create)
        store.append(commit, done)

    return append


async def _one(store: Any, config: dict[str, Any]) -> dict[str, float]:
    """Time commits of one session, each after the one before; alternate with bare ones."""
    append = _to_store(store, "one", 1)
    from benchmarks.peers import bare_postgres, bare_sqlite

    found: dict[str, list[float]] = {"store": [], "bare": []}
    bodies = [body for _, _, body in _events(_SPOKEN, config["commits"], 1)]
    connection: Any = None
    commit_seconds: Callable[[Any, int, list[bytes]], list[float]] = bare_sqlite.commit_seconds
    if config["storage"].startswith("sqlite:"):
        connection = bare_sqlite.opened(Path(config["directory"]) / "bare-one.db")
    elif config["storage"].startswith("postgres"):
        connection = bare_postgres.opened(config["storage"])
        commit_seconds = bare_postgres.commit_seconds
    for round_ in range(config["rounds"]):
        for _ in range(config["commits"]):
            started = time.perf_counter()
            answered = asyncio.get_running_loop().create_future()
            append(0, answered.set_result)
            error = await answered
            if error is not None:
                raise error
            found["store"].append(time.perf_counter() - started)
        if connection is not None:
            found["bare"] += commit_seconds(connection, round_, bodies)
    if connection is not None:
        connection.close()
    return {name: median(times) * 1000 if times else 0 for name, times in found.items()}


async def _reads(store: Any, config: dict[str, Any]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for size in config["sizes"]:
        session_id, epoch = f"reads-{size}", store.next_epoch()
        await _fill(store, session_id, epoch, size)
        middle = size // 2
        read, find = store.read, partial(store.find, session_id, epoch, "message")
        page = {"limit": 100, "max_bytes": 1 << 20}
        reads: dict[str, Callable[[], Any]] = {
            "page of 100": partial(read, session_id, epoch, middle, **page),
            "replay of the last 100": partial(read, session_id, epoch, size - 100, **page),
            "last 50 messages": partial(find, limit=50, reverse=True),
            "message by id": partial(find, key=f"m{middle // 10 * 10}"),
            "head": partial(store.load, session_id),
        }
        for what, call in reads.items():
            times = []
            for _ in range(config["reads"]):
                started = time.perf_counter()
                await call()
                times.append(time.perf_counter() - started)
            found.setdefault(what, []).append(median(times) * 1000)
    return found


async def _fill(store: Any, session_id: str, epoch: int, size: int) -> None:
    """Create a session of which each tenth event is a message."""
    from bamboo_gateway.domain.sessions import SessionHead
    from bamboo_gateway.storage.commits import Event

    async with store.creation(session_id, epoch) as creation:
        for start in range(1, size + 1, 5000):
            events = []
            for seq in range(start, min(start + 5000, size + 1)):
                if seq % 10:
                    events += _events(_SPOKEN, 1, seq)
                    continue
                body = (
                    b'{"type":"message","seq":%d,"time":"2026-11-20T17:25:00.123Z","message_id":'
                    b'"m%d","message":{"id":"m%d","role":"user","content":"hello",'
                    b'"created_at":"2026-11-20T17:25:00.123Z"}}'
                ) % (seq, seq, seq)
                events.append(Event(seq, "message", body))
            await creation.write(events)
        await creation.publish(SessionHead(session_id, epoch, size))


def _main(arguments: Sequence[str]) -> None:
    import uvloop

    config = json.loads(arguments[1])
    isolate(config["core"])
    Path(config["directory"]).mkdir(mode=0o700)
    sys.stdout.write(json.dumps(uvloop.run(_measure(config))) + "\n")


if __name__ == "__main__":
    _main(sys.argv)
