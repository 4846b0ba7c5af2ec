"""A request leaves nothing for the garbage collector, whose pauses delay all requests.

It counts objects, too: what is large and few it would leave in memory for long (R11).
"""

import gc
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from tests.api.serving import SECONDS, Served
from tests.support.waiting import until

_JSON = b"Host: localhost\r\nContent-Type: application/json\r\n"
_TIMES = 20
_QUICK = {"session_id": "quick", "message": "Hello!", "options": {"delay_ms": 0}}
_LARGE_BYTES = 900_000
# What an answer may leave in the kernel's buffers: the rest of it waits in the gateway.
_RECEIVE_BYTES = 16 * 1024


@pytest.fixture(autouse=True)
def _without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def cycles() -> int:
    """How many requests are in memory: served, or in a ring that only the collector breaks."""
    return sum(isinstance(found, RequestResponseCycle) for found in gc.get_objects())


def posted(
    line: str, body: object, kind: str = "application/json", header: str = "Connection: close"
) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (
        f"{line} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n{header}\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    ).encode() + data


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"GET /api/v1/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n", b"200 OK"),
        (
            b"GET /api/v1/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            b"200 OK",
        ),
        (b"GET /api/v1/health/live HTTP/1.0\r\nHost: localhost\r\n\r\n", b"200 OK"),
        (b"GET /api/v1/sessions/none HTTP/1.1\r\nHost: localhost\r\n\r\n", b"session-not-found"),
        (b"POST /api/v1/sessions HTTP/1.1\r\n" + _JSON + b"Content-Length: 2\r\n\r\n{}", b"201"),
        (
            b"POST /api/v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n"
            b"Expect: 100-continue\r\n\r\n",
            b"HTTP/1.1 413",
        ),
        (b"GET /api/v1/stream/garbage HTTP/1.1\r\nHost: localhost\r\n\r\n", b"text/event-stream"),
        (posted("POST /api/v1/chat", _QUICK, header="Prefer: wait=60"), b"200 OK"),
        (posted("POST /api/v1/chat", _QUICK, header="Accept: text/event-stream"), b"\r\n0\r\n"),
    ],
    ids=[
        "kept",
        "closed",
        "HTTP/1.0",
        "refused",
        "posted",
        "expected",
        "streamed",
        "waited",
        "streamed to its end",
    ],
)
def test_a_request_is_freed_with_its_end(served: Served, request_: bytes, answer: bytes) -> None:
    with served.client() as api:
        api.post("/sessions", json={"id": "garbage"})
    before = cycles()
    for _ in range(_TIMES):
        with socket.create_connection(("127.0.0.1", served.port), timeout=SECONDS) as sock:
            sock.sendall(request_)
            data = b""
            while answer not in data:
                data += (more := sock.recv(65536))
                assert more, data
    until(lambda: cycles() <= before, "the requests are freed")


def frames() -> int:
    """How many calls of the program are in memory: at work, or kept by an error's traceback."""
    return sum(
        "/app/" in found.f_code.co_filename
        for found in gc.get_objects()
        if isinstance(found, FrameType)
    )


_TEXT = "x" * _LARGE_BYTES
_CLOSE = "Connection: close"
_SESSIONS = "POST /api/v1/sessions"
_ONE = "/api/v1/sessions/garbage"
_GONE = "/api/v1/sessions/none"
_EVENT = {"type": "custom", "name": "a", "value": _TEXT}


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (posted(f"PATCH {_ONE}", {"metadata": {"a": _TEXT}}), b"invalid"),
        (posted(f"PATCH {_ONE}", {"title": 1, "metadata": {"a": _TEXT}}), b"invalid"),
        (posted(_SESSIONS, {"id": "?", "title": _TEXT}), b"invalid"),
        (posted(_SESSIONS, {"nonesuch": _TEXT}), b"invalid"),
        (posted(f"POST {_ONE}/messages", [{"role": "tool", "content": _TEXT}]), b"invalid"),
        (posted(f"POST {_ONE}/messages", {"role": "user", "content": 2 * _TEXT}), b"too-large"),
        (posted("POST /api/v1/chat", {"message": _TEXT, "agent": "none"}), b"unknown-agent"),
        (posted(f"POST {_ONE}/events", [_EVENT, {"type": "none", "a": _TEXT}]), b"invalid-event"),
        (
            posted(f"POST {_ONE}/events", {"type": "none", "a": _TEXT}, "application/x-ndjson"),
            b"invalid-event",
        ),
        (
            posted(f"POST {_ONE}/events", b"{" + _TEXT.encode(), "application/x-ndjson"),
            b"malformed",
        ),
        (posted("POST /api/v1/import", {"bamboo_export": 1, "session": _TEXT}), b"invalid"),
        (posted("POST /api/v1/import", _TEXT.encode()), b"invalid"),
        (posted(f"PUT {_ONE}/extensions/x", {"data": _TEXT}), b"invalid"),
        (posted(_SESSIONS, b'{"title":"' + _TEXT.encode()), b"malformed"),
        (posted(_SESSIONS, b"[" * 1000 + b"]" * 1000), b"malformed"),
        (posted(_SESSIONS, b"[" * _LARGE_BYTES), b"too-large"),
        (posted(_SESSIONS, b'"' + 20 * _TEXT.encode() + b'"'), b"too-large"),
        (posted(_SESSIONS, _TEXT.encode(), "text/plain"), b"unsupported-media-type"),
        (posted(f"POST {_GONE}/messages", {"role": "user", "content": _TEXT}), b"not-found"),
        (posted("POST /api/v1/nonesuch", _TEXT.encode()), b"not-found"),
        (posted(f"PUT {_ONE}", _TEXT.encode()), b"method-not-allowed"),
        (posted(_SESSIONS, {"id": "garbage"}), b"session-exists"),
        (posted(_SESSIONS, {}, header=f"{_CLOSE}\r\nIdempotency-Key: {300 * 'k'}"), b"invalid"),
        (posted(f"{_SESSIONS}?nonesuch=1", {"title": _TEXT}), b"invalid"),
    ],
    ids=lambda value: value[:60].decode().partition(" HTTP")[0],
)
def test_a_refused_request_leaves_no_frames(served: Served, request_: bytes, code: bytes) -> None:
    with served.client() as api:
        api.post("/sessions", json={"id": "garbage"})
    ended(served, request_, code)
    before = cycles(), frames()
    for _ in range(3):
        ended(served, request_, code)
    until(lambda: cycles() <= before[0] and frames() <= before[1], "the requests are freed")


