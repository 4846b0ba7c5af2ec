"""Requests that a proxy in front may read differently, and hostile heads, over raw sockets.

Each is refused once, closes its own connection, and costs nobody else anything.
"""

import json
import re
import socket
from contextlib import suppress

import pytest

from tests.api.serving import SECONDS, Served, serving
from tests.faults.wire import rest_of

HOST = b"Host: localhost\r\n"
JSON = b"Content-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
NEXT = b"GET /api/v1/stolen HTTP/1.1\r\nHost: localhost\r\n\r\n"
"""What a smuggler wants to have read as a request of its own."""


def get(target: bytes, headers: bytes = HOST) -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + headers + b"Connection: close\r\n\r\n"


def post(headers: bytes, body: bytes, version: bytes = b"1.1") -> bytes:
    head = b"POST /api/v1/sessions HTTP/" + version + b"\r\n" + HOST + JSON
    return head + headers + b"\r\n" + body


def answers(served: Served, data: bytes) -> list[tuple[int, bytes]]:
    """Send bytes and return each answer's status and body; fail when the connection stays open."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=SECONDS) as sock:
        with suppress(BrokenPipeError, ConnectionResetError):  # refused before all was sent
            sock.sendall(data)
        received = rest_of(sock)
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        length = re.search(rb"(?im)^content-length: (\d+)\r?$", head)
        assert length, head
        found.append((int(head.split(b" ")[1]), rest[: int(length[1])]))
        received = rest[int(length[1]) :]
    return found


def head_of(sock: socket.socket) -> bytes:
    """Read a head, and nothing of what comes after it."""
    received = b""
    while not received.endswith(b"\r\n\r\n") and (chunk := sock.recv(1)):
        received += chunk
    return received


def assert_refused(served: Served, data: bytes, *statuses: int) -> None:
    """Fail unless there is one problem with one of these statuses, and the gateway goes on."""
    ((status, body),) = answers(served, data)
    assert status in statuses, body
    problem = json.loads(body)
    assert problem["status"] == status
    assert "Traceback" not in problem["detail"]
    assert answers(served, get(b"/health/live"))[0][0] == 200


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(post(b"Content-Length: 2\r\nContent-Length: 40\r\n", b"{}"), id="two lengths"),
        pytest.param(post(b"Content-Length: 2, 2\r\n", b"{}"), id="a list of lengths"),
        pytest.param(post(b"Content-Length: +2\r\n", b"{}"), id="a signed length"),
        pytest.param(post(b"Content-Length: 0x2\r\n", b"{}"), id="a length in hex"),
        pytest.param(post(b"Content-Length: 9" + b"9" * 30 + b"\r\n", b"{}"), id="a huge length"),
        pytest.param(post(b"Content-Length: 4\r\n" + CHUNKED, b"0\r\n\r\n" + NEXT), id="CL, TE"),
        pytest.param(post(CHUNKED + b"Content-Length: 4\r\n", b"0\r\n\r\n" + NEXT), id="TE, CL"),
        pytest.param(post(CHUNKED + CHUNKED, b"0\r\n\r\n" + NEXT), id="TE, TE"),
        pytest.param(post(CHUNKED, b"2\r\n{}\r\n0\r\n\r\n", b"1.0"), id="TE in HTTP/1.0"),
        pytest.param(post(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"), id="xchunked"),
        pytest.param(post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"), id="gzip"),
        pytest.param(post(b"Transfer-Encoding: chunked, gzip\r\n", b"0\r\n\r\n"), id="gzip last"),
        pytest.param(post(b"Transfer-Encoding:\x0bchunked\r\n", b"0\r\n\r\n"), id="VT"),
        pytest.param(post(b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"), id="space, colon"),
        pytest.param(post(b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n"), id="folded TE"),
        pytest.param(get(b"/health/live", HOST + b"X-A: b\r\n c\r\n"), id="folded"),
        pytest.param(get(b"/health/live", b" Host: localhost\r\n"), id="folded at once"),
        pytest.param(post(CHUNKED, b"2\n{}\n0\n\n"), id="chunks, bare LF"),
        pytest.param(post(CHUNKED, b"0x2\r\n{}\r\n0\r\n\r\n"), id="chunk 0x2"),
        pytest.param(post(CHUNKED, b"-2\r\n{}\r\n0\r\n\r\n"), id="chunk -2"),
        pytest.param(post(CHUNKED, b"f" * 17 + b"\r\n{}\r\n0\r\n\r\n"), id="chunk overflow"),
        pytest.param(post(CHUNKED, b"2\r\n{}xx\r\n0\r\n\r\n"), id="chunk longer than it says"),
        pytest.param(get(b"/health/live").replace(b"\r\n", b"\n"), id="bare LF"),
        pytest.param(get(b"/health/live", HOST + b"X-A: b\nX-B: c\r\n"), id="bare LF in headers"),
        pytest.param(get(b"/health/live", HOST + b"X-A: b\rX-B: c\r\n"), id="bare CR"),
        pytest.param(get(b"/health/live", HOST + b"X-A: b\0c\r\n"), id="NUL in a header"),
        pytest.param(get(b"/health/live", HOST + b"X A: b\r\n"), id="space in a name"),
        pytest.param(get(b"/health/live", HOST + b"X-A\r\n"), id="no colon"),
        pytest.param(get(b"/health/live", HOST + b": b\r\n"), id="no name"),
        pytest.param(get(b"/api/v1/sessions/a\0b"), id="NUL in the target"),
        pytest.param(get(b"/health/live#x"), id="fragment"),
        pytest.param(get(b"http://evil.example/health/live"), id="absolute, another host"),
        pytest.param(get(b"http://u:p@localhost/health/live"), id="absolute, user"),
        pytest.param(get(b"http://localhost.evil.example/"), id="absolute, longer host"),
        pytest.param(get(b"evil.example:80"), id="authority"),
        pytest.param(b"CONNECT evil.example:443 HTTP/1.1\r\n" + HOST + b"\r\n", id="CONNECT"),
        pytest.param(b"GET /health/live HTTP/1.1\r\n\r\n", id="no Host"),
        pytest.param(get(b"/health/live", HOST + b"Host: evil.example\r\n"), id="two Hosts"),
        pytest.param(b"GET /health/live HTTP/9.9\r\n" + HOST + b"\r\n", id="HTTP/9.9"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", id="TLS"),
        pytest.param(
            b"get /health/live HTTP/1.1\r\n" + HOST + b"\r\n", id="a method in lower case"
        ),
    ],
)
def test_a_request_that_a_proxy_may_read_differently_is_refused(
    served: Served, data: bytes
) -> None:
    assert_refused(served, data, 400)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(get(b"/" + b"a" * 70_000), id="target"),
        pytest.param(get(b"/health/live", HOST + b"X: " + b"a" * 70_000 + b"\r\n"), id="header"),
        pytest.param(get(b"/health/live", HOST + b"X: y\r\n" * 12_000), id="headers"),
    ],
)
def test_a_head_too_large_is_refused_or_cut(served: Served, data: bytes) -> None:
    found = answers(served, data)
    # What the client still sends resets the connection, and may take the answer with it.
    assert [status for status, _ in found] in ([400], [])
    assert answers(served, get(b"/health/live"))[0][0] == 200


def test_an_absolute_target_of_the_same_host_is_served(served: Served) -> None:
    assert answers(served, get(b"http://LOCALHOST/health/live"))[0][0] == 200


def test_a_body_that_looks_like_a_request_is_a_body(served: Served) -> None:
    headers = HOST + b"Content-Length: %d\r\n" % len(NEXT)
    ((status, _),) = answers(served, get(b"/health/live", headers) + NEXT)
    assert status == 200


@pytest.mark.parametrize(
    "trailer", [b"Authorization: Bearer k", b"Host: evil.example", b"Origin: https://evil.example"]
)
def test_a_trailer_is_not_a_header(trailer: bytes) -> None:
    """A proxy checks and sets headers in the head, and passes trailers on as they are."""
    body = b"2\r\n{}\r\n0\r\n" + trailer + b"\r\n\r\n"
    with serving(api_keys=("k",)) as served:
        request = post(CHUNKED + b"Connection: close\r\n", body)
        assert [status for status, _ in answers(served, request)] == [401]
        request = post(CHUNKED + b"Authorization: Bearer k\r\nConnection: close\r\n", body)
        assert [status for status, _ in answers(served, request)] == [201]


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
"""What Java's own HTTP client sends with its first requests, and curl with --http2."""


