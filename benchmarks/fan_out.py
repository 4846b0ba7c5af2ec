"""a. Fan-out: one session, 1 to 5000 readers, one event at a time and in bursts.

A closed loop: the load client asks the producer inside the server for a burst, waits until every
reader has all of it, and asks again. Compared are deliveries a second (events x readers / time),
gateway : hand-written : raw sockets, each with the same producer in the same process and loop.
The gateway's events are on the disk before they are delivered (one sync per burst, at least); the
others keep nothing. Latencies are from the producer's `yield` to the reader's `recv`.
"""

from typing import Any

from benchmarks.harness import Bench, Row, Server, client_notes, median, median_ratio, three

TITLE = "Fan-out: deliveries/s to all readers of one session"
_NAMES = ("gateway", "handwritten", "raw_sockets")
_BURST = 100
_MANY_READERS, _SMALL_BURST = 5000, 20
"""A hand-written server needs a quarter of a minute for a hundred events to each of so many."""
_GOALS = {(1000, 1): ">= 2.5", (1000, _BURST): ">= 15"}


def run(bench: Bench) -> list[Row]:
    """Measures each number of readers, the three servers alternating."""
    sizes = bench.pick((1, 100, 1000, 5000), (1, 100, 1000), (20,))
    with bench.servers(*_NAMES) as servers:
        return [
            _measure(bench, servers, readers, burst)
            for readers in sizes
            for burst in (1, _BURST if readers < _MANY_READERS else _SMALL_BURST)
        ]


def _measure(bench: Bench, servers: list[Server], readers: int, burst: int) -> Row:
    seconds = bench.pick(1.5, 0.7, 0.15)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in _NAMES}
    session = f"fan-{readers}-{burst}"
    streams = []
    try:
        for server in servers:
            server.call("POST", "/api/v1/sessions", {"id": session})
            paths = [f"/api/v1/stream/{session}"] * readers
            streams.append(bench.readers(server, paths))
            body = {"session_id": session, "message": "go", "options": {"mode": "loop"}}
            server.call("POST", "/api/v1/chat", body)
            streams[-1].loop(server.control, burst, seconds / 3)
        for _ in range(bench.runs):
            for server, open_streams in zip(servers, streams, strict=True):
                before = server.stats()["cpu_seconds"]
                answer = open_streams.loop(server.control, burst, seconds)
                used = server.stats()["cpu_seconds"] - before
                answer["us"] = used / answer["words"] * 1e6
                expected = answer["rounds"] * burst
                if not answer["least"] == answer["most"] == expected:
                    raise RuntimeError(f"{server.name}: {answer} instead of {expected} each")
                found[server.name].append(answer)
    finally:
        for server in servers:
            server.tell("go 0")
        for open_streams in streams:
            open_streams.close()
        for server in servers:
            server.wait_idle()
    rates = {name: [a["words"] / a["elapsed"] for a in found[name]] for name in _NAMES}
    how = "one at a time" if burst == 1 else f"bursts of {burst}"
    notes = [note for name in _NAMES for note in client_notes(found[name], name)]
    p99 = ", ".join(f"{name} {median(a['p99_ms'] for a in found[name]):.2f}" for name in _NAMES)
    cost = ", ".join(f"{name} {median(a['us'] for a in found[name]):.2f}" for name in _NAMES)
    return Row(
        f"{readers} readers, {how}",
        "deliveries/s",
        *three(rates),
        ratio=median_ratio(rates["gateway"], rates["handwritten"]),
        of="gateway / hand-written",
        goal=_GOALS.get((readers, burst)),
        runs=bench.runs,
        notes=[f"p99 ms: {p99}", f"CPU microseconds a delivery: {cost}", *notes],
    )
