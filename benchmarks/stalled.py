"""g. A stalled reader: what 200 healthy ones and the writer notice of one that takes nothing.

Two gateways stand side by side; each has a session with 200 readers, in which an agent speaks and a
client posts events, both at a pace. One of them has, besides, a reader that was sent 10 MB and has
read none of it, so that its connection is stuck from the first moment on. Latencies are counted
from the moment an event was planned: an agent's to each reader's `recv`, a client's to the answer
that its event is on the disk.
"""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Thread
from typing import Any

from typing_extensions import override

from benchmarks.harness import Bench, Row, Server, client_notes, median, median_ratio
from benchmarks.loadclient import Readers

TITLE = "A stalled reader beside healthy ones: what they and the writer notice"
_SESSION = "stalled"
_CASES = ("with", "without")
_SPOKEN_RATE = 100.0
_POSTED_RATE = 50.0
_FILL_EVENTS, _FILL_BYTES = 10, 500_000
"""Sent twice: the kernel takes 4 MB for a client that reads nothing before a send waits."""
_P99_GOAL = "<= 1.5"
_TRIES_MAX = 20


def run(bench: Bench) -> list[Row]:
    """Measures both gateways in turns; gives a row for each percentile of readers and writer."""
    count = bench.pick(200, 200, 10)
    found: dict[str, list[dict[str, Any]]] = {case: [] for case in _CASES}
    with (
        bench.servers("gateway", "gateway", send_timeout_seconds=3600) as started,
        ExitStack() as s,
    ):
        servers = dict(zip(_CASES, started, strict=True))
        for case, server in servers.items():
            server.call("POST", "/api/v1/sessions", {"id": _SESSION})
            options = {"mode": "pace", "phase": 0}
            body = {"session_id": _SESSION, "message": "go", "options": options}
            server.call("POST", "/api/v1/chat", body)
            if case == "with":
                s.enter_context(_stalled_reader(server))
            for _ in range(2):
                _fill(server)
        paths = [f"/api/v1/stream/{_SESSION}"] * count
        readers = {c: s.enter_context(bench.readers(servers[c], paths)) for c in _CASES}
        for _ in range(bench.runs):
            for case in _CASES:
                found[case].append(_play_until_heard(bench, servers[case], readers[case]))
        _check_stalled(servers["with"])
        for server in started:
            server.end_pace()
    return [
        _row(bench, f"{count} readers, {who}: {name}", found, f"{who}_{name}")
        for who in ("delivery", "append")
        for name in ("p50", "p99")
    ]


def _row(bench: Bench, case: str, found: dict[str, list[dict[str, Any]]], name: str) -> Row:
    values = {each: [answer[name] for answer in found[each]] for each in _CASES}
    return Row(
        case,
        "ms",
        median(values["with"]),
        median(values["without"]),
        ratio=median_ratio(values["with"], values["without"]),
        of="with / without a stalled reader (the peer is the gateway without one)",
        goal=_P99_GOAL if name.endswith("p99") else None,
        runs=bench.runs,
        notes=[note for each in _CASES for note in client_notes(found[each], each)],
    )


def _play_until_heard(bench: Bench, server: Server, readers: Readers) -> dict[str, Any]:
    """Plays again when nothing came in time: on a busy machine the smallest size is too short."""
    for _ in range(_TRIES_MAX):
        answer = _play(bench, server, readers)
        if answer["words"]:
            return answer
    raise RuntimeError(f"nothing was heard, {_TRIES_MAX} times")


def _play(bench: Bench, server: Server, readers: Readers) -> dict[str, Any]:
    """Let the agent speak and a client post, and listen."""
    warmup, seconds = bench.pick((0.7, 3.0), (0.5, 2.0), (0.1, 0.3))
    server.keep_pace(1, _SPOKEN_RATE, warmup + seconds + 0.3)
    writer = _Writer(server.port, warmup, seconds)
    writer.start()
    answer = readers.listen(warmup, seconds)
    writer.join()
    server.wait_for(1)
    # What is late is still on its way, and would count in the next round.
    readers.listen(0.0, 0.2)
    if writer.failure:
        raise RuntimeError(f"an event was not taken: {writer.failure}")
    answer |= {"delivery_p50": answer["p50_ms"], "delivery_p99": answer["p99_ms"]}
    return answer | {
        "append_p50": writer.percentile_ms(0.5),
        "append_p99": writer.percentile_ms(0.99),
    }


class _Writer(Thread):
    """Posts single events at a pace, and remembers how long each took from when it was planned."""

    def __init__(self, port: int, warmup: float, seconds: float) -> None:
        super().__init__(name="writer")
        self._port, self._warmup, self._seconds = port, warmup, seconds
        self._taken: list[float] = []
        self.failure = ""

    @override
    def run(self) -> None:
        """Write until its time is over."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        event = json.dumps({"type": "custom", "name": "reading", "value": "the quick brown fox"})
        begin = time.monotonic()
        planned, end = begin, begin + self._warmup + self._seconds
        while planned < end:
            time.sleep(max(0.0, planned - time.monotonic()))
            connection.request(
                "POST",
                f"/api/v1/sessions/{_SESSION}/events",
                event,
                {"Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 201:
                self.failure = f"{answer.status} {content[:300]!r}"
                break
            if planned >= begin + self._warmup:
                self._taken.append(time.monotonic() - planned)
            planned += 1 / _POSTED_RATE
        connection.close()

    def percentile_ms(self, share: float) -> float:
        """Return a percentile of what was counted."""
        found = sorted(self._taken)
        return found[int(len(found) * share)] * 1000


@contextmanager
def _stalled_reader(server: Server) -> Iterator[None]:
    """Opens a stream and reads nothing but its beginning."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", server.port))
        path = f"/api/v1/stream/{_SESSION}?connection_id=stalled"
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        if b"200" not in sock.recv(64):
            raise RuntimeError("the stalled reader was not let in")
        yield


def _fill(server: Server) -> None:
    event = {"type": "custom", "name": "fill", "value": "x" * _FILL_BYTES}
    server.call("POST", f"/api/v1/sessions/{_SESSION}/events", [event] * _FILL_EVENTS)


def _check_stalled(server: Server) -> None:
    """Fails when the reader was not what was meant: there, and behind."""
    found = server.call("GET", f"/api/v1/sessions/{_SESSION}/connections")["connections"]
    lags = [one["lag_events"] for one in found if one["connection_id"] == "stalled"]
    if not lags or lags[0] < _FILL_EVENTS:
        raise RuntimeError(f"the stalled reader is behind by {lags} events")
