"""Nothing of a request is left for the garbage collector, whose pauses everybody would feel."""

import gc
import socket
from collections.abc import Iterator

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from tests.api.serving import SECONDS, Served
from tests.faults.wire import until

_JSON = b"Host: localhost\r\nContent-Type: application/json\r\n"
_TIMES = 20


@pytest.fixture(autouse=True)
def _without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def cycles() -> int:
    """How many requests are in memory: served, or in a ring that only the collector breaks."""
    return sum(isinstance(found, RequestResponseCycle) for found in gc.get_objects())


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
    ],
    ids=["kept", "closed", "HTTP/1.0", "refused", "posted", "expected", "streamed"],
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
