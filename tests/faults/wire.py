"""A client of a plain socket, which can break a connection as a network does."""

import socket
import struct
from typing import Any

import httpx

from tests.api.serving import SECONDS, Served
from tests.support.frames import Frame, parse_frames


class Wire:
    """One stream, read byte by byte as the test says.

    Args:
        port: Where the gateway listens.
        path: What to ask for, below `/api/v1`.
        last_id: The last id a client has seen, if it was here before.
        buffer_bytes: The kernel's receive buffer; a small one is full soon.
    """

    def __init__(
        self, port: int, path: str, last_id: str | None = None, buffer_bytes: int | None = None
    ) -> None:
        self.sock = socket.socket()
        if buffer_bytes is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self.sock.settimeout(SECONDS)
        self.sock.connect(("127.0.0.1", port))
        again = f"Last-Event-ID: {last_id}\r\n" if last_id else ""
        self.sock.sendall(f"GET /api/v1{path} HTTP/1.1\r\nHost: localhost\r\n{again}\r\n".encode())
        self.raw = b""
        self.ended = False

    def take(self, size: int = 65536) -> bool:
        """Read up to so many bytes; return whether there were any."""
        try:
            chunk = self.sock.recv(size)
        except ConnectionResetError:
            chunk = b""
        self.raw += chunk
        self.ended = not chunk
        return bool(chunk)

    def take_until(self, what: bytes) -> None:
        """Read until these bytes have come."""
        while what not in self.raw:
            assert self.take(), f"ended without {what!r}: {self.raw[-300:]!r}"

    def take_frame(self, what: bytes) -> None:
        """Read until the frame that has these bytes has come whole."""
        self.take_until(what)
        while self.raw.find(b"\n\n", self.raw.index(what)) < 0:
            assert self.take(), f"ended within the frame of {what!r}: {self.raw[-300:]!r}"

    def take_all(self) -> None:
        """Read to the end."""
        while self.take():
            pass

    @property
    def frames(self) -> list[Frame]:
        """The frames that are whole; what was cut is none."""
        body = unchunked(self.raw.partition(b"\r\n\r\n")[2])
        whole = body[: body.rfind(b"\n\n") + 2] if b"\n\n" in body else b""
        return parse_frames(whole)[0]

    def cut(self) -> None:
        """Close as a dying network does: with a reset, whatever is on its way."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def unchunked(body: bytes) -> bytes:
    """Take chunked encoding apart, as far as it has come."""
    found = []
    while (end := body.find(b"\r\n")) >= 0:
        size = int(body[:end], 16)
        found.append(body[end + 2 : end + 2 + size])
        body = body[end + 2 + size + 2 :]
    return b"".join(found)


def hanging(port: int, data: bytes = b"") -> socket.socket:
    """Connect, send something, and leave it at that."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
    sock.sendall(data)
    return sock


def drip(sock: socket.socket, data: bytes) -> bytes:
    """Send the same request until there is an answer, and return it."""
    sock.settimeout(0.02)
    for _ in range(3000):
        try:
            sock.sendall(data)
            return sock.recv(4096)
        except TimeoutError:
            continue
        except ConnectionError:
            return b""
    raise AssertionError("the client may drip for ever")


def rest_of(sock: socket.socket) -> bytes:
    """Read until the other side closes, under the deadline of every wait."""
    received = b""
    try:
        while chunk := sock.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def metric(api: httpx.Client, name: str) -> float:
    """Return one number of `/metrics`; 0 when it is not there yet."""
    for line in api.get("/metrics").text.splitlines():
        if line.startswith(f"bamboo_{name} "):
            return float(line.rpartition(" ")[2])
    return 0.0


def refusals(api: httpx.Client, code: str) -> float:
    """Return how often a problem was answered."""
    return metric(api, f'problems_total{{code="{code}"}}')


def buffered(served: Served) -> int:
    """Return the most that the server holds back for one client, in its transport."""
    connections: Any = list(served.server.server_state.connections)
    return max((one.transport.get_write_buffer_size() for one in connections), default=0)
