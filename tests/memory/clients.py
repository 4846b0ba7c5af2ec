"""Large requests and answers, and clients that end them in every way.

The routes are those of the OpenAPI document, so that a new one is among them by itself.
"""

import json
import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from tests.api.serving import CONTRACT, SECONDS

BODY_BYTES = 8_000_000
# What an answer may leave in the kernel's buffers: the rest waits in the gateway.
RECEIVE_BYTES = 16 * 1024

BIG = "big"
CLOSED = "closed"
UNKNOWN = "unknown"  # there is none

_TEXT = "x" * (BODY_BYTES // 8)
_MESSAGE = {"role": "user", "content": _TEXT[:900_000]}
_EVENT = {"type": "custom", "name": "a", "value": _TEXT[:900_000]}

# Right bodies, for refusals that come later than the schema's.
_RIGHT = {
    ("POST", "/sessions/{session_id}/messages"): {"messages": [_MESSAGE] * 8},
    ("POST", "/sessions/{session_id}/events"): [_EVENT] * 8,
    ("PATCH", "/sessions/{session_id}"): {"metadata": {"a": _TEXT[:60_000]}},
    ("PUT", "/sessions/{session_id}/summary"): {"content": _TEXT},
    ("PUT", "/sessions/{session_id}/todo"): {"todo": _TEXT[:60_000]},
}
_WRONG = json.dumps({"metadata": {"a": _TEXT * 4}, "nonesuch": _TEXT * 4}).encode()

WRONG_ENDS = ["invalid", "malformed", "oversized", "of another type", "cut", "left"]
RIGHT_ENDS = [CLOSED, UNKNOWN]


@dataclass(frozen=True)
class Route:
    """A route with a kind of body, or of answer."""

    method: str
    path: str
    kind: str = "application/json"
    query: str = ""

    @override
    def __str__(self) -> str:
        return f"{self.method} {self.path}{self.query} {self.kind}"

    def head(self, session_id: str, kind: str, framing: str) -> bytes:
        """Return a head that asks for this route in a session."""
        path = self.path.replace("{session_id}", session_id)
        path = re.sub(r"\{\w+\}", "one", path)
        return (
            f"{self.method} /api/v1{path}{self.query} HTTP/1.1\r\nHost: localhost\r\n"
            f"Connection: close\r\nContent-Type: {kind}\r\n{framing}\r\n\r\n"
        ).encode()


def _operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in CONTRACT.document["paths"].items():
        if path.startswith("/api/v1/"):
            for method, operation in operations.items():
                yield method.upper(), path.removeprefix("/api/v1"), operation


def takers() -> list[Route]:
    """Return every route that takes a body, with each kind of it."""
    return [
        Route(method, path, kind)
        for method, path, operation in _operations()
        for kind in operation.get("requestBody", {}).get("content", {})
        # A file may be of any type, and is kept in pieces on the disk.
        if path != "/files"
    ]


def givers() -> list[Route]:
    """Return every route that only reads, as long as its answer can be, and the zip."""
    queries = {
        "/sessions/{session_id}/export": [
            "?format=json",
            "?format=yaml",
            "?format=markdown",
        ],
        "/sessions/{session_id}/messages": ["?limit=1000"],
        "/sessions/{session_id}/events": ["?limit=1000", "?limit=1000&order=desc"],
        "/stream/{session_id}": ["?after=0"],
        "/sessions/{session_id}/resume": [""],
    }
    reading = [
        Route(method, path, query=query)
        for method, path, _ in _operations()
        if method == "GET"
        for query in queries.get(path, [""])
    ]
    return [*reading, Route("POST", "/export")]


def has_right_body(route: Route) -> bool:
    """Return whether a body of the route exists that its schema accepts."""
    return (route.method, route.path) in _RIGHT and route.kind == "application/json"


def send(port: int, route: Route, end: str) -> None:
    """Send a large request, and end it in one of `WRONG_ENDS` or `RIGHT_ENDS`."""
    body, session_id, kind = _WRONG, BIG, route.kind
    if end in RIGHT_ENDS:
        body, session_id = json.dumps(_RIGHT[route.method, route.path]).encode(), end
    elif end == "malformed":
        body = _WRONG[:-1]
    elif end == "oversized":
        body = _WRONG * 3
    elif end == "of another type":
        # An upload takes any type, but no picture that is none.
        kind = "image/png" if route.path.endswith("/files") else "text/plain"
    framing = f"Content-Length: {len(body)}"
    if end == "oversized":
        # Its size is not known before it has come.
        framing = "Transfer-Encoding: chunked"
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as sock:
        answer = b""
        try:
            sock.sendall(route.head(session_id, kind, framing))
            sock.sendall(body[: len(body) // 2] if end == "cut" else body)
            if end in {"cut", "left"}:
                _reset(sock)
                return
            while chunk := sock.recv(65536):
                answer += chunk
        except ConnectionError:
            return  # it was refused while it was being sent
    assert re.match(rb"HTTP/1\.1 4\d\d ", answer), (str(route), end, answer[:300])


def abandon(port: int, route: Route) -> None:
    """Ask for a large answer, and disconnect at the first bytes of its body."""
    body = json.dumps({"session_ids": [BIG, BIG]}).encode() if route.method == "POST" else b""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        sock.settimeout(SECONDS)
        sock.connect(("127.0.0.1", port))
        sock.sendall(route.head(BIG, "application/json", f"Content-Length: {len(body)}") + body)
        answer = b""
        while not answer.partition(b"\r\n\r\n")[2] and (chunk := sock.recv(1000)):
            answer += chunk
        assert answer.startswith(b"HTTP/1.1 "), str(route)
        _reset(sock)


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
