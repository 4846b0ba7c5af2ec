"""The gateway connects only to the agents of its settings, whatever users write."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from typing_extensions import override

from tests.api.serving import SECONDS, Served, refused, serving
from tests.support.waiting import until


class Canary:
    """A port that nobody has reason to connect to."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def visits(self) -> int:
        """Return how many connections came since the last call."""
        count = 0
        while True:
            try:
                self.listener.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1


@pytest.fixture
def canary() -> Iterator[Canary]:
    canary = Canary()
    yield canary
    assert canary.visits() == 0
    # It does sing: what is counted here would have been counted above.
    with socket.create_connection(("127.0.0.1", canary.listener.getsockname()[1]), SECONDS):
        until(lambda: canary.visits() == 1, "the visit is seen")
    canary.listener.close()


@pytest.fixture
def detour(canary: Canary) -> Iterator[str]:
    """A service that sends everybody on to the canary, in every way there is."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(int(self.path.split("/")[1]))
            self.send_header("Location", canary.url)
            self.send_header("Refresh", f"0; url={canary.url}")
            self.send_header("Link", f"<{canary.url}>; rel=next")
            self.send_header("Alt-Svc", f'h2="{canary.url.partition("//")[2]}"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        @override
        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(SECONDS)
    server.server_close()


def wait_for_turn(api: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    answer = api.post("/chat", json=body, headers={"Prefer": "wait=30"})
    assert answer.status_code == 200, answer.text
    turn: dict[str, Any] = answer.json()
    return turn


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
@pytest.mark.parametrize("kind", ["http", "openai"])
def test_an_agents_server_cannot_redirect_the_gateway(
    detour: str, kind: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETOUR_KEY", "sk-not-for-others")
    agents = {
        "http": f"{detour}/{status}",
        "openai": f"openai:m?base_url={detour}/{status}&api_key_env=DETOUR_KEY",
    }
    with serving(agents={"default": agents[kind]}) as served, served.client() as api:
        turn = wait_for_turn(api, {"message": "hi"})
    assert turn["status"] == "failed"


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as running:
        yield running


def test_the_gateway_opens_no_url_of_a_message(served: Served, canary: Canary) -> None:
    url = f"{canary.url}/latest/meta-data"
    parts = [
        {"type": "image", "url": url, "media_type": "image/png"},
        {"type": "file", "url": url, "media_type": "text/plain", "name": url},
        {"type": "text", "text": f"![x]({url}) <img src='{url}'>"},
    ]
    everything = {
        "session_id": "s",
        "message": {"role": "user", "content": parts, "metadata": {"webhook": url}},
        "title": url,
        "working_dir": url,
        "metadata": {"callback_url": url, "avatar": url},
        "options": {"delay_ms": 0, "text": url},
    }
    headers = {
        "Origin": served.url,
        "Referer": url,
        "Forwarded": f"host={canary.url}",
        "X-Forwarded-Host": canary.url.removeprefix("http://"),
        "X-Forwarded-For": "127.0.0.1",
        "Link": f"<{url}>",
    }
    with served.client(headers=headers) as api:
        wait_for_turn(api, everything)
        for options in ({"base_url": url}, {"url": url}, {"callback": url}):
            body = {"session_id": "s", "message": "hi", "options": options}
            refused(api.post("/chat", json=body), 422, "option-refused")
        for agent in (url, f"openai:m?base_url={url}", "python:os:system"):
            answer = api.post("/chat", json={"message": "hi", "agent": agent})
            assert answer.status_code == 422
        for format_name in ("markdown", "json", "yaml"):
            document = api.get("/sessions/s/export", params={"format": format_name})
            if format_name != "markdown":
                assert api.post("/import", content=document.content).status_code == 201
            assert url in document.text.replace("\\", "")
        api.post("/sessions/s/summary")
        api.get("/sessions/s/report", headers={"Accept": "text/markdown"})
        api.put("/sessions/s/extensions/remote", json={"config": {"url": url}, "enabled": True})
        assert api.get("/sessions/s/diagnostics").is_success


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "file:///etc/passwd", "//host/share"])
def test_the_gateway_opens_no_url_in_a_body(served: Served, url: str) -> None:
    with served.client() as api:
        for kind in ("text/uri-list", "application/json", "application/octet-stream"):
            headers = {"Content-Type": kind, "Content-Location": url}
            assert api.post("/import", content=url, headers=headers).status_code == 422
