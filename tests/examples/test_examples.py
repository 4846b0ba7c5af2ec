"""Every example does what it says, run as a reader of `examples/README.md` runs it."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from typing_extensions import override

from tests.processes import REPOSITORY, Gateway, environment, free_port, lacking, program
from tests.support.waiting import until

EXAMPLES = REPOSITORY / "examples"
# Where `.ci/run` installs examples/requirements.txt: apart from what the gateway itself needs.
PACKAGES = REPOSITORY / ".venv" / "examples"


def run(*command: str, **settings: str) -> str:
    """Runs an example to its good end; gives what it printed."""
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Gateway(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway.url


def test_basic_usage(url: str) -> None:
    shown = run(sys.executable, "examples/basic_usage.py", BAMBOO_URL=url)
    assert "I counted 5 words" in shown
    assert "[count_words " in shown
    assert "The second answer: You said: “And these?”" in shown
    assert shown.count("  user ") == 2


@pytest.mark.parametrize("where", ["in memory", "in a directory"])
def test_session_manager(where: str, tmp_path: Path) -> None:
    shown = ""
    given = [str(tmp_path / "data")] if where == "in a directory" else []
    for _ in range(1 + len(given)):
        shown = run(sys.executable, "examples/session_manager.py", *given)
        assert shown.strip().endswith("completed: No server was harmed.")
    types = [
        json.loads(line[6:])["type"] for line in shown.splitlines() if line.startswith("data:")
    ]
    assert types[-2:] == ["message", "complete"]
    assert ("session_created" in types) == (not given), "the second time it was there already"


def test_gateway_integration(url: str) -> None:
    shown = run(sys.executable, "examples/gateway_integration.py", BAMBOO_URL=url)
    assert "The network is lost in mid-sentence" in shown
    assert "none missing, none twice" in shown
    assert "The branch 'Another way' has 8 messages, the conversation it came from 4." in shown


@pytest.mark.external_service
def test_pydantic_ai_agent(tmp_path: Path) -> None:
    if PACKAGES.exists():
        found = {"PYTHONPATH": str(PACKAGES)}
    elif find_spec("pydantic_ai") is not None:
        found = {}
    else:
        lacking("pydantic-ai (pip install --require-hashes -r examples/requirements.txt)")
    flags = ["--agent", "default=python:examples.pydantic_ai_agent:answer"]
    with Gateway(tmp_path, found, flags) as gateway:
        # The test model calls its tool in the first turn only.
        for words in ('{"count_words":1}', "success (no tool calls)"):
            chat = {"session_id": "s", "message": "How many words are these?"}
            answer = gateway.call("POST", "/chat", json=chat, headers={"Prefer": "wait=30"})
            assert answer["status"] == "completed", answer["error"]
            assert answer["message"]["content"] == words
            assert answer["usage"]["total_tokens"] > 0
        said = gateway.call("GET", "/sessions/s/messages")["messages"]
    assert [message["role"] for message in said] == [
        *["user", "assistant", "tool", "assistant"],
        *["user", "assistant"],
    ]
    assert said[1]["tool_calls"][0]["name"] == "count_words"


def test_check_log(tmp_path: Path) -> None:
    with Gateway(tmp_path) as gateway:
        chat = {"session_id": "s", "message": "Hi!", "options": {"delay_ms": 0}}
        gateway.call(
            "POST", "/chat", json=chat, headers={"Prefer": "wait=30", "Idempotency-Key": "k"}
        )
        last = gateway.events("s")[-1]["seq"]
        assert gateway.stop() == 0
    log = gateway.data_dir / "events" / "s.jsonl"
    shown = run(sys.executable, "examples/check_log.py", str(log))
    assert shown == f"All checksums fit. The last event has the seq {last}.\n"
    log.write_bytes(log.read_bytes().replace(b'"Hi!"', b'"Ho!"'))
    with pytest.raises(AssertionError, match="damaged"):
        run(sys.executable, "examples/check_log.py", str(log))


def test_python_agent(tmp_path: Path) -> None:
    flags = ["--agent", "default=python:examples.python_agent:answer"]
    with Gateway(tmp_path, flags=flags) as gateway:
        said = []
        for words in ("How many people live in Oslo?", "And in Atlantis?", " "):
            chat = {"session_id": "s", "message": words}
            said.append(gateway.call("POST", "/chat", json=chat, headers={"Prefer": "wait=30"}))
        assert said[0]["message"]["content"].startswith("About 700,000 people live in Oslo. ")
        assert "oslo, paris, tokyo only" in said[1]["message"]["content"]
        assert said[1]["message"]["content"].endswith("You have asked 1 questions before.")
        assert said[2]["error"] == {"code": "no_city", "message": "Name a city."}
        events = gateway.events("s")
    assert [event["value"]["name"] for event in events if event["type"] == "custom"] == ["oslo"]


@contextmanager
def node_agent() -> Iterator[str]:
    port = free_port()
    with subprocess.Popen(
        [program("node"), "examples/node_agent.mjs"],
        cwd=REPOSITORY,
        env=environment(PORT=str(port)),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert "listens" in process.stdout.readline()
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.kill()


@pytest.mark.external_service
def test_node_agent(tmp_path: Path) -> None:
    with (
        node_agent() as agent,
        Gateway(tmp_path, flags=["--agent", f"default={agent}"]) as gateway,
    ):
        chat = {"message": "bamboo", "session_id": "s"}
        answer = gateway.call("POST", "/chat", json=chat, headers={"Prefer": "wait=30"})
        assert answer["message"]["content"] == "Backwards that reads: oobmab"
        said = gateway.call("GET", "/sessions/s/messages")["messages"]
        assert [message["role"] for message in said] == ["user", "assistant", "tool", "assistant"]


@pytest.mark.external_service
def test_external_producer(url: str) -> None:
    program("curl")
    shown = run(program("bash"), "examples/external_producer.sh", "built", BAMBOO_URL=url)
    answers = [json.loads(line) for line in shown.splitlines()]
    assert answers[-1]["status"] == "completed"
    assert answers[-2]["count"] == 6
    with httpx.Client(trust_env=False, timeout=60) as client:
        page = client.get(f"{url}/api/v1/sessions/built/messages").json()
    said = [(message["role"], message["content"]) for message in page["messages"]]
    assert said == [
        ("user", "Build it, please."),
        ("assistant", ""),
        ("tool", "3 steps"),
        ("assistant", "The build is done."),
    ]


# Appended to the page by the test's server: types a message, and reports what is shown.
_READER = b"""<script>
  const report = () => fetch("/seen", { method: "POST", body: messages.innerText });
  new MutationObserver(report).observe(messages, { childList: true, subtree: true });
  document.forms[0].words.value = "Hello from a page";
  setTimeout(() => document.forms[0].requestSubmit(), 500);
