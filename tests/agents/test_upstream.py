"""The client of model servers and HTTP agents, byte by byte, on both event loops."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from bamboo_gateway.agents.base import AgentError
from bamboo_gateway.agents.upstream import Upstream, Waits
from bamboo_gateway.agents.upstream_route import Route
from tests.agents.scripted_server import (
    CUT,
    END,
    Script,
    ScriptedServer,
    Step,
    chunk,
    head,
    scripted,
    whole,
)
from tests.agents.turns import DEADLINE_SECONDS, let_pass

# The gateway runs on uvloop where there is one; its transports are other code than asyncio's.
LOOPS = [pytest.param(("asyncio", {"use_uvloop": uvloop}), id=name)
         for name, uvloop in (("asyncio", False), ("uvloop", True))]  # fmt: skip
on_both_loops = pytest.mark.parametrize("anyio_backend", LOOPS)
OK = b"HTTP/1.1 200 OK\r\n"


@asynccontextmanager
async def playing(
    *scripts: Script, keeps_alive: bool = True, **waits: Any
) -> AsyncIterator[tuple[Upstream, ScriptedServer]]:
    async def no_sleep(_: float) -> None:
        pass

    async with scripted(*scripts) as server:
        upstream = Upstream(
            f"{server.url}/ask",
            what="service",
            waits=Waits(**{"retries_max": 0} | waits),
            retried_statuses=(),
            keeps_alive=keeps_alive,
            sleep=no_sleep,
        )
        try:
            with anyio.fail_after(DEADLINE_SECONDS):
                yield upstream, server
        finally:
            await upstream.aclose()


async def answer_of(upstream: Upstream, body: bytes = b"{}") -> bytes:
    async with upstream.post(body, {"X-Test": "yes"}) as answer:
        return await answer.read(1 << 30)


async def code_of(*steps: Step, **waits: Any) -> str:
    async with playing(steps, **waits) as (upstream, _):
        with pytest.raises(AgentError) as caught:
            await answer_of(upstream)
    return caught.value.code


@on_both_loops
@pytest.mark.parametrize(
    "steps",
    [
        [head(), chunk(b"Hel"), chunk(b"lo"), END],
        [head(), b"3;x=y\r\nHel\r\n2 \r\nlo\r\n0\r\nX-Trailer: yes\r\n\r\n"],
        [OK + b"Content-Length: 5\r\n\r\nHello"],
        [OK + b"Content-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n", chunk(b"Hello"), END],
        [OK + b"connection: close\r\n\r\nHel", b"lo"],
        [b"HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nHello"],
        [OK.replace(b"\r\n", b"\n") + b"Content-Length: 5\nX:y\n\nHello"],
        [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
         + OK + b"content-length: 5\r\n\r\nHello"],
        [OK + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nHello"],
        [bytes([byte]) for byte in OK + b"Content-Length: 5\r\n\r\nHello"],
    ],
)  # fmt: skip
async def test_every_way_to_send_a_body_is_understood(steps: Script) -> None:
    async with playing(steps) as (upstream, server):
        assert await answer_of(upstream) == b"Hello"
    assert server.requests[0].method == "POST"
    assert server.requests[0].headers == {
        "host": f"127.0.0.1:{server.port}",
        "accept-encoding": "identity",
        "user-agent": "bamboo-gateway",
        "x-test": "yes",
        "content-length": "2",
    }


@on_both_loops
@pytest.mark.parametrize(
    "steps",
    [
        [b"SSH-2.0-nobody\r\n"],
        [b"HTTP/1.1 twohundred OK\r\n\r\n"],
        [OK + b"X: " + b"y" * 1_000_000],
        [b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000],
        [b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"],
        [CUT],
    ],
)
async def test_what_is_no_http_is_no_answer(steps: Script) -> None:
    assert await code_of(*steps) == "upstream_unreachable"


@on_both_loops
@pytest.mark.parametrize(
    "steps",
    [
        [head(), chunk(b"Hel"), b"zz\r\n"],
        [head(), chunk(b"Hel"), CUT],
        [OK + b"connection: close\r\nContent-Length: 9\r\n\r\nHello"],
        [OK + b"connection: close\r\nTransfer-Encoding: chunked\r\n\r\n", chunk(b"Hello")],
    ],
)
async def test_a_body_that_breaks_off_is_incomplete_and_what_came_before_counts(
    steps: Script,
) -> None:
    got = b""

    async def hear(upstream: Upstream) -> None:
        nonlocal got
        async with upstream.post(b"", {}) as answer:
            while (piece := await answer.next_chunk()) is not None:
                got += piece

    async with playing(steps) as (upstream, _):
        with pytest.raises(AgentError) as caught:
            await hear(upstream)
    assert caught.value.code == "upstream_incomplete"
    # A reset may overtake what was sent before it.
    assert got in {b"Hel", b"Hello"} or CUT in steps


async def test_an_answer_that_is_compressed_all_the_same_is_refused() -> None:
    assert await code_of(head(content_encoding="gzip"), chunk(b"\x1f\x8b"), END) == (
        "upstream_invalid"
    )


@on_both_loops
async def test_a_connection_is_used_again_after_a_whole_answer() -> None:
    refused = whole(400, {"error": "no"})
    async with playing(whole(200, 1), refused, whole(200, 2)) as (upstream, server):
        assert await answer_of(upstream) == b"1"
        with pytest.raises(AgentError, match="no"):
            await answer_of(upstream)
        assert await answer_of(upstream) == b"2"
    assert server.connections == 1


@on_both_loops
@pytest.mark.parametrize(
    "first",
    [
        # What was not asked for must not become the next answer.
        [OK + b"Content-Length: 1\r\n\r\n1" + OK + b"Content-Length: 1\r\n\r\nx"],
        [OK + b"Content-Length: 1\r\n\r\n1", CUT],
        [OK + b"connection: close\r\nContent-Length: 1\r\n\r\n1"],
        [b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n1"],
    ],
)
async def test_a_connection_of_no_further_use_is_not_used_again(first: Script) -> None:
    async with playing(first, whole(200, 2), whole(200, 2), retries_max=1) as (upstream, server):
        assert await answer_of(upstream) == b"1"
        assert await answer_of(upstream) == b"2"
    assert server.connections == 2


@on_both_loops
@pytest.mark.parametrize(
    "unasked",
    [
        OK + b"Content-Length: 1\r\n\r\nx",
        OK + b"Content-Length: 1\r\n\r\n",
        b"HTTP/1.1 2",
        b"no HTTP\r\n",
    ],
)
async def test_what_a_server_says_between_two_requests_is_no_answer(unasked: bytes) -> None:
    """The next request may be another user's."""
    is_read = anyio.Event()
    first: Script = [*whole(200, 1), is_read, unasked, anyio.Event()]
    async with playing(first, whole(200, 2)) as (upstream, server):
        assert await answer_of(upstream) == b"1"
        is_read.set()
        await server.left.wait()
        assert await answer_of(upstream) == b"2"
    assert server.connections == 2


