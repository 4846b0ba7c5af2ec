"""The limits of TCP connections: their number, and the time each may take (R11)."""

import resource
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from unittest.mock import Mock

import httpx
import pytest

from bamboo_gateway.domain.limits import SEND_BYTES_MAX
from bamboo_gateway.server import http1
from bamboo_gateway.server.connection_limits import ConnectionLimits
from bamboo_gateway.settings import Settings
from tests.api.serving import SECONDS, Served, serving
from tests.faults.test_network import HEAD, LIVE, append, assert_healthy
from tests.faults.wire import Wire, buffered, drip, hanging, metric, refusals, rest_of
from tests.support.waiting import until


def cuts(api: httpx.Client, reason: str) -> float:
    return metric(api, f'connections_cut_total{{reason="{reason}"}}')


def wait_for(served: Served, connections: int) -> None:
    open_ones = served.server.server_state.connections
    until(lambda: len(open_ones) == connections, f"{connections} connections are open")


def is_served(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether a new connection from an address of this machine is."""
    with socket.create_connection(("127.0.0.1", port), SECONDS, (host, 0)) as sock:
        try:
            sock.sendall(LIVE)
            return sock.recv(4096).startswith(b"HTTP/1.1 200")
        except ConnectionError:
            return False


def test_one_connection_too_many_is_503_at_once_and_there_is_room_again() -> None:
    with serving(max_tcp_connections=3) as served, served.client() as api:
        assert api.get("/health/live").is_success  # and stays open
        held = [hanging(served.port) for _ in range(2)]
        wait_for(served, 3)
        for _ in range(5):
            with hanging(served.port) as one_more:
                answer = rest_of(one_more)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"\r\nretry-after: 1\r\n" in answer
            assert b'"code":"too-many-tcp-connections"' in answer
            assert b"Limit reached: 3 TCP connections (max_tcp_connections, " in answer
        assert refusals(api, "too-many-tcp-connections") == 5
        assert cuts(api, "too_many") == 5
        for sock in held:
            sock.close()
        until(lambda: is_served(served.port), "there is room")
        wait_for(served, 1)
        assert_healthy(served, api)


def test_connections_leave_open_files_for_acknowledged_writes() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 1024:
        pytest.skip("this process may not even have the files of the test")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        limits = ConnectionLimits(Settings(max_tcp_connections=100_000))
        let_in = 0
        while limits.enter("1.2.3.4") is None:
            let_in += 1
        assert let_in == 1024 - 256 - 64
        assert f"Limit reached: {let_in} TCP connections " in limits.detail("too_many")
        limits.leave("1.2.3.4")
        assert limits.enter("4.3.2.1") is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_open_streams_count_as_connections() -> None:
    with serving(max_tcp_connections=2) as served, served.client() as api:
        api.post("/sessions", json={"id": "s"})
        wire = Wire(served.port, "/stream/s")
        wire.take_until(b"\n\n")
        until(lambda: not is_served(served.port), "it is full")
        append(api, "s", ["still served"])
        wire.take_until(b"still served")
        wire.cut()
        until(lambda: is_served(served.port), "there is room")
        wait_for(served, 1)
        assert_healthy(served, api)


def test_each_address_has_its_own_connection_limit() -> None:
    with serving(max_tcp_connections_per_address=2) as served:
        try:
            other = is_served(served.port, "127.0.0.2")
        except OSError:
            pytest.skip("this machine has one loopback address")
        assert other
        with hanging(served.port), hanging(served.port):
            wait_for(served, 2)
            assert not is_served(served.port)
            assert is_served(served.port, "127.0.0.2")
        until(lambda: is_served(served.port), "there is room")
        wait_for(served, 0)
        with served.client() as api:
            assert cuts(api, "too_many_of_address") >= 1
            assert_healthy(served, api)


@contextmanager
def soon_looked_at() -> Iterator[None]:
    """Look at a body soon after its head has come: only then its own timeout is known.

    Only where one request is under way: the bodies of others may come this late on a busy machine.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http1, "BODY_WINDOW_SECONDS", 0.3)
        yield


