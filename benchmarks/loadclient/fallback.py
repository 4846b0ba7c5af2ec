"""The load client without a compiler: the arguments, commands and answers of `client.c`."""

import json
import re
import selectors
import socket
import sys
import time
from typing import Any

_STAMP = re.compile(rb"@(\d{19})@")
_PATIENCE_SECONDS = 30
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class _Conn:
    """One connection; `rest` holds what is not a whole frame or answer yet."""

    def __init__(self, port: int, request: bytes) -> None:
        self.request = request
        self.rest = b""
        self.ready = False
        self.words = 0
        self.newest = 0
        self.next = 0
        self.started = time.monotonic_ns()
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.send(request)

    def send(self, request: bytes) -> None:
        """Send whole; requests are small beside a socket's buffer."""
        self.sock.setblocking(True)
        self.started = time.monotonic_ns()
        self.sock.sendall(request)
        self.sock.setblocking(False)


class _Window:
    """What was counted since a moment."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.cpu = time.process_time()
        self.latencies: list[int] = []
        self.bytes = 0

    def answer(self, **more: Any) -> dict[str, Any]:
        """Return the common part of an answer."""
        elapsed = time.monotonic() - self.started
        found = sorted(self.latencies) or [0]
        return {
            "elapsed": elapsed,
            "cpu": (time.process_time() - self.cpu) / elapsed,
            "p50_ms": found[len(found) // 2] / 1e6,
            "p99_ms": found[int(len(found) * 0.99)] / 1e6,
            "max_ms": found[-1] / 1e6,
            **more,
        }


class Streams:
    """The `sse` mode."""

    def __init__(self, port: int, timeout: float) -> None:
        self._port, self._timeout = port, timeout
        self._selector = selectors.DefaultSelector()
        self._conns: list[_Conn] = []
        self._closed = 0
        self._window = _Window()
        self._words = 0

    def run(self) -> None:
        """Opens the streams, then obeys."""
        paths = iter(lambda: sys.stdin.readline().strip(), "")
        for path in paths:
            request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"
            conn = _Conn(self._port, request.encode())
            self._conns.append(conn)
            self._selector.register(conn.sock, selectors.EVENT_READ, conn)
            self._poll(0)
        deadline = time.monotonic() + self._timeout
        while not all(conn.ready for conn in self._conns) and time.monotonic() < deadline:
            self._poll(0.1)
        self._report(0, least=sum(conn.ready for conn in self._conns))
        for line in sys.stdin:
            command, *numbers = line.split()
            if command == "loop":
                self._loop(int(numbers[0]), int(numbers[1]), float(numbers[2]))
            elif command == "listen":
                self._listen(float(numbers[0]), float(numbers[1]))
            else:
                return

    def _loop(self, control: int, burst: int, seconds: float) -> None:
        self._begin()
        rounds, until = 0, time.monotonic() + seconds
        deadline = time.monotonic() + self._timeout
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            while not self._closed and time.monotonic() < deadline:
                wanted = self._words + burst * len(self._conns)
                udp.sendto(b"go %d" % burst, ("127.0.0.1", control))
                while self._words < wanted and time.monotonic() < deadline and not self._closed:
                    self._poll(0.1)
                rounds += 1
                if time.monotonic() >= until:
                    break
        self._report(rounds)

    def _listen(self, warmup: float, seconds: float) -> None:
        for duration in (warmup, seconds):
            self._begin()
            until = time.monotonic() + duration
            while time.monotonic() < until:
                self._poll(0.001)
        self._report(0)

    def _begin(self) -> None:
        self._window = _Window()
        for conn in self._conns:
            conn.words = 0

    def _report(self, rounds: int, least: int | None = None) -> None:
        counts = [conn.words for conn in self._conns]
        answer = self._window.answer(
            rounds=rounds,
            words=sum(counts),
            bytes=self._window.bytes,
            closed=self._closed,
            least=min(counts) if least is None else least,
            most=max(counts),
        )
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()

    def _poll(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            conn: _Conn = key.data
            data = conn.sock.recv(262144)
            if not data:
                self._selector.unregister(conn.sock)
                self._closed += 1
                continue
            self._take(conn, data)

    def _take(self, conn: _Conn, data: bytes) -> None:
        now = time.monotonic_ns()
        self._window.bytes += len(data)
        data = conn.rest + data
        if not conn.ready:
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                conn.rest = head
                return
            conn.ready = head.split(b" ", 2)[1] == b"200"
            self._window.latencies.append(now - conn.started)
        # Chunk sizes stand on lines of their own, so stamps are found without taking them off.
        cut = data.rfind(b"\n") + 1
        conn.rest = data[cut:]
        for found in _STAMP.findall(data, 0, cut):
            stamp = int(found)
            if stamp <= conn.newest:  # a whole message, which repeats what was said
                continue
            conn.newest = stamp
            conn.words += 1
            self._words += 1
            self._window.latencies.append(max(0, now - stamp))


def run_http(port: int, connections: int, seconds: float) -> None:
    """The `http` mode."""
    stdin, blobs = sys.stdin.buffer, []
    while size := stdin.readline():
        blobs.append(stdin.read(int(size)))
    selector, once = selectors.DefaultSelector(), not seconds
    for number in range(connections):
        conn = _Conn(port, blobs[number % len(blobs)])
        conn.next = number + connections
        selector.register(conn.sock, selectors.EVENT_READ, conn)
    begin, until = time.monotonic() + seconds * 0.2, time.monotonic() + seconds * 1.2
    window, measuring, answers, refused, closed = _Window(), once, 0, 0, 0
    # Of nothing there is no rate: on a slow machine one answer is waited for.
    patience = until + _PATIENCE_SECONDS
    while closed < connections and time.monotonic() < (until if answers and not once else patience):
        if once and answers == len(blobs):
            break
        if not measuring and time.monotonic() > begin:
            window, measuring, answers = _Window(), True, 0
        for key, _ in selector.select(0.1):
            conn = key.data
            data = conn.sock.recv(262144)
            if not data:
                selector.unregister(conn.sock)
                closed += 1
                continue
            conn.rest += data
            head, found, body = conn.rest.partition(b"\r\n\r\n")
            length = _LENGTH.search(head)
            if not found or (length and len(body) < int(length[1])):
                continue
            answers += 1
            refused += not 200 <= int(head.split(b" ", 2)[1]) <= 299
            window.latencies.append(time.monotonic_ns() - conn.started)
            conn.rest = b""
            if not once or conn.next < len(blobs):
                conn.send(blobs[conn.next % len(blobs)])
                conn.next += connections
    answer = window.answer(answers=answers, refused=refused, closed=closed)
    sys.stdout.write(json.dumps(answer) + "\n")


def main() -> None:
    """Take the arguments of `client.c`."""
    mode, port, count, seconds = sys.argv[1:5]
    if mode == "sse":
        Streams(int(port), float(seconds)).run()
    else:
        run_http(int(port), int(count), float(seconds))


if __name__ == "__main__":
    main()
