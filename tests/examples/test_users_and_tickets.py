"""The page with users and tickets: its server, and the page in a browser."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
from typing_extensions import override

from tests.processes import BAMBOO, REPOSITORY, Gateway, environment, free_port
from tests.support.chromium import page_at
from tests.support.clients import local_request
from tests.support.http_servers import http_server
from tests.support.waiting import until

EXAMPLE = REPOSITORY / "examples" / "users_and_tickets"
SETTINGS = {"BAMBOO_DRAIN_TIMEOUT_SECONDS": "0.2"}


@contextmanager
def application(gateway: Gateway, directory: Path, port: int) -> Iterator[str]:
    """Run the example's server with a key of the gateway's; yield its address."""
    where = environment(BAMBOO_DATA_DIR=str(gateway.data_dir))
    made = subprocess.run(
        [*BAMBOO, "keys", "create", "--service"], env=where, capture_output=True, check=True
    )
    settings = {"GATEWAY_KEY": made.stdout.decode().strip(), "GATEWAY_URL": gateway.url}
    with subprocess.Popen(
        [sys.executable, directory / "server.py"], env=environment(PORT=str(port), **settings)
    ) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            until(lambda: _answers(server, url), "the example's server answers")
            yield url
        finally:
            server.kill()


def _answers(server: subprocess.Popen[bytes], url: str) -> bool:
    assert server.poll() is None
    try:
        return local_request("GET", url).is_success
    except httpx.TransportError:
        return False


@contextmanager
def logged_in(url: str, name: str, password: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        assert client.post("/login", json={"name": name, "password": password}).is_success
        yield client


def test_each_user_gets_a_ticket_to_his_own_conversation(tmp_path: Path) -> None:
    with (
        Gateway(tmp_path, SETTINGS) as gateway,
        application(gateway, EXAMPLE, free_port()) as url,
        logged_in(url, "alice", "wonderland") as alice,
        logged_in(url, "bob", "builder") as bob,
    ):
        stranger = httpx.Client(base_url=url, trust_env=False)
        wrong = {"name": "alice", "password": "builder"}
        assert stranger.post("/login", json=wrong).status_code == 401
        assert stranger.post("/ticket").status_code == 401
        assert stranger.post("/say", json={"message": "Hi"}).status_code == 401
        stranger.close()

        assert alice.post("/say", json={"message": "Hello!"}).status_code == 202
        tickets = {"alice": alice.post("/ticket").json(), "bob": bob.post("/ticket").json()}
        assert tickets["alice"].keys() == {"gateway", "session_id", "ticket"}

        def read(whose: str, ticket: str) -> httpx.Response:
            session_id = tickets[whose]["session_id"]
            params = {"ticket": tickets[ticket]["ticket"], "order": "desc"}
            return gateway.http.get(f"/sessions/{session_id}/messages", params=params)

        page: dict[str, Any] = read("alice", "alice").json()
        assert page["messages"][-1]["content"] == "Hello!"
        assert f"ticket={tickets['alice']['ticket']}" in page["stream_url"]
        assert read("bob", "bob").json()["messages"] == []
        assert read("alice", "bob").is_error
        # A ticket only reads.
        ticket = {"ticket": tickets["alice"]["ticket"]}
        said = {"session_id": tickets["alice"]["session_id"], "message": "no"}
        assert gateway.http.post("/chat", json=said, params=ticket).status_code == 403


# Appended to the page: logs in, says something, reports what is shown, and says more when asked.
_READER = """<script>
  const told = (path, body) => fetch("SEEN" + path, { method: "POST", mode: "no-cors", body });
  new MutationObserver(() => told("/shown", messages.innerText))
    .observe(messages, { childList: true, subtree: true, characterData: true });
  const submit = (form, values) => {
    for (const [name, value] of Object.entries(values)) form.elements[name].value = value;
    form.requestSubmit();
  };
  const wait = setInterval(() => {
    if (!say.hidden) {
      clearInterval(wait);
      submit(say, { message: "Hello from a page" });
    }
  }, 100);
  submit(login, { name: "alice", password: "wonderland" });
</script>"""


@contextmanager
def listener(seen: list[str]) -> Iterator[str]:
    """Receive what the page reports; yield where."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http_server(Handler) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.external_service
def test_the_page_comes_back_with_a_new_ticket_when_its_old_one_has_expired(
    tmp_path: Path,
) -> None:
    seen: list[str] = []
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    settings = {**SETTINGS, "BAMBOO_CORS_ORIGINS": origin, "BAMBOO_TICKET_TTL_SECONDS": "1"}
    directory = tmp_path / "application"
    shutil.copytree(EXAMPLE, directory)

    def shows(*words: str) -> None:
        until(
            lambda: any(all(word in shown for word in words) for shown in list(seen)),
            lambda: f"the page shows {words} at once; it shows {seen[-1:]}",
        )

    with listener(seen) as where, Gateway(tmp_path, settings) as gateway:
        page = directory / "page.html"
        page.write_text(page.read_text("utf-8") + _READER.replace("SEEN", where), "utf-8")
        with (
            application(gateway, directory, port) as url,
            logged_in(url, "alice", "wonderland") as alice,
            page_at(url),
        ):
            shows("user: Hello from a page", "I counted 4 words")
            # Streams end; tickets of a second's life are old when the gateway is back.
            assert gateway.stop() == 0
            gateway.start()
            assert alice.post("/say", json={"message": "Still there?"}).is_success
            shows("Hello from a page", "user: Still there?", "I counted 2 words")
    audited = (gateway.data_dir / "audit.jsonl").read_text("utf-8").splitlines()
    assert sum(json.loads(line)["action"] == "ticket" for line in audited) > 1