def ended(served: Served, request_: bytes, code: bytes) -> None:
    """Send a request and read to the end; fail when it is not refused with this code."""
    data = b""
    with socket.create_connection(("127.0.0.1", served.port), timeout=SECONDS) as sock:
        # Whoever is refused before it has sent everything may be told so by a reset as well.
        with suppress(ConnectionError):
            sock.sendall(request_)
        with suppress(ConnectionError):
            while more := sock.recv(65536):
                data += more
    assert not data or code in data, data


@pytest.fixture(scope="module")
def large(served: Served) -> str:
    """A session whose documents do not fit into the kernel's buffers."""
    with served.client() as api:
        api.post("/sessions", json={"id": "large"})
        for _ in range(12):
            message = {"role": "user", "content": _TEXT}
            assert api.post("/sessions/large/messages", json=message).status_code == 201
    return "large"


_BULK = posted("POST /api/v1/export", {"session_ids": ["large", "large"]}, header=_CLOSE)
_STREAMED = "Accept: text/event-stream\r\nConnection: close"
_WAITING = "Prefer: wait=60\r\nConnection: close"
_SLOW = {"session_id": "slow", "message": _TEXT, "options": {"delay_ms": 1000}}


@pytest.mark.parametrize(
    ("request_", "has_answer"),
    [
        (posted("GET /api/v1/sessions/large/export?format=json", b""), True),
        (posted("GET /api/v1/sessions/large/export?format=yaml", b""), True),
        (posted("GET /api/v1/sessions/large/export", b"", header="X-A: kept"), True),
        (_BULK, True),
        (posted("GET /api/v1/sessions/large/diagnostics", b""), True),
        (posted("GET /api/v1/sessions/large/messages?limit=1000", b""), True),
        (posted("GET /api/v1/stream/large?after=0", b"", header=_STREAMED), True),
        (posted("GET /api/v1/stream/large", b"", header="Accept: text/event-stream"), True),
        (posted("GET /api/v1/sessions/waiting/events?after=1&wait=60", b""), False),
        (posted("POST /api/v1/chat", _SLOW, header=_WAITING), False),
        (posted("POST /api/v1/chat", _SLOW, header=_STREAMED), True),
        (posted(f"PATCH {_ONE}", {"metadata": {"a": _TEXT}})[:500_000], False),
        (posted("POST /api/v1/import", {"bamboo_export": _TEXT})[:500_000], False),
        (posted(f"POST {_ONE}/events", _EVENT, "application/x-ndjson")[:500_000], False),
    ],
    ids=lambda value: "" if isinstance(value, bool) else value[:60].decode().partition(" HTTP")[0],
)
def test_a_request_whose_client_leaves_is_freed(
    served: Served, large: str, request_: bytes, has_answer: bool
) -> None:
    with served.client() as api:
        api.post("/sessions", json={"id": "garbage"})
        api.post("/sessions", json={"id": "waiting"})
        before = cycles(), frames()
        for _ in range(3):
            left(served, request_, has_answer)
            until(lambda: cycles() <= before[0] and frames() <= before[1], "all of it is freed")
        api.post("/sessions/slow/cancel")


def left(served: Served, request_: bytes, has_answer: bool) -> None:
    """Send a request, and disconnect when it is at work, or its answer has begun."""
    before = cycles()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        sock.settimeout(SECONDS)
        sock.connect(("127.0.0.1", served.port))
        sock.sendall(request_)
        if has_answer:
            assert sock.recv(1000).startswith(b"HTTP/1.1 ")
        else:
            until(lambda: cycles() > before, "the request is at work")