</script>"""


@contextmanager
def served_page(seen: list[str]) -> Iterator[str]:
    """Serves the example page; gives its origin."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer((EXAMPLES / "browser.html").read_bytes() + _READER)

        def do_POST(self) -> None:
            seen.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, name="page")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(60)
        server.server_close()


@pytest.mark.external_service
def test_browser(tmp_path: Path) -> None:
    """The page itself in Chromium: what was said before, what is sent, and its answer."""
    browser = program("chromium", "chromium-browser", "google-chrome")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-proxy-server"]
    flags += ["--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"]
    # What is shown at one moment; of several moments the reports may overtake each other.
    seen: list[str] = []
    wanted = ["user: Before", "user: Hello from a page", "I counted 4 words"]
    with (
        served_page(seen) as origin,
        Gateway(tmp_path, {"BAMBOO_CORS_ORIGINS": origin}) as gateway,
        (tmp_path / "chromium.log").open("ab") as log,
    ):
        gateway.call("POST", "/chat", json={"session_id": "browser", "message": "Before"})
        page = f"{origin}/browser.html?gateway={gateway.url}"
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        with subprocess.Popen(
            [browser, *flags, profile, page], env=environment(), stdout=log, stderr=log
        ) as process:
            try:
                until(
                    lambda: any(all(words in shown for words in wanted) for shown in list(seen)),
                    lambda: f"the page shows {wanted} at once; it shows {seen[-1:]}",
                )
            finally:
                process.kill()


def test_every_example_is_in_their_readme_and_no_other() -> None:
    page = (EXAMPLES / "README.md").read_text("utf-8")
    files = {path.name + "/" * path.is_dir() for path in EXAMPLES.iterdir()} - {"__pycache__/"}
    shown = {name for name in files if f"`{name}`" in page}
    assert files - {"README.md"} == shown
    assert os.access(EXAMPLES / "external_producer.sh", os.X_OK)
