"""c. Durable append: through HTTP, and below it.

Through HTTP: `POST /sessions/{id}/events` with single events, arrays of 100 and NDJSON of 1000
lines, from 1, 16 and 64 connections, each to a session of its own; events/s acknowledged. The
gateway's are on the disk; the hand-written way keeps them in a list (NDJSON not at all); the bare
limit is the group commit below, with as many writers that each give the same lines at once, and no
HTTP at all. Single events are judged by the hand-written way's rate, all others by the limit.

Below HTTP: as many writers as sessions, each giving its next commit when the one before is
acknowledged, to `store.append` and to a bare group commit (one thread, one write and fdatasync for
all that waits) with the same bytes; commits/s of one line, and of 100 lines. Both run in processes
of their own, side by side on the same core and disk.
"""

import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Bench, Row, Server, client_notes, median, median_ratio, three
from benchmarks.launch import isolate
from benchmarks.loadclient import request
from benchmarks.peers.group_commit import FILE_BYTES, GroupCommit

if TYPE_CHECKING:
    from bamboo_gateway.storage.commits import Event

TITLE = "Durable append, in events/s"
_NAMES = ("gateway", "handwritten")
_SINGLE_CONNECTIONS = 200
_EVENT = {"type": "custom", "name": "reading", "value": {"text": "the quick brown fox jumps"}}


def run(bench: Bench) -> list[Row]:
    """Measures through HTTP, then below."""
    rows = _through_http(bench)
    if bench.storage.startswith("jsonl:"):
        for lines in bench.pick((1, 100), (1, 100), (100,)):
            for writers in bench.pick((1, 64, 512), (1, 64), (8,)):
                rows.append(_below_http(bench, writers, lines))
    return rows


def _through_http(bench: Bench) -> list[Row]:
    one = json.dumps(_EVENT).encode()
    many = json.dumps([_EVENT] * 100).encode()
    kinds: dict[str, tuple[bytes, int, str]] = {
        "single events": (one, 1, "application/json"),
        "arrays of 100": (many, 100, "application/json"),
        "NDJSON, 1000 lines": ((one + b"\n") * 1000, 1000, "application/x-ndjson"),
    }
    with bench.servers(*_NAMES) as servers:
        most = bench.pick(_SINGLE_CONNECTIONS, _SINGLE_CONNECTIONS, 4)
        for server in servers:
            for number in range(most):
                server.call("POST", "/api/v1/sessions", {"id": f"append-{number}"})
        return [
            _posted(bench, servers, connections, kind, *sent)
            for kind, sent in kinds.items()
            for connections in _connections(bench, single=sent[1] == 1)
        ]


def _connections(bench: Bench, *, single: bool) -> tuple[int, ...]:
    more = (_SINGLE_CONNECTIONS,) if single else ()
    counts: tuple[int, ...] = bench.pick((1, 16, 64, *more), (1, *(more or (64,))), (4,))
    return counts


def _posted(
    bench: Bench,
    servers: list[Server],
    connections: int,
    kind: str,
    body: bytes,
    events: int,
    content_type: str,
) -> Row:
    """Measures one kind of request, the servers and the bare writers alternating."""
    seconds = bench.pick(1.5, 0.7, 0.2)
    requests = [
        request("POST", f"/api/v1/sessions/append-{n}/events", body, content_type)
        for n in range(connections)
    ]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in _NAMES}
    bare: list[float] = []
    with _child(bench, "raw", connections, events, "posted") as raw:
        for _ in range(bench.runs):
            for server in servers:
                found[server.name].append(bench.load(server, requests, connections, seconds))
            bare.append(_ask(raw, seconds) * events)
    rates = {n: [a["answers"] * events / a["elapsed"] for a in found[n]] for n in _NAMES}
    p50 = ", ".join(f"{n} {median(a['p50_ms'] for a in found[n]):.2f}" for n in _NAMES)
    beside = median_ratio(rates["gateway"], rates["handwritten"])
    below = median_ratio(bare, rates["gateway"])
    return Row(
        f"HTTP, {kind}, {connections} connections",
        "events/s",
        *three({**rates, "raw": bare}),
        ratio=beside if events == 1 else below,
        of="single events through HTTP: gateway / hand-written, not durable"
        if events == 1
        else "many events through HTTP: raw group commit / gateway",
        goal=">= 0.7" if connections == _SINGLE_CONNECTIONS else None,
        runs=bench.runs,
        notes=[
            f"p50 ms: {p50}",
            f"gateway / hand-written: {beside:.2f}; raw / gateway: {below:.2f}",
            *(note for n in _NAMES for note in client_notes(found[n], n)),
        ],
    )


def _below_http(bench: Bench, writers: int, lines: int) -> Row:
    """Run both in children that take turns."""
    seconds = bench.pick(1.5, 0.7, 0.2)
    rates: dict[str, list[float]] = {"store": [], "raw": []}
    with ExitStack() as stack:
        children = {
            name: stack.enter_context(_child(bench, name, writers, lines, "spoken"))
            for name in rates
        }
        for _ in range(bench.runs):
            for name, child in children.items():
                rates[name].append(_ask(child, seconds) * lines)
    what = "1 line" if lines == 1 else f"{lines} lines"
    return Row(
        f"store.append, {writers} writers, {what} each",
        "events/s",
        median(rates["store"]),
        limit=median(rates["raw"]),
        ratio=median_ratio(rates["raw"], rates["store"]),
        of="below: raw group commit / store",
        goal="<= 2.0",
        runs=bench.runs,
    )


