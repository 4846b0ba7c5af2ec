"""e. History: what grows with what is stored. Each at three sizes; the ratio is largest / smallest.

* The first byte of a replay: a new connection's `GET /stream/ID?after=POSITION`, positions spread
  over the log, until the first event's first byte (the `open` frame before it does not count), with
  logs of 10 MB to 1 GB.
* `GET /sessions/ID/messages?order=desc&limit=50` with 1000 to 100,000 messages in the session.
* A page of 50 of `GET /sessions` by filters, with 1000 to 100,000 sessions, of which each user has
  50: by user; by state; by a title that a third have, spread evenly, with and without `total`.
* Cold start with logs of 10 MB to 1 GB: from `exec` to the first answer. The files' pages are
  dropped from the page cache before (`posix_fadvise`). Interpreter and imports are in it; the note
  says what an empty directory takes. `start.py` has the start with many sessions.

The data are made below HTTP, with `durability=os`, through the same writers that HTTP uses. There
is no peer: the hand-written way has no history. Servers of all sizes stand side by side.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from benchmarks.harness import Bench, Row, Server, median

TITLE = "History: does it grow?"
_ROOT = Path(__file__).parent.parent
_SESSION = "s-1"
_FLAT = "<= 1.3"
_START_SECONDS = 2.0
_PER_USER = 50


def run(bench: Bench) -> list[Row]:
    """Builds each data set, then measures; the memory store has nothing to start from."""
    if bench.storage == "memory:":
        return []
    rows = []
    megabytes = bench.pick((10, 100, 1000), (2, 20, 100), (1,))
    messages = bench.pick((1000, 10_000, 100_000), (1000, 5000, 20_000), (60,))
    sessions = bench.pick((1000, 10_000, 100_000), (1000, 5000, 20_000), (60,))
    with built(bench, "log", megabytes) as directories:
        with _servers(bench, directories) as servers:
            rows.append(_replays(bench, servers))
        if bench.size != "smoke":
            rows.append(_start(bench, directories))
    with built(bench, "messages", messages) as directories, _servers(bench, directories) as servers:
        rows.append(_last_messages(bench, servers))
    with built(bench, "sessions", sessions) as directories, _servers(bench, directories) as servers:
        rows += _lists(bench, servers)
    return rows


@contextlib.contextmanager
def _servers(bench: Bench, directories: dict[int, Path]) -> Iterator[dict[int, Server]]:
    """Run a gateway on each directory, by size."""
    with ExitStack() as stack:
        yield {
            size: stack.enter_context(bench.server("gateway", directory))
            for size, directory in directories.items()
        }


def _replays(bench: Bench, servers: dict[int, Server]) -> Row:
    def measure(server: Server, number: int) -> float:
        position = server.call("GET", f"/api/v1/sessions/{_SESSION}")["position"]
        epoch, _, last = position.partition("-")
        # Spread by the golden ratio: no two rounds begin at the same place.
        seq = int(int(last) * ((number + 1) * 0.618 % 0.98))
        return first_event_seconds(server.port, f"/api/v1/stream/{_SESSION}?after={epoch}-{seq}")

    case = "replay from a position, {} MB log: first event"
    return _growth(servers, case, measure, bench.pick(40, 20, 3))


def first_event_seconds(port: int, path: str) -> float:
    """Times a stream from the request's sending to the first byte of an event of the log."""
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received = b""
        started = time.perf_counter()
        sock.sendall(head)
        while b'"seq":' not in received:
            data = sock.recv(4096)
            if not data:
                raise RuntimeError(f"the stream {path} ended: {received[:500]!r}")
            received += data
        return time.perf_counter() - started


def _last_messages(bench: Bench, servers: dict[int, Server]) -> Row:
    path = f"/api/v1/sessions/{_SESSION}/messages?order=desc&limit=50"
    measure = partial(_timed, path, "messages", 50)
    return _growth(servers, "last 50 of {} messages", measure, bench.pick(100, 50, 3))


def _lists(bench: Bench, servers: dict[int, Server]) -> list[Row]:
    filters = {
        "user_id": "user_id=u-0",
        "state": "state=idle",
        "title_contains, count=false": "title_contains=7&count=false",
        "title_contains": "title_contains=7",
    }
    rows = []
    for name, text in filters.items():
        path = f"/api/v1/sessions?{text}&limit={_PER_USER}"
        measure = partial(_timed, path, "sessions", 5)
        case = f"list page by {name}, {{}} sessions"
        row = _growth(servers, case, measure, bench.pick(30, 20, 3))
        if name == "title_contains":
            row.goal = None
        rows.append(row)
    return rows


def _timed(path: str, what: str, least: int, server: Server, _: int) -> float:
    started = time.perf_counter()
    answer = server.call("GET", path)
    elapsed = time.perf_counter() - started
    if len(answer[what]) < least:
        raise RuntimeError(f"{path}: only {len(answer[what])} {what}")
    return elapsed


def _growth(
    servers: dict[int, Server], case: str, measure: Callable[[Server, int], float], count: int
) -> Row:
    """Measures the same on every size in turns."""
    found: dict[int, list[float]] = {size: [] for size in servers}
    for server in servers.values():
        for number in range(3):
            measure(server, number)
    for number in range(count):
        for size, server in servers.items():
            found[size].append(measure(server, number) * 1000)
    medians = {size: median(values) for size, values in found.items()}
    smallest, largest = min(medians), max(medians)
    return Row(
        case.format(f"{smallest:,} to {largest:,}"),
        "ms",
        medians[largest],
        ratio=medians[largest] / medians[smallest],
        of="largest / smallest",
        goal=_FLAT,
        runs=count,
        notes=["ms: " + ", ".join(f"{size:,}: {value:.2f}" for size, value in medians.items())],
    )


