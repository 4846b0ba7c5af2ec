"""Every example does what it says, run as a reader of `examples/README.md` runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from importlib.util import find_spec
from pathlib import Path

import pytest
from typing_extensions import override

from tests.processes import REPOSITORY, Gateway, environment, free_port, lacking, program
from tests.support.chromium import page_at
from tests.support.clients import local_client
from tests.support.http_servers import http_server
from tests.support.waiting import until

EXAMPLES = REPOSITORY / "examples"
# Where `.ci/run` installs examples/requirements.txt: apart from what the gateway itself needs.
PACKAGES = REPOSITORY / ".venv" / "examples"


def run(*command: str, **settings: str) -> str:
    """Run an example to its good end; return what it printed."""
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


def test_python_client(url: str) -> None:
    shown = run(sys.executable, "examples/python_client.py", BAMBOO_URL=url)
    assert "[count_words {" in shown
    assert "Again: " in shown
    assert "Asked: " in shown
    assert "Approved: " in shown
    assert "Failed: no_luck" in shown
    assert "  user      And these?" in shown


def test_python_client_async(url: str) -> None:
    with local_client(base_url=f"{url}/api/v1", timeout=60) as http:
        http.post("/sessions", json={"id": "watched"})
        http.post("/sessions/watched/messages", json={"role": "user", "content": "Before"})
        with subprocess.Popen(
            [sys.executable, "-u", "examples/python_client_async.py", "watched"],
            cwd=REPOSITORY,
            env=environment(BAMBOO_URL=url),
            stdout=subprocess.PIPE,
            text=True,
        ) as watching:
            try:
                assert watching.stdout is not None
                assert watching.stdout.readline() == "user: Before\n"
                http.post("/sessions/watched/messages", json={"role": "user", "content": "After"})
                assert watching.stdout.readline() == "user: After\n"
                http.post("/sessions/watched/close")
                assert watching.wait(60) == 0
            finally:
                watching.kill()


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


def test_embedding_basic_usage(tmp_path: Path) -> None:
    for _ in range(2):
        shown = run(sys.executable, "examples/embedding_basic_usage.py", str(tmp_path))
        assert shown == "My Chat: Hello!\n"


def test_embedding_session_manager(tmp_path: Path) -> None:
    shown = run(sys.executable, "examples/embedding_session_manager.py", str(tmp_path))
    assert shown.splitlines() == [
        "2: message",
        "3: custom",
        "After the reconnect: I am still here.",
        "4 messages, 1 branch",
        "The resume message says: True",
        "3 messages of the user's",
        "archived 1, failed 1",
        "chat.md has bytes",
        "In the archive: Chat Title",
        "cleaned 0",
    ]
    assert "I am still here." in (tmp_path / "chat.md").read_text("utf-8")


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


def test_paying_agent(tmp_path: Path) -> None:
    flags = ["--agent", "default=python:examples.paying_agent:answer"]
    waits = {"Prefer": "wait=30"}
    with Gateway(tmp_path, flags=flags) as gateway:
        for session, approved, said in (("yes", True, "Paid."), ("no", False, "I did not pay")):
            chat = {"session_id": session, "message": "Pay it"}
            gateway.call("POST", "/chat", json=chat, headers=waits)
            [request] = gateway.call("GET", f"/sessions/{session}/inputs")["inputs"]
            body = {"answers": {request["request_id"]: {"approved": approved}}}
            path = f"/sessions/{session}/inputs"
            ended = gateway.call("POST", path, json=body, headers=waits)
            assert ended["message"]["content"].startswith(said)


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
    with local_client(timeout=60) as client:
        page = client.get(f"{url}/api/v1/sessions/built/messages").json()
    said = [(message["role"], message["content"]) for message in page["messages"]]
    assert said == [
        ("user", "Build it, please."),
        ("assistant", ""),
        ("tool", "3 steps"),
        ("assistant", "The build is done."),
    ]


# Appended to the page by the test's server: reports what is shown, and acts as a reader would.
_REPORTER = b"""<script>
  const report = () => fetch("/seen", { method: "POST", body: messages.innerText });
  new MutationObserver(report).observe(messages, { childList: true, subtree: true });