def test_the_body_of_an_upgrade_request_is_read_as_its_body(served: Served) -> None:
    body = b'{"id": "upgrading"}'
    head = post(UPGRADE + b"Content-Length: %d\r\n" % len(body), b"")
    after = get(b"/health/live")
    found = answers(served, head + body + after)
    assert [status for status, _ in found] == [201, 200]
    assert json.loads(found[0][1])["id"] == "upgrading"


@pytest.mark.parametrize("framing", [b"Content-Length: %d\r\n" % len(NEXT), CHUNKED])
def test_bytes_after_the_head_of_an_upgrade_are_not_a_request(
    served: Served, framing: bytes
) -> None:
    """A proxy that passes `Upgrade` on takes it for the body, and so must we."""
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(NEXT), NEXT) if framing == CHUNKED else NEXT
    with socket.create_connection(("127.0.0.1", served.port), timeout=SECONDS) as sock:
        # The gateway says `100` when it waits for the body: so it has read the head by itself.
        sock.sendall(post(UPGRADE + framing + b"Expect: 100-continue\r\n", b""))
        assert head_of(sock) == CONTINUE
        sock.sendall(body + get(b"/health/live"))
        received = rest_of(sock)
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"400", b"200"]
    assert b"malformed" in received


def test_a_request_after_an_unwanted_expect_body_is_not_read_as_the_body() -> None:
    """Some clients go on with the next request after an answer that they had instead of `100`."""
    head = post(b"Content-Length: 5000\r\nExpect: 100-continue\r\n", b"")
    with (
        serving(api_keys=("k",)) as served,
        socket.create_connection(("127.0.0.1", served.port), timeout=SECONDS) as sock,
    ):
        sock.sendall(head + NEXT)
        received = rest_of(sock).lower()
        assert received.startswith(b"http/1.1 401")
        assert received.count(b"http/1.1") == 1
        assert b"\r\nconnection: close\r\n" in received


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_expect_100_continue_is_answered_in_http_1_1_only(served: Served, version: bytes) -> None:
    request = post(b"Content-Length: 2\r\nExpect: 100-continue\r\n", b"", version)
    with socket.create_connection(("127.0.0.1", served.port), timeout=SECONDS) as sock:
        sock.sendall(request)
        if version == b"1.1":
            assert head_of(sock) == CONTINUE
        sock.sendall(b"{}")
        if version == b"1.1":
            sock.sendall(get(b"/health/live"))
        received = rest_of(sock)
    statuses = re.findall(rb"HTTP/1.1 (\d+)", received)
    assert statuses == ([b"201", b"200"] if version == b"1.1" else [b"201"])