@contextmanager
def _child(
    bench: Bench, name: str, writers: int, lines: int, line: str
) -> Iterator[subprocess.Popen[str]]:
    config = {
        "what": name,
        "core": bench.server_core,
        "writers": writers,
        "lines": lines,
        "line": line,
        "directory": str(bench.directory / f"{line}-{name}-{writers}-{lines}"),
        "storage": bench.storage,
        "journal_bytes": bench.pick(FILE_BYTES, FILE_BYTES, 1 << 20),
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.append", json.dumps(config)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    try:
        yield child
    finally:
        assert child.stdin is not None
        child.stdin.close()
        child.wait(60)
        if child.stdout is not None:
            child.stdout.close()


def _ask(child: subprocess.Popen[str], seconds: float) -> float:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(f"{seconds}\n")
    child.stdin.flush()
    return float(child.stdout.readline())


Append = Callable[[int, Callable[[Any], None]], None]


async def _serve_child(config: dict[str, Any]) -> None:
    """The child: for each line on stdin runs the writers for so long and prints commits/s."""
    directory = Path(config["directory"])
    loop = asyncio.get_running_loop()
    line = _LINES[config["line"]]
    if config["what"] == "raw":
        raw = GroupCommit(directory / "journal", loop, config["journal_bytes"])
        lines = itertools.count(1, config["lines"])

        def append_raw(_: int, done: Callable[[Any], None]) -> None:
            raw.append(_stored_lines(line, config["lines"], next(lines)), done)

        await _take_orders(append_raw, config["writers"])
        raw.close()
        return
    from bamboo_gateway.domain.clock import SystemClock
    from bamboo_gateway.domain.sessions import SessionHead
    from bamboo_gateway.settings import load_settings
    from bamboo_gateway.storage.commits import Commit
    from bamboo_gateway.storage.factory import make_store

    settings = load_settings(storage_url=config["storage"], data_dir=directory)
    store = make_store(settings, SystemClock())
    await store.open()
    seqs = [0] * config["writers"]
    epochs = [store.next_epoch() for _ in seqs]
    count = config["lines"]

    def append(writer: int, done: Callable[[Any], None]) -> None:
        first = seqs[writer] + 1
        seqs[writer] += count
        session = f"below-{writer}"
        head = SessionHead(session, epochs[writer], seqs[writer]) if first == 1 else None
        store.append(
            Commit(
                session_id=session,
                epoch=epochs[writer],
                first_seq=first,
                events=_events(line, count, first),
                head=head,
                time_ms=1_763_661_234_567,
                create=first == 1,
            ),
            done,
        )

    await _take_orders(append, config["writers"])
    await store.aclose()


_SPOKEN = b'{"crc":"9ae0daaf","type":"token","seq":%d,"time":"2026-11-20T17:25:00.123Z",\
"run_id":"run_01m7xqahcqcdjp21k83wd3pfr8","message_id":"msg_01m7xqahcr486gwt0apk81yp4d",\
"content":"the quick brown fox jumps"}\n'


_POSTED = b'{"crc":"9ae0daaf","type":"custom","seq":%d,"time":"2026-11-20T17:25:00.123Z",\
"name":"reading","value":{"text":"the quick brown fox jumps"}}\n'

_LINES = {"spoken": _SPOKEN, "posted": _POSTED}


def _stored_lines(line: bytes, count: int, first: int) -> bytes:
    """Lines as the session's writer would give them, at the same small cost to both."""
    return b"".join([line % seq for seq in range(first, first + count)])


def _events(line: bytes, count: int, first: int) -> "list[Event]":
    """Events as the session's writer would give them: of these the store makes the same lines."""
    from bamboo_gateway.storage.commits import Event

    body = b"{" + line[line.index(b'"type"') : -1]
    kind = body[9 : body.index(b'"', 9)].decode()
    return [Event(seq, kind, body % seq) for seq in range(first, first + count)]


async def _take_orders(append: Append, writers: int) -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        seconds = float(line)
        await _write(append, writers, seconds * 0.2)
        rate = await _write(append, writers, seconds)
        sys.stdout.write(f"{rate}\n")
        sys.stdout.flush()


async def _write(append: Append, writers: int, seconds: float) -> float:
    """Keep each writer's one commit on its way for a time; return commits/s."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    commits, flying = 0, 0
    started = time.monotonic()
    until = started + seconds

    def begin(writer: int) -> None:
        nonlocal flying

        def done(error: Any) -> None:
            nonlocal commits, flying
            flying -= 1
            if error is not None:
                if not ended.done():
                    ended.set_exception(RuntimeError(str(error)))
                return
            commits += 1
            if time.monotonic() < until:
                begin(writer)
            elif not flying and not ended.done():
                ended.set_result(None)

        flying += 1
        append(writer, done)

    for writer in range(writers):
        begin(writer)
    await ended
    return commits / (time.monotonic() - started)


def _main(arguments: Sequence[str]) -> None:
    import uvloop

    config = json.loads(arguments[1])
    isolate(config["core"])
    Path(config["directory"]).mkdir(mode=0o700)
    uvloop.run(_serve_child(config))


if __name__ == "__main__":
    _main(sys.argv)