</script>"""
_WRITER = b"""<script>
  document.forms[0].words.value = "Hello from a page";
  setTimeout(() => document.forms[0].requestSubmit(), 500);
</script>"""
_ASKS_FOR_EARLIER = b"""<script>
  const click = new MutationObserver(() => earlier.hidden || (click.disconnect(), earlier.click()));
  click.observe(earlier, { attributes: true });
</script>"""


@contextmanager
def served_page(seen: list[str], acts: bytes) -> Iterator[str]:
    """Serve the example page with a script that acts in it; yield its origin."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer((EXAMPLES / "browser.html").read_bytes() + _REPORTER + acts)

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

    with http_server(Handler) as port:
        yield f"http://127.0.0.1:{port}"


class Page:
    """The example page in Chromium, and a gateway for it."""

    def __init__(self, gateway: Gateway, seen: list[str]) -> None:
        self.gateway = gateway
        # What is shown at one moment; of several moments the reports may overtake each other.
        self._seen = seen

    def shows(self, *wanted: str) -> str:
        """Wait until all of this is shown at one moment; return what is."""
        until(
            lambda: any(all(words in shown for words in wanted) for shown in list(self._seen)),
            lambda: f"the page shows {wanted} at once; it shows {self._seen[-1:]}",
        )
        return next(shown for shown in list(self._seen) if all(words in shown for words in wanted))


@contextmanager
def page_of(
    tmp_path: Path, prepare: Callable[[Gateway], object], acts: bytes = b""
) -> Iterator[Page]:
    """Open the page of a session that `prepare` has filled."""
    seen: list[str] = []
    with (
        served_page(seen, acts) as origin,
        Gateway(tmp_path, {"BAMBOO_CORS_ORIGINS": origin}) as gateway,
    ):
        prepare(gateway)
        with page_at(f"{origin}/browser.html?gateway={gateway.url}"):
            yield Page(gateway, seen)


def _say_120(gateway: Gateway) -> None:
    said = [{"role": "user", "content": f"m{number}."} for number in range(120)]
    gateway.call("POST", "/sessions", json={"id": "browser"})
    gateway.call("POST", "/sessions/browser/messages", json=said)


def _hold(gateway: Gateway) -> None:
    """Begin an answer that stays in its middle."""
    options = {"text": "one two three four", "hold": "middle", "delay_ms": 0, "tool": False}
    body = {"session_id": "browser", "message": "Go on", "run_id": "held", "options": options}
    gateway.call("POST", "/chat", json=body)
    until(
        lambda: any(
            event["type"] == "token" and event["content"].endswith("two ")
            for event in gateway.events("browser")
        ),
        "the answer is in its middle",
    )


@pytest.mark.external_service
def test_browser(tmp_path: Path) -> None:
    """The page itself in Chromium: what was said before, what is sent, and its answer."""

    def prepare(gateway: Gateway) -> None:
        gateway.call("POST", "/chat", json={"session_id": "browser", "message": "Before"})

    with page_of(tmp_path, prepare, _WRITER) as page:
        page.shows("user: Before", "user: Hello from a page", "I counted 4 words")


@pytest.mark.external_service
def test_browser_shows_the_latest_of_120_messages_and_then_what_is_new(tmp_path: Path) -> None:
    with page_of(tmp_path, _say_120, _WRITER) as page:
        shown = page.shows("user: Hello from a page", "I counted 4 words")
    lines = [line for line in shown.splitlines() if line.startswith("user: m")]
    assert lines == [f"user: m{number}." for number in range(20, 120)]


@pytest.mark.external_service
def test_browser_shows_earlier_messages_when_it_is_asked_to(tmp_path: Path) -> None:
    with page_of(tmp_path, _say_120, _ASKS_FOR_EARLIER) as page:
        shown = page.shows("user: m0.", "user: m119.")
    lines = [line for line in shown.splitlines() if line.startswith("user: m")]
    assert lines == [f"user: m{number}." for number in range(120)]


@pytest.mark.external_service
def test_browser_opened_in_mid_answer_shows_the_answer_from_its_beginning(tmp_path: Path) -> None:
    def prepare(gateway: Gateway) -> None:
        _say_120(gateway)
        _hold(gateway)

    with page_of(tmp_path, prepare) as page:
        shown = page.shows("assistant: one two", "user: m119.")
        assert shown.count("user: Go on") == 1
        page.gateway.call("POST", "/sessions/browser/runs/held/cancel")