async def test_an_agents_connections_are_not_used_again() -> None:
    async with playing(whole(200, 1), whole(200, 2), keeps_alive=False) as (upstream, server):
        assert await answer_of(upstream) == b"1"
        assert await answer_of(upstream) == b"2"
    assert server.connections == 2


async def test_a_connection_that_was_idle_for_long_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with playing(whole(200, 1), whole(200, 2)) as (upstream, server):
        assert await answer_of(upstream) == b"1"
        let_pass(5.1, monkeypatch)
        assert await answer_of(upstream) == b"2"
    assert server.connections == 2


async def test_a_silence_is_counted_from_the_last_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = anyio.Event(), anyio.Event()
    script: Script = [head(), chunk(b"1"), first, chunk(b"2"), second, chunk(b"3"), anyio.Event()]
    heard: list[bytes | None] = []

    async def hear(upstream: Upstream) -> None:
        async with upstream.post(b"", {}) as answer:
            while True:
                async with anyio.create_task_group() as tasks:
                    # Once the next chunk is waited for.
                    tasks.start_soon(go_on, len(heard))
                    heard.append(await answer.next_chunk())

    async def go_on(number: int) -> None:
        if number:
            let_pass(21 if number == 3 else 15, monkeypatch)
            (first, second, anyio.Event())[number - 1].set()

    async with playing(script, idle_timeout_seconds=20) as (upstream, server):
        with pytest.raises(BaseExceptionGroup) as caught:
            await hear(upstream)
        await server.left.wait()
    assert heard == [b"1", b"2", b"3"]
    (error,) = caught.value.exceptions
    assert isinstance(error, AgentError)
    assert error.code == "upstream_timeout"


@on_both_loops
async def test_a_reader_that_is_slow_holds_the_server_up() -> None:
    size = 16 << 20
    async with playing([OK + b"Content-Length: %d\r\n\r\n" % size, b"x" * size]) as (upstream, _):
        total = 0
        async with upstream.post(b"", {}) as answer:
            while (piece := await answer.next_chunk()) is not None:
                total += len(piece)
                assert len(piece) <= 1 << 20
                for _ in range(50):
                    await checkpoint()
    assert total == size


@on_both_loops
async def test_a_large_request_arrives_whole() -> None:
    async with playing(whole(200, 1)) as (upstream, server):
        await answer_of(upstream, b"x" * (8 << 20))
    assert server.requests[0].body == b"x" * (8 << 20)


