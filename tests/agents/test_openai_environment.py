"""What the environment says about the way to the server: proxies and certificates."""

import asyncio
import ssl
import subprocess
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest
from typing_extensions import override

from bamboo_gateway.agents.base import AgentError
from bamboo_gateway.agents.factory import make_agent
from bamboo_gateway.api.urls import session_answer
from bamboo_gateway.settings import Settings
from tests.agents.scripted_server import ScriptedServer, scripted, stream
from tests.agents.test_openai import HELLO, HELLO_EVENTS
from tests.agents.test_upstream import LOOPS
from tests.agents.turns import DEADLINE_SECONDS, events_of, turn_of
from tests.processes import program


async def test_a_proxy_is_used_and_not_for_the_hosts_that_need_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with scripted(stream(HELLO)) as proxy, scripted(stream(HELLO)) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        far = make_agent(
            "far", "openai:tiny?base_url=http://model.invalid/v1", Settings(), session_answer
        )
        near = make_agent(
            "near", f"openai:tiny?base_url={server.url}/v1", Settings(), session_answer
        )
        assert await events_of(far, turn_of()) == HELLO_EVENTS
        assert await events_of(near, turn_of()) == HELLO_EVENTS
        await far.aclose()
        await near.aclose()
    assert proxy.requests[0].path == "http://model.invalid/v1/chat/completions"
    assert server.requests[0].path == "/v1/chat/completions"


@asynccontextmanager
async def _secured(
    server: ScriptedServer, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[int]:
    """Serve over TLS; return the port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    # What the one server that refuses the handshake would log is not of interest.
    monkeypatch.setattr(asyncio.get_running_loop(), "call_exception_handler", lambda _: None)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context)
    async with listener:
        yield listener.sockets[0].getsockname()[1]


@pytest.mark.external_service
async def test_certificates_are_those_of_ssl_cert_file_and_are_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate = _certificate(tmp_path)
    async with _secured(ScriptedServer([stream(HELLO)]), certificate, monkeypatch) as port:
        url = f"openai:tiny?base_url=https://127.0.0.1:{port}/v1&retries_max=0"
        distrusting = make_agent("a", url, Settings(), session_answer)
        with pytest.raises(AgentError) as caught:
            await events_of(distrusting, turn_of())
        assert caught.value.code == "upstream_unreachable"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        trusting = make_agent("b", url, Settings(), session_answer)
        assert await events_of(trusting, turn_of()) == HELLO_EVENTS
        # The certificate is for the address, and for no name.
        named = make_agent("c", url.replace("127.0.0.1", "localhost"), Settings(), session_answer)
        with pytest.raises(AgentError) as caught:
            await events_of(named, turn_of())
        assert caught.value.code == "upstream_unreachable"
        for agent in distrusting, trusting, named:
            await agent.aclose()


class _Tunnel(ScriptedServer):
    """A proxy that opens one tunnel, and records what it was asked."""

    @override
    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await self._answer(reader, writer)
        host, _, port = self.requests[-1].path.rpartition(":")
        beyond, to_server = await asyncio.open_connection(host, int(port))

        async def pass_on(given: asyncio.StreamReader, taker: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError):
                while data := await given.read(65536):
                    taker.write(data)
            taker.close()

        await asyncio.gather(pass_on(reader, to_server), pass_on(beyond, writer))
        with suppress(ConnectionError):
            await asyncio.gather(to_server.wait_closed(), writer.wait_closed())
        self.left.set()


@pytest.mark.external_service
@pytest.mark.parametrize("proxy_kind", ["http", "https"])
@pytest.mark.parametrize("anyio_backend", LOOPS)
async def test_a_server_with_tls_is_asked_through_a_proxys_tunnel(
    proxy_kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate = _certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    opened = [b"HTTP/1.1 200 Connection established\r\n\r\n"]
    proxy, server = _Tunnel([opened]), ScriptedServer([stream(HELLO)])
    async with _secured(server, certificate, monkeypatch) as port, AsyncExitStack() as stack:
        if proxy_kind == "https":
            proxy_port = await stack.enter_async_context(_secured(proxy, certificate, monkeypatch))
        else:
            listener = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
            await stack.enter_async_context(listener)
            proxy_port = listener.sockets[0].getsockname()[1]
        monkeypatch.setenv("HTTPS_PROXY", f"{proxy_kind}://me:p%40ss@127.0.0.1:{proxy_port}")
        url = f"openai:tiny?base_url=https://127.0.0.1:{port}/v1&retries_max=0"
        agent = make_agent("a", url, Settings(), session_answer)
        assert await events_of(agent, turn_of()) == HELLO_EVENTS
        await agent.aclose()
        with anyio.fail_after(DEADLINE_SECONDS):
            await proxy.left.wait()
    asked = proxy.requests[0]
    assert (asked.method, asked.path) == ("CONNECT", f"127.0.0.1:{port}")
    assert asked.headers == {
        "host": f"127.0.0.1:{port}",
        "proxy-authorization": "Basic " + b64encode(b"me:p@ss").decode(),
    }
    assert "proxy-authorization" not in server.requests[0].headers


async def test_a_proxy_that_opens_no_tunnel_makes_the_server_unreachable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refusal = [b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"]
    async with scripted(refusal) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        url = "openai:tiny?base_url=https://model.invalid/v1&retries_max=0"
        agent = make_agent("a", url, Settings(), session_answer)
        with pytest.raises(AgentError) as caught:
            await events_of(agent, turn_of())
        assert caught.value.code == "upstream_unreachable"
        await agent.aclose()
    assert proxy.requests[0].path == "model.invalid:443"


def _certificate(folder: Path) -> Path:
    """Make a certificate for 127.0.0.1 that nobody else has signed; key and all in one file."""
    both = folder / "both.pem"
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    extensions = ["subjectAltName=IP:127.0.0.1", "keyUsage=critical,digitalSignature,keyCertSign"]
    subprocess.run(
        [
            program("openssl"),
            *command.split(),
            *["-subj", "/CN=test", "-keyout", str(both), "-out", str(folder / "certificate")],
            *[word for extension in extensions for word in ("-addext", extension)],
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )
    both.write_bytes(both.read_bytes() + (folder / "certificate").read_bytes())
    return both
