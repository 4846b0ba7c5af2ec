"""d. Connections: what an idle stream costs, and how fast streams open.

All streams watch one session in which nothing happens. Counted in the server process: resident
bytes and asyncio tasks, before and after, divided by the streams (kernel buffers are not in it).
Streams opened a second: the load client opens them all, 64 at a time, until each has its answer's
head. Gateway : hand-written : raw sockets.
"""

import time
from typing import Any

from benchmarks.harness import Bench, Row, Server, client_notes, median_ratio, three

TITLE = "Idle connections"
_NAMES = ("gateway", "handwritten", "raw_sockets")


def run(bench: Bench) -> list[Row]:
    """Opens all streams of each server, several times."""
    count = bench.pick(10_000, 2000, 100)
    runs = bench.pick(3, 2, 1)
    kib: dict[str, list[float]] = {name: [] for name in _NAMES}
    tasks: dict[str, list[float]] = {name: [] for name in _NAMES}
    speed: dict[str, list[float]] = {name: [] for name in _NAMES}
    openings: list[dict[str, Any]] = []
    for _ in range(runs):
        for name in _NAMES:
            # A new process each time: memory once used is not given back.
            with bench.server(name) as server:
                server.call("POST", "/api/v1/sessions", {"id": "idle"})
                with bench.readers(server, ["/api/v1/stream/idle"] * 20):
                    pass
                before = _settled(server)
                with bench.readers(server, ["/api/v1/stream/idle"] * count) as readers:
                    readers.listen(0.0, bench.pick(2.0, 1.0, 0.1))
                    after = server.stats()
                openings.append(readers.opening)
            grown = after["resident_bytes"] - before["resident_bytes"]
            kib[name].append(grown / count / 1024)
            tasks[name].append((after["tasks"] - before["tasks"]) / count)
            speed[name].append(count / readers.opening["elapsed"])
    return [
        Row(
            f"{count} streams: memory each",
            "KiB",
            *three(kib),
            ratio=median_ratio(kib["gateway"], kib["handwritten"]),
            of="gateway / hand-written",
            goal="<= 16",
            goal_is_absolute=True,
            runs=runs,
        ),
        Row(
            f"{count} streams: tasks each",
            "tasks",
            *three(tasks),
            goal="<= 2",
            goal_is_absolute=True,
            runs=runs,
        ),
        Row(
            f"{count} streams: opened",
            "streams/s",
            *three(speed),
            ratio=median_ratio(speed["gateway"], speed["handwritten"]),
            of="gateway / hand-written",
            runs=runs,
            notes=client_notes(openings),
        ),
    ]


def _settled(server: Server) -> dict[str, float]:
    """Wait until the tasks of the streams that were closed have ended."""
    stats = server.stats()
    for _ in range(50):
        time.sleep(0.1)
        before, stats = stats, server.stats()
        if stats["tasks"] >= before["tasks"]:
            break
    return stats