@on_both_loops
async def test_a_server_that_says_nothing_during_the_handshake_cannot_be_reached() -> None:
    async with playing([]) as (_, server):
        upstream = Upstream(
            f"https://127.0.0.1:{server.port}/",
            what="service",
            waits=Waits(connect_timeout_seconds=0.05, retries_max=0),
            retried_statuses=(),
            keeps_alive=False,
        )
        with pytest.raises(AgentError) as caught:
            await answer_of(upstream)
    assert caught.value.code == "upstream_unreachable"


async def test_the_next_address_of_a_host_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()

    async def getaddrinfo(_: str, port: int, **__: object) -> list[tuple[Any, ...]]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        # Nobody listens on the first; the server has the second.
        return [(*kind, (address, port)) for address in ("127.0.0.2", "127.0.0.1")]

    async with playing(whole(200, 1)) as (_, server):
        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        upstream = Upstream(
            f"http://model.test:{server.port}/",
            what="service",
            waits=Waits(),
            retried_statuses=(),
            keeps_alive=False,
        )
        assert await answer_of(upstream) == b"1"
    assert server.requests[0].headers["host"] == f"model.test:{server.port}"


@pytest.mark.parametrize(
    ("url", "first_lines"),
    [
        ("http://Model.Example", "POST / HTTP/1.1\r\nHost: model.example"),
        ("http://a_b:80/x#y", "POST /x HTTP/1.1\r\nHost: a_b"),
        ("https://a.example:443/%20 ü?q=a b&r=%C3",
         "POST /%20%20%C3%BC?q=a%20b&r=%C3 HTTP/1.1\r\nHost: a.example"),
        ("https://grüße.example:8443/?", "POST / HTTP/1.1\r\nHost: xn--gre-6ka8l.example:8443"),
        ("http://[::1]/", "POST / HTTP/1.1\r\nHost: [::1]"),
        ("http://[::1]:81/", "POST / HTTP/1.1\r\nHost: [::1]:81"),
    ],
)  # fmt: skip
def test_a_request_names_what_its_url_names(url: str, first_lines: str) -> None:
    assert Route(url, 1).head_of("POST", {}).startswith(first_lines.encode() + b"\r\n")


@pytest.mark.parametrize(
    "url",
    ["http://a b/", "http://a/\r\nX:y", "http://a%0d/", "http://[::1", "http://a:0/", "ftp://a/",
     "http://-a/", "http://a\ud800/", "http:///x", "//a/", "http://a@b/", "http://a:x/"],
)  # fmt: skip
def test_a_url_that_cannot_be_asked_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="its URL"):
        Route(url, 1)


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\n", "a\0", "ü"])
def test_a_header_that_could_begin_another_is_refused(value: str) -> None:
    for headers in ({"X-Test": value}, {value: "x"}):
        with pytest.raises(ValueError, match="header"):
            Route("http://a/", 1).head_of("POST", headers)


@pytest.mark.parametrize(
    ("environment", "is_used"),
    [
        ({"HTTP_PROXY": "http://p:1"}, True),
        ({"http_proxy": "p:1"}, True),
        ({"ALL_PROXY": "http://p"}, True),
        ({"HTTPS_PROXY": "http://p"}, False),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "*"}, False),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "a, x.example"}, False),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "EXAMPLE"}, False),
        ({"ALL_PROXY": "http://p", "NO_PROXY": ".example"}, False),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "*.example"}, False),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "x.example:80"}, False),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "http://x.example"}, False),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "x.example:81"}, True),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "https://x.example"}, True),
        ({"ALL_PROXY": "http://p", "NO_PROXY": ".x.example"}, True),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "ample,127.0.0.1,::1"}, True),
    ],
)
def test_proxies_are_those_of_the_environment(
    environment: dict[str, str], is_used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    head = Route("http://x.example/y", 1).head_of("POST", {})
    assert head.startswith(b"POST http://x.example/y " if is_used else b"POST /y ")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_an_address_is_exempt_from_proxies_by_its_name_alone(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://p")
    monkeypatch.setenv("NO_PROXY", address)
    for host, target in (("127.0.0.1", b"POST /"), ("[::1]", b"POST /")):
        is_exempt = address in host
        head = Route(f"http://{host}/", 1).head_of("POST", {})
        assert head.startswith(target + b" ") == is_exempt


@pytest.mark.parametrize("proxy", ["socks5://p:1", "http://", "http://p:0", "http://a b"])
def test_a_proxy_that_cannot_be_used_is_refused(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ValueError, match="proxy"):
        Route("http://a/", 1)


def test_certificates_that_cannot_be_read_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    with pytest.raises(ValueError, match="certificate"):
        Route("https://a/", 1)