def test_upgrade_requests_may_be_pipelined(served: Served) -> None:
    request = get(b"/health/live", HOST + UPGRADE).replace(b"Connection: close\r\n", b"")
    found = answers(served, request * 3 + get(b"/health/live"))
    assert [status for status, _ in found] == [200] * 4


@pytest.mark.parametrize("piece", [b"X-A: b\r\n", b"a"], ids=["many", "one without end"])
@pytest.mark.parametrize("start", [b"2\r\n{}\r\n0\r\nX: ", b"2;"], ids=["trailers", "extension"])
def test_chunk_extensions_and_trailers_are_bounded(
    served: Served, start: bytes, piece: bytes
) -> None:
    sent = 0
    with socket.create_connection(("127.0.0.1", served.port), timeout=SECONDS) as sock:
        sock.sendall(post(CHUNKED, start))
        try:
            while sent < 16 * 1024 * 1024:
                sent += sock.send(piece * 2_000)
        except (BrokenPipeError, ConnectionResetError):
            return
    pytest.fail(f"{sent} bytes that are no body were taken")


@pytest.mark.parametrize(
    ("target", "statuses"),
    [
        (b"/api/v1/sessions/%2e%2e%2f%2e%2e%2fetc%2fpasswd", (422,)),
        (b"/api/v1/sessions/%2e%2e", (422,)),
        (b"/api/v1/sessions/..%5c..%5cvictim", (422,)),
        (b"/api/v1/sessions/..\\..\\victim", (422,)),
        (b"/api/v1/sessions/%252e%252e%252f", (422,)),
        (b"/api/v1/sessions/..%c0%af", (422,)),
        (b"/api/v1/sessions/a%00b", (422,)),
        (b"/api/v1/sessions/a%0d%0aX-Evil:%20yes", (422,)),
        (b"/api/v1/sessions/%ff%fe", (422,)),
        (b"/api/v1/sessions/%zz", (422,)),
        (b"/api/v1/sessions/%e2%80%ae", (422,)),
        (b"/api/v1/sessions/" + b"a" * 60_000, (422,)),
        (b"/api/v1/stream/%2e%2e%2fx", (422,)),
        (b"/api/v1/archive/%2e%2e%2fx", (422,)),
        (b"/api/v1/sessions/x/runs/%2e%2e%2f", (422,)),
        (b"/api/v1/sessions/../health/live", (404,)),
        (b"/health/live/../../api/v1/sessions", (404,)),
        (b"/health/live/%2e%2e/%2e%2e/api/v1/sessions", (404,)),
        (b"/health/live;/api/v1/sessions", (404,)),
        (b"//api/v1/sessions", (404,)),
        (b"/api//v1/sessions", (404,)),
        (b"/api/v1/sessions/?x", (404,)),
        (b"/API/V1/sessions", (404,)),
        (b"*", (404,)),
    ],
)
def test_encoded_paths_match_no_other_route(
    served: Served, target: bytes, statuses: tuple[int, ...]
) -> None:
    assert_refused(served, get(target), *statuses)


