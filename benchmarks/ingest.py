"""External runs: 200 programs stream the events of their runs as NDJSON, and each has a reader.

Each program POSTs one request whose lines come at a pace (`loadclient/feeders.c`); each reader has
a stream of that session. The lag is from the moment a line was planned to the reader's `recv`; the
CPU is all of the server's process, divided by the lines that were sent, from the first line until
every request is answered. The gateway's events are on the disk before they are shown or answered;
the hand-written way parses each line, gives it a number and a time, hands it to the reader, and
keeps nothing.
"""

import time
from contextlib import ExitStack
from typing import Any

from benchmarks.harness import Bench, Row, Server, client_notes, median, median_ratio
from benchmarks.loadclient import Feeders, Readers

TITLE = "External runs: streamed NDJSON, from the program to the reader"
_NAMES = ("gateway", "handwritten")
_RATE = 50.0
_CPU_GOAL, _LAG_GOAL = "<= 1.0", "<= 1.5"
_STAMP = "@" + "0" * 19 + "@"


def run(bench: Bench) -> list[Row]:
    """Measures both servers in turns."""
    feeders = bench.compiled("feeders")
    if feeders is None:
        bench.say("  left out: without a C compiler there is nobody to post")
        return []
    count = bench.pick(200, 200, 5)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in _NAMES}
    with bench.servers(*_NAMES) as servers, ExitStack() as stack:
        runs = {server.name: _open_runs(server, count) for server in servers}
        paths = [f"/api/v1/stream/ingest-{number}" for number in range(count)]
        readers = {
            server.name: stack.enter_context(bench.readers(server, paths)) for server in servers
        }
        for _ in range(bench.runs):
            for server in servers:
                answer = _play(bench, server, readers[server.name], feeders, runs[server.name])
                found[server.name].append(answer)
    return _rows(bench, count, found)


def _rows(bench: Bench, count: int, found: dict[str, list[dict[str, Any]]]) -> list[Row]:
    case = f"{count} streams x {_RATE:.0f} events/s"
    rows = []
    for what, unit, name, goal in (
        ("CPU an event", "us", "us", _CPU_GOAL),
        ("lag, p50", "ms", "p50_ms", _LAG_GOAL),
        ("lag, p99", "ms", "p99_ms", None),
    ):
        values = {server: [answer[name] for answer in found[server]] for server in _NAMES}
        rows.append(
            Row(
                f"{case}: {what}",
                unit,
                median(values["gateway"]),
                median(values["handwritten"]),
                ratio=median_ratio(values["gateway"], values["handwritten"]),
                of="gateway / hand-written",
                goal=goal if bench.size != "smoke" else None,
                runs=bench.runs,
            )
        )
    for server in _NAMES:
        rows[0].notes += client_notes(found[server], server)
        late = median(answer["missing"] for answer in found[server])
        if late > 0.02:
            rows[1].notes.append(f"{server}: {late:.0%} of the events came after the last was due")
    return rows


def _open_runs(server: Server, count: int) -> list[str]:
    runs = []
    for number in range(count):
        session = f"ingest-{number}"
        server.call("POST", "/api/v1/sessions", {"id": session})
        opened = server.call("POST", f"/api/v1/sessions/{session}/runs", {"agent": "external"})
        runs.append(opened["run_id"])
    return runs


def _play(
    bench: Bench, server: Server, readers: Readers, command: list[str], runs: list[str]
) -> dict[str, Any]:
    """Let every program speak for a while, and wait until all have their answers."""
    seconds = bench.pick(3.0, 2.0, 0.3)
    posts = [
        (
            f"/api/v1/sessions/ingest-{number}/events",
            f'{{"type":"token","run_id":"{run}","content":"{_STAMP} the quick brown fox "}}',
        )
        for number, run in enumerate(runs)
    ]
    start = time.monotonic_ns() + 300_000_000
    before = server.stats()["cpu_seconds"]
    with Feeders(command, server.port, _RATE, seconds, start, posts) as feeders:
        time.sleep(0.3)
        answer = readers.listen(0.0, seconds)
        posted = feeders.wait()
    answer["us"] = (server.stats()["cpu_seconds"] - before) / posted["sent"] * 1e6
    answer["missing"] = 1 - answer["words"] / posted["sent"]
    answer["cpu"] += posted["cpu"]
    # What is late is still on its way, and would count in the next round.
    readers.listen(0.0, 0.2)
    return answer