# Going back is refused while the run is active: the reader tries again.
_ASKS_AGAIN_AND_GOES_BACK = b"""<script>
  let asked = false;
  const press = (title) => {
    const button = [...document.querySelectorAll("p button")].find((one) => one.title === title);
    button?.click();
    return Boolean(button);
  };
  setInterval(() => (asked ? press("\\u2039") : (asked = press("again"))), 300);
</script>"""


@pytest.mark.external_service
def test_browser_asks_again_and_goes_back(tmp_path: Path) -> None:
    def prepare(gateway: Gateway) -> None:
        chat = {"session_id": "browser", "message": "Before"}
        gateway.call("POST", "/chat", json=chat, headers={"Prefer": "wait=30"})

    with page_of(tmp_path, prepare, _ASKS_AGAIN_AND_GOES_BACK) as page:

        def is_back() -> bool:
            found = page.gateway.call("GET", "/sessions/browser/branches")["branches"]
            return len(found) == 2 and bool(found[0]["current"])

        until(is_back, "the first answer is the current one again")
        page.shows("user: Before", "assistant: ")


@pytest.mark.external_service
def test_a_page_that_streams_from_position_would_miss_the_answers_beginning(
    tmp_path: Path,
) -> None:
    """Why the page opens `stream_url`: in mid-answer `position` is a later place."""
    with Gateway(tmp_path) as gateway:
        _say_120(gateway)
        _hold(gateway)
        page = gateway.call("GET", "/sessions/browser/messages?order=desc")
        first = [message["content"] for message in page["messages"][:2]]
        assert first == ["Go on", "m119."]
        begins = page["stream_url"].split("after=")[1]
        seqs = [int(place.split("-")[1]) for place in (begins, page["position"])]
        between = [
            event for event in gateway.events("browser") if seqs[0] < event["seq"] <= seqs[1]
        ]
        assert [event["type"] for event in between[:2]] == ["message", "run_start"]
        tokens = [event["content"] for event in between if event["type"] == "token"]
        assert "".join(tokens) == "one two "
        gateway.call("POST", "/sessions/browser/runs/held/cancel")


def test_every_example_is_in_their_readme_and_no_other() -> None:
    page = (EXAMPLES / "README.md").read_text("utf-8")
    files = {path.name + "/" * path.is_dir() for path in EXAMPLES.iterdir()} - {"__pycache__/"}
    shown = {name for name in files if f"`{name}`" in page}
    assert files - {"README.md"} == shown
    assert os.access(EXAMPLES / "external_producer.sh", os.X_OK)


def test_webhook_receiver(tmp_path: Path) -> None:
    port = free_port()
    with Gateway(tmp_path, {"BAMBOO_WEBHOOK_PRIVATE_ADDRESSES": "true"}) as gateway:
        body = {"url": f"http://127.0.0.1:{port}/", "events": ["run.ended", "session.created"]}
        made = gateway.call("POST", "/webhooks", json=body)
        settings = {
            "WEBHOOK_SECRET": made["secret"],
            "WEBHOOK_DATABASE": str(tmp_path / "webhooks.db"),
            "PORT": str(port),
        }
        printed = tmp_path / "printed"
        with printed.open("wb") as out:
            process = subprocess.Popen(
                (sys.executable, "examples/webhook_receiver.py"),
                cwd=REPOSITORY,
                env=environment(**settings),
                stdout=out,
                stderr=out,
            )
        try:
            path = f"/webhooks/{made['id']}/test"
            until(lambda: gateway.call("POST", path)["status"] == 204, "it acknowledges")
            gateway.call("POST", "/chat", json={"session_id": "s-1", "message": "hi"})
            until(lambda: "run.ended" in printed.read_text("utf-8"), "it is told")
        finally:
            process.kill()
            process.wait()
    lines = printed.read_text("utf-8").splitlines()
    told = [line for line in lines if not line.startswith("webhook.test")]
    assert told == ["session.created s-1 created", "run.ended s-1 completed"]