def test_unknown_paths_need_a_key_too() -> None:
    """What is open is open by its exact path: no dot segment or case turns another into it."""
    targets = (
        b"/health/live/../../api/v1/sessions",
        b"/health/live/",
        b"/Health/Live",
        b"/health/live%2f",
        b"//health/live",
        b"/api/v1/sessions?/health/live",
    )
    with serving(api_keys=("k",)) as served:
        for target in targets:
            ((status, _),) = answers(served, get(target))
            assert status in {401, 422}, target
        assert answers(served, get(b"/health/live"))[0][0] == 200


@pytest.mark.parametrize(
    "header",
    [
        b"X-HTTP-Method-Override: DELETE",
        b"X-HTTP-Method: DELETE",
        b"X-Method-Override: DELETE",
        b"X-Original-URL: /health/live",
        b"X-Rewrite-URL: /health/live",
        b"X-Forwarded-Prefix: /evil",
        b"X-Forwarded-Host: evil.example",
        b"Forwarded: host=evil.example;proto=https",
    ],
)
def test_headers_that_frameworks_obey_change_nothing(served: Served, header: bytes) -> None:
    plain = answers(served, get(b"/api/v1/sessions/kept"))
    assert answers(served, get(b"/api/v1/sessions/kept", HOST + header + b"\r\n")) == plain
    assert b"evil" not in plain[0][1]


@pytest.mark.parametrize(
    ("headers", "path"),
    [
        (b"X-Request-Id: a\xc2\x85Set-Cookie: evil=1\r\n", b"/api/v1/sessions"),
        (b"X-Request-Id: a, Set-Cookie: evil=1\r\n", b"/api/v1/sessions"),
        (b"Prefer: wait=1; Set-Cookie=evil\r\n", b"/api/v1/sessions"),
        (b"", b"/api/v1/stream/a?connection_id=a%0d%0aSet-Cookie:%20evil=1"),
        (b"", b"/api/v1/sessions/a%0d%0aSet-Cookie:%20evil=1/export"),
        (b"Origin: http://localhost\x0bSet-Cookie: evil=1\r\n", b"/api/v1/sessions"),
    ],
)
def test_no_part_of_a_request_becomes_a_response_header(
    served: Served, headers: bytes, path: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=SECONDS) as sock:
        sock.sendall(get(path, HOST + headers))
        head = rest_of(sock).partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1.1 ")
    assert b"set-cookie" not in head
