"""What the environment says about the way to the server: proxies and certificates."""

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest

from bamboo_gateway.agents.base import AgentError
from bamboo_gateway.agents.factory import make_agent
from bamboo_gateway.api.urls import session_answer
from bamboo_gateway.settings import Settings
from tests.agents.scripted_server import ScriptedServer, scripted, stream
from tests.agents.test_openai import HELLO, HELLO_EVENTS
from tests.agents.turns import events_of, turn_of
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


@pytest.mark.external_service
async def test_certificates_are_those_of_ssl_cert_file_and_are_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate = _certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    server = ScriptedServer([stream(HELLO)])
    # What the one server that refuses the handshake would log is not of interest.
    monkeypatch.setattr(asyncio.get_running_loop(), "call_exception_handler", lambda _: None)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        url = f"openai:tiny?base_url=https://127.0.0.1:{port}/v1&retries_max=0"
        distrusting = make_agent("a", url, Settings(), session_answer)
        with pytest.raises(AgentError) as caught:
            await events_of(distrusting, turn_of())
        assert caught.value.code == "upstream_unreachable"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        trusting = make_agent("b", url, Settings(), session_answer)
        assert await events_of(trusting, turn_of()) == HELLO_EVENTS
        await distrusting.aclose()
        await trusting.aclose()


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
