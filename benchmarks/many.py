"""b. Many: 1 to 1000 sessions, each with one reader and a producer that keeps a pace.

Producers run inside the servers, all on one timer. Latency is from the moment a word was planned to
the reader's `recv`, so falling behind counts. A word counts when its text arrives, in whatever
event. The gateway syncs every event before delivery; the peers keep nothing.

* p50 and p99 at 50 words/s a session, gateway : hand-written : raw sockets.
* Capacity: the highest rate of 1000 sessions together that one core sustains with p99 under 50 ms
  and nothing left behind, found by bisection over steps of 8 % (`--quick`: 26 %); a failed step is
  tried once more.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.harness import Bench, Row, Server, client_notes, median, median_ratio, three
from benchmarks.loadclient import Readers, request

TITLE = "Many sessions: producer to reader, and what one core sustains"
_NAMES = ("gateway", "handwritten", "raw_sockets")
_RATE = 50.0
_P99_MS_MAX = 50.0
_STEP, _STEPS_MAX = 1.08, 52
"""From 2 words/s a session to 110."""
_P99_GOAL = (200, "<= 1.5")
_SETUP_CONNECTIONS = 32


def run(bench: Bench) -> list[Row]:
    """Measures latencies at each number of sessions, then the capacity."""
    sizes = bench.pick((1, 100, 200, 500, 1000), (200,), (10,))
    rows = [_latency(bench, sessions) for sessions in sizes]
    if bench.size != "smoke":
        rows.append(_capacity(bench, 1000))
    return rows


def _latency(bench: Bench, sessions: int) -> Row:
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in _NAMES}
    runs = bench.pick(5, 2, 1)
    with bench.servers(*_NAMES) as servers, ExitStack() as stack:
        streams = [stack.enter_context(_open(bench, server, sessions)) for server in servers]
        for _ in range(runs):
            for server, readers in zip(servers, streams, strict=True):
                found[server.name].append(_play(bench, server, readers, _RATE))
    p99 = {name: [answer["p99_ms"] for answer in found[name]] for name in _NAMES}
    p50 = ", ".join(f"{name} {median(a['p50_ms'] for a in found[name]):.2f}" for name in _NAMES)
    cpu = ", ".join(f"{name} {median(a['server'] for a in found[name]):.0%}" for name in _NAMES)
    notes = [note for name in _NAMES for note in client_notes(found[name], name)]
    for name in _NAMES:
        share = median(answer["share"] for answer in found[name])
        if share < 0.98:
            notes.append(f"{name} delivered only {share:.0%} of what was planned")
    return Row(
        f"{sessions} sessions x {_RATE:.0f}/s: p99",
        "ms",
        *three(p99),
        ratio=median_ratio(p99["gateway"], p99["handwritten"]),
        of="gateway / hand-written",
        goal=_P99_GOAL[1] if sessions == _P99_GOAL[0] else None,
        runs=runs,
        notes=[f"p50 ms: {p50}", f"core: {cpu}", *notes],
    )


def _capacity(bench: Bench, sessions: int) -> Row:
    """Find each server's highest rate; `--quick` has no time for the bare limit."""
    names = _NAMES if bench.size == "full" else _NAMES[:2]
    rates: dict[str, list[float]] = {name: [] for name in names}
    answers: list[dict[str, Any]] = []
    runs = bench.pick(3, 1, 1)
    for _ in range(runs):
        for name in names:
            with bench.server(name) as server, _open(bench, server, sessions) as readers:
                best = _highest(bench, server, readers)
            rates[name].append(best["words"] / best["elapsed"])
            answers.append(best)
    medians = {name: median(found) for name, found in rates.items()}
    return Row(
        f"{sessions} sessions: highest rate with p99 < {_P99_MS_MAX:.0f} ms",
        "words/s",
        medians["gateway"],
        medians["handwritten"],
        medians.get("raw_sockets"),
        ratio=median_ratio(rates["gateway"], rates["handwritten"]),
        of="gateway / hand-written",
        goal=">= 1.5",
        runs=runs,
        notes=client_notes(answers),
    )


def _highest(bench: Bench, server: Server, readers: Readers) -> dict[str, Any]:
    """Bisects; gives the answer of the highest rate that held."""
    step = bench.pick(1, 3, 1)
    low, high = 0, _STEPS_MAX // step
    best: dict[str, Any] = {"words": 0, "elapsed": 1.0, "cpu": 0.0}
    while low < high:
        middle = (low + high + 1) // 2
        rate = 2 * _STEP ** (middle * step)
        answer = _play(bench, server, readers, rate)
        if not _held(answer):
            answer = _play(bench, server, readers, rate)
        if _held(answer):
            low, best = middle, answer
        else:
            high = middle - 1
    return best


def _held(answer: dict[str, Any]) -> bool:
    return bool(answer["p99_ms"] < _P99_MS_MAX and answer["share"] >= 0.98)


@contextmanager
def _open(bench: Bench, server: Server, sessions: int) -> Iterator[Readers]:
    """Begin the producers, which wait for a pace, and open a stream to each."""
    chats = [
        {
            "session_id": f"many-{number}",
            "message": "go",
            "options": {"mode": "pace", "phase": number / sessions},
        }
        for number in range(sessions)
    ]
    posts = [request("POST", "/api/v1/chat", json.dumps(chat).encode()) for chat in chats]
    bench.load(server, posts, min(_SETUP_CONNECTIONS, sessions), 0)
    paths = [f"/api/v1/stream/many-{number}" for number in range(sessions)]
    with bench.readers(server, paths) as readers:
        yield readers
    server.end_pace()


def _play(bench: Bench, server: Server, readers: Readers, rate: float) -> dict[str, Any]:
    """Let every session speak at `rate`, and listen once all of them do."""
    warmup, seconds = bench.pick((0.7, 2.5), (0.3, 1.0), (0.1, 0.3))
    server.keep_pace(readers.count, rate, warmup + seconds + 0.3)
    before = server.stats()["cpu_seconds"]
    answer = readers.listen(warmup, seconds)
    answer["server"] = (server.stats()["cpu_seconds"] - before) / (warmup + seconds)
    answer["share"] = answer["words"] / (rate * readers.count * answer["elapsed"])
    server.wait_for(readers.count)
    # What is late is still on its way, and would count in the next round.
    readers.listen(0.0, 0.2)
    return answer