@contextmanager
def haste() -> Iterator[None]:
    """Make bodies come fast; only here, since a busy machine sends any in two pieces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http1, "BODY_WINDOW_SECONDS", 0.3)
        patch.setattr(http1, "BODY_WINDOW_BYTES_MIN", 1 << 30)
        yield


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"Content-Length: 1000000\r\n\r\n[", b" "),
        (b"Transfer-Encoding: chunked\r\n\r\n1\r\n[\r\n", b"1\r\n \r\n"),
    ],
)
def test_a_body_that_drips_is_refused_though_it_never_stops(start: bytes, piece: bytes) -> None:
    with serving() as served, served.client() as api:
        with haste(), hanging(served.port, b"POST /api/v1/sessions " + HEAD + start) as sock:
            answer = drip(sock, piece)
        assert not answer or answer.startswith(b"HTTP/1.1 400")
        until(lambda: cuts(api, "body_slow") == 1, "it is counted")
        assert cuts(api, "body_stalled") == 0
        assert_healthy(served, api)


def test_an_ndjson_producer_may_be_slow_and_is_cut_after_the_run_timeout() -> None:
    line = b'{"type":"custom","name":"n","value":1}\n'
    chunk = b"%x\r\n%b\r\n" % (len(line), line)
    head = b"POST /api/v1/sessions/s/events " + HEAD.replace(b"/json", b"/x-ndjson")
    start = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk
    with serving() as served, served.client() as api:
        api.post("/sessions", json={"id": "s"})
        with haste(), hanging(served.port, start) as sock:
            # Begun later, and already too slow.
            other = b"POST /api/v1/chat " + HEAD + b"Content-Length: 9\r\n\r\n["
            with hanging(served.port, other) as slow:
                assert rest_of(slow).startswith(b"HTTP/1.1 400")
            sock.sendall(chunk + b"0\r\n\r\n")
            assert sock.recv(4096).startswith(b"HTTP/1.1 201")
    with serving(external_run_timeout_seconds=0.3) as served, served.client() as api:
        api.post("/sessions", json={"id": "s"})
        with soon_looked_at(), hanging(served.port, start) as sock:
            assert rest_of(sock).startswith(b"HTTP/1.1 400")
        assert cuts(api, "body_stalled") == 1
        assert_healthy(served, api)


def test_a_run_whose_producer_keeps_its_request_open_and_says_nothing_times_out() -> None:
    line = b'{"type":"token","run_id":"r","content":"so far"}\n'
    head = b"POST /api/v1/sessions/s/events " + HEAD.replace(b"/json", b"/x-ndjson")
    chunk = b"%x\r\n%b\r\n" % (len(line), line)
    with serving(external_run_timeout_seconds=0.3) as served, served.client() as api:
        api.post("/sessions", json={"id": "s"})
        opened = api.post("/sessions/s/runs", json={"agent": "external", "run_id": "r"})
        assert opened.status_code == 201
        start = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk
        with soon_looked_at(), hanging(served.port, start) as sock:
            # 409 when the run has ended before the line came.
            assert rest_of(sock).startswith(b"HTTP/1.1 4")
        until(lambda: api.get("/sessions/s/runs/r").json()["status"] == "failed", "it has ended")
        assert api.get("/sessions/s/runs/r").json()["error"]["code"] == "timeout"


def test_an_idle_connection_is_closed_and_counted() -> None:
    with serving() as served:
        served.server.config.timeout_keep_alive = 0  # read for each request
        with hanging(served.port, LIVE) as sock:
            assert b"200 OK" in rest_of(sock)
        with served.client(headers={"Connection": "close"}) as api:
            assert cuts(api, "idle") >= 1


BODY = b"x" * 4_000_000
"""More than the kernel keeps for who does not read it."""


def asking(version: bytes, framing: bytes) -> bytes:
    head = b"POST /api/v1/chat HTTP/" + version + b"\r\nHost: localhost\r\n"
    return head + framing + b"Content-Type: application/json\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "body"),
    [
        pytest.param(asking(b"1.0", b"Content-Length: 4000000\r\n"), BODY, id="HTTP/1.0"),
        pytest.param(asking(b"1.1", b"Content-Length: 4000000\r\n"), BODY, id="HTTP/1.1"),
        pytest.param(
            asking(b"1.1", b"Transfer-Encoding: chunked\r\n"),
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
            id="chunked",
        ),
    ],
)
def test_an_early_answer_reaches_a_client_that_sends_its_whole_body_first(
    head: bytes, body: bytes
) -> None:
    """A reset would take the refusal with it: nginx, as it is, makes a 502 of that."""
    with serving(max_body_bytes=1024) as served, served.client() as api:
        for number in range(1, 4):
            with hanging(served.port, head + body[:5000]) as sock:
                # Whoever looks sees that it is answered, and may stop; this one does not look.
                until(lambda: refusals(api, "too-large") == number, "it is refused")  # noqa: B023
                sock.sendall(body[5000:])
                answer = rest_of(sock)
            assert answer.startswith(b"HTTP/1.1 413")
            assert answer.endswith(b"}")
        wait_for(served, 1)
        assert_healthy(served, api)


def test_the_rest_of_a_body_is_read_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "LINGER_SECONDS_MAX", 0.3)
    with serving(max_body_bytes=1024) as served, served.client() as api:
        with hanging(served.port, asking(b"1.1", b"Content-Length: 4000000\r\n")) as sock:
            assert rest_of(sock).startswith(b"HTTP/1.1 413")

            def is_cut() -> bool:
                try:
                    sock.sendall(b"x")
                except ConnectionError:
                    return True
                return False

            until(is_cut, "its connection is closed")
        wait_for(served, 0)
        assert_healthy(served, api)


def test_r11_an_answer_that_nobody_reads_is_cut_and_buffers_little() -> None:
    """However long it is: an export, a page that was made at once, one that ends its connection."""
    paths = {
        "an export": "/sessions/s/export?format=json",
        "a page": "/sessions/s/messages",
    }
    message = {"role": "user", "content": "x" * 1_000_000}
    with (
        serving(send_timeout_seconds=0.5) as served,
        served.client() as api,
        ExitStack() as stack,
    ):

        def was_cut(times: int) -> bool:
            return cuts(api, "unread") == times

        api.post("/sessions", json={"id": "s"})
        for _ in range(12):
            assert api.post("/sessions/s/messages", json=message).is_success
        for number, path in enumerate(paths.values(), 1):
            wire = Wire(served.port, path, buffer_bytes=4096)
            stack.enter_context(wire.sock)
            if "export" in path:
                wire.take_until(b"bamboo_export")
                until(lambda: buffered(served) > 0, "it waits for its reader")
                assert buffered(served) <= SEND_BYTES_MAX + 70_000
            until(partial(was_cut, number), "it is cut")
            until(lambda: buffered(served) == 0, "nothing is held any more")
        head = b"GET /api/v1/sessions/s/messages HTTP/1.1\r\nHost: localhost\r\n"
        stuck = stack.enter_context(socket.socket())
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect(("127.0.0.1", served.port))
        stuck.sendall(head + b"Connection: close\r\n\r\n")
        until(partial(was_cut, len(paths) + 1), "it is cut as well")
        stuck.close()
        assert_healthy(served, api)


def test_r11_a_client_that_reads_slowly_is_not_cut() -> None:
    """Looked at through the protocol's own clock: no test can be slow in time on a busy machine."""
    looks: list[Callable[[], None]] = []

    class Loop:
        def call_later(self, seconds: float, call: Callable[[], None]) -> Mock:
            assert seconds == 30
            looks.append(call)
            return Mock()

    edge = http1.GatewayProtocol.__new__(http1.GatewayProtocol)
    edge._unread_deadline = None
    edge.cycle = None  # type: ignore[assignment]
    edge.flow = Mock()
    edge.loop = Loop()  # type: ignore[assignment]
    edge.transport = Mock()
    edge.config = Mock()
    edge.config.app.state.settings = Settings()
    edge.config.app.state.request_log.connections_cut = Counter()
    edge.transport.get_write_buffer_size.return_value = 1000
    edge.pause_writing()
    for left in (999, 500, 1):
        edge.transport.get_write_buffer_size.return_value = left
        looks.pop()()
        assert not edge.transport.abort.called
    looks.pop()()
    assert edge.transport.abort.called
    assert edge.config.app.state.request_log.connections_cut["unread"] == 1
    assert not looks