def _start(bench: Bench, directories: dict[int, Path]) -> Row:
    runs = bench.pick(5, 3, 1)
    found: dict[int, list[float]] = {size: [] for size in directories}
    empty: list[float] = []
    for _ in range(runs):
        empty.append(_start_seconds(bench, None))
        for size, directory in directories.items():
            found[size].append(_start_seconds(bench, directory))
    medians = {size: median(values) for size, values in found.items()}
    smallest, largest = min(medians), max(medians)
    each = ", ".join(f"{size:,}: {value:.2f}" for size, value in medians.items())
    return Row(
        f"cold start, {largest:,} MB in one log",
        "s",
        medians[largest],
        ratio=medians[largest] / medians[smallest],
        of="largest / smallest",
        goal=f"<= {_START_SECONDS}",
        goal_is_absolute=True,
        runs=runs,
        notes=[f"s: {each}; an empty directory: {median(empty):.2f}"],
    )


def _start_seconds(bench: Bench, directory: Path | None) -> float:
    if directory is not None:
        drop_pages(directory)
    started = time.perf_counter()
    with bench.server("gateway", directory) as server:
        server.call("GET", "/health/ready")
        return time.perf_counter() - started


def drop_pages(directory: Path) -> None:
    """Take a directory's files out of the page cache."""
    if not hasattr(os, "posix_fadvise"):
        return
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                file = os.open(os.path.join(folder, name), os.O_RDONLY)  # noqa: PTH118
                try:
                    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(file)


@contextlib.contextmanager
def built(bench: Bench, what: str, sizes: tuple[int, ...]) -> Iterator[dict[int, Path]]:
    """Make a data directory for each size; yield them by size, and remove them."""
    directories = {size: bench.directory / f"{what}-{size}" for size in sizes}
    for size, directory in directories.items():
        started = time.monotonic()
        config = {
            "what": what,
            "size": size,
            "data_dir": str(directory),
            "storage_url": bench.storage,
        }
        subprocess.run(
            [sys.executable, "-m", "benchmarks.history", json.dumps(config)], check=True, cwd=_ROOT
        )
        took = time.monotonic() - started
        if took > 1:
            bench.say(f"  made {what} {size:,} in {took:.0f} s")
    try:
        yield directories
    finally:
        for directory in directories.values():
            shutil.rmtree(directory, ignore_errors=True)


async def _build(config: dict[str, Any]) -> None:
    """The child that makes one data set, through the sessions' own writers."""
    from bamboo_gateway.domain.clock import SystemClock
    from bamboo_gateway.settings import load_settings
    from bamboo_gateway.storage.factory import make_store

    settings = load_settings(
        data_dir=config["data_dir"], storage_url=config["storage_url"], durability="os"
    )
    clock = SystemClock()
    store = make_store(settings, clock)
    await store.open()
    size: int = config["size"]
    what: str = config["what"]
    match what:
        case "log":
            live = await _new_session(store, clock, 1)
            draft = _event(1000)
            for _ in range(size):
                await live.commit([draft] * 900)  # about a megabyte
        case "messages":
            live = await _new_session(store, clock, 1)
            for first in range(0, size, 500):
                await live.commit([_message(n) for n in range(first, min(size, first + 500))])
        case _:
            async with anyio.create_task_group() as group:
                for worker in range(64):
                    group.start_soon(_make_sessions, store, clock, range(worker, size, 64))
    await store.aclose()


async def _make_sessions(store: Any, clock: Any, numbers: range) -> None:
    for number in numbers:
        await _new_session(store, clock, number)


async def _new_session(store: Any, clock: Any, number: int) -> Any:
    from bamboo_gateway.domain.sessions import SessionHead
    from bamboo_gateway.sessions.commands import NewSession
    from bamboo_gateway.sessions.idempotency import KeyCount, KeyLedger
    from bamboo_gateway.sessions.metrics import Tally
    from bamboo_gateway.sessions.runs.factory import created_draft
    from bamboo_gateway.sessions.streaming.channel import Channel
    from bamboo_gateway.sessions.streaming.session_writer import SessionWriter

    session_id = f"s-{number}"
    head = SessionHead(session_id, store.next_epoch())
    live = SessionWriter(
        head,
        Channel(head, {}, lambda _: None),
        store,
        clock,
        Tally(()),
        exists=False,
        max_event_bytes=1 << 20,
        keys=KeyLedger(100, 1 << 20, KeyCount()),
    )
    title, user = f"A chat with number {number}", f"u-{number // _PER_USER}"
    await live.commit([created_draft(NewSession(session_id, user_id=user, title=title), None)])
    return live


def _event(size: int) -> Any:
    from bamboo_gateway.domain.events import Draft

    return Draft("custom", {"name": "reading", "value": "x" * size})


def _message(number: int) -> Any:
    from bamboo_gateway.domain.message_assembler import message_draft
    from bamboo_gateway.domain.messages import Message

    return message_draft(
        Message(
            id=f"msg_{number:08}",
            role="user",
            content=f"Message {number}: the quick brown fox jumps over the lazy dog. " * 4,
            created_at="2026-11-20T17:25:00.123Z",
        )
    )


if __name__ == "__main__":
    anyio.run(_build, json.loads(sys.argv[1]))
