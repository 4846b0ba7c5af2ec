"""The official clients of OpenAI's protocol, unchanged: Python, Node.js, agents, the AI SDK."""

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from typing_extensions import override

from tests.api.serving import Served, serving
from tests.processes import REPOSITORY, Gateway
from tests.support.seen import check_files, check_what_people_see
from tests.wires.official import NODE_DIR, node, python
from tests.wires.openai_agent import URL

SECONDS = 120
SCRIPT = REPOSITORY / "tests" / "wires" / "clients" / "openai_python.py"


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(agents={"default": URL}) as running:
        yield running


def base_url(url: str) -> str:
    return f"{url}/api/v1/openai/v1"


def run(command: list[str], directory: Path = REPOSITORY) -> dict[str, Any]:
    """Return the last line that a client prints."""
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def test_the_python_client_reads_what_it_expects(served: Served) -> None:
    found = run([str(python()), str(SCRIPT), "responses", base_url(served.url)])
    assert found["text"].startswith("Two tools: ")


def test_openai_agents_runs_its_tools_and_goes_on(served: Served) -> None:
    assert run([str(python()), str(SCRIPT), "agents", base_url(served.url)]) == {
        "asked": ["Oslo", "Rome"]
    }


def test_the_node_clients_read_what_they_expect(served: Served) -> None:
    found = run([node(), "openai.mjs", base_url(served.url)], NODE_DIR)
    assert found["ai"] == "Results: sun, sun."


def test_the_page_shows_what_the_compliance_tests_say(served: Served) -> None:
    command = [str(python().parent / "llm-comply"), "-u", base_url(served.url), "-k", "key"]
    done = subprocess.run(
        [*command, "-m", "default", "--json"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    results = json.loads(done.stdout)["results"]
    page = (REPOSITORY / "docs" / "how-to" / "openai-clients.md").read_text()
    shown = dict(
        re.findall(r"^\| `([a-z-]+)` \| (passed|not served|skipped)\b", page, re.MULTILINE)
    )
    named = {"passed": "passed", "failed": "not served", "skipped": "skipped"}
    assert {one["id"]: named[one["status"]] for one in results} == shown
    not_served = [one["errors"][0] for one in results if one["status"] == "failed"]
    assert all(error.startswith("HTTP 405") for error in not_served)


def test_r2_a_client_resumes_by_number_after_the_gateway_was_killed_in_mid_answer(
    tmp_path: Path,
) -> None:
    agents = {"default": "demo:?hold=end&delay_ms=1&coalesce=false"}
    settings = {"BAMBOO_AGENTS": json.dumps(agents), "BAMBOO_CHECKPOINT_INTERVAL_SECONDS": "0.1"}
    with Gateway(tmp_path, settings) as gateway:
        command = [str(python()), str(SCRIPT), "resume", base_url(gateway.url)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as client:
            assert client.stdout is not None
            begun = json.loads(client.stdout.readline())
            gateway.kill()
            gateway.start()
            out, _ = client.communicate("go\n", timeout=SECONDS)
        assert client.returncode == 0
        found = json.loads(out.strip().splitlines()[-1])
        assert found["id"] == begun["id"]
        assert found["status"] == "failed"
        assert found["text"] == found["final"] != ""
        [session] = gateway.call("GET", "/sessions")["sessions"]
        page = gateway.call("GET", f"/sessions/{session['id']}/messages")
        last = page["messages"][-1]["content"]
        said = last if isinstance(last, str) else last[-1]["text"]
        assert (said, page["messages"][-1]["status"]) == (found["final"], "incomplete")


class _LosesTheFirstAnswer(BaseHTTPRequestHandler):
    """A proxy that passes each request on, and answers the first one with a 502."""

    upstream = ""
    lost = 0
    tries: list[str | None]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        kind = type(self)
        names = ("content-type", "authorization", "x-stainless-retry-count", "idempotency-key")
        headers = {name: self.headers[name] for name in names if name in self.headers}
        kind.tries.append(self.headers.get("x-stainless-retry-count"))
        answer = httpx.post(kind.upstream + self.path, content=body, headers=headers, timeout=60)
        kind.lost += 1
        self.send_response(502 if kind.lost <= 2 else answer.status_code)
        self.send_header("Content-Type", "application/json")
        content = b"{}" if kind.lost <= 2 else answer.content
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    @override
    def log_message(self, format: str, *args: object) -> None:
        del format, args


def test_retries_of_the_python_client_begin_no_second_run(served: Served) -> None:
    class Handler(_LosesTheFirstAnswer):
        upstream = served.url
        lost = 0
        tries = []

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=proxy.serve_forever, name="proxy")
    thread.start()
    try:
        url = base_url(f"http://127.0.0.1:{proxy.server_address[1]}")
        found = run([str(python()), str(SCRIPT), "retry", url])
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
    assert Handler.tries == ["0", "1", "2"]
    with served.client() as api:
        [session] = api.get("/sessions").json()["sessions"]
        assert found["conversation"] == f"conv_{session['id']}"
        assert len(api.get(f"/sessions/{session['id']}/runs").json()["runs"]) == 1


def test_a_repeat_after_a_restart_begins_no_second_run(tmp_path: Path) -> None:
    settings = {"BAMBOO_AGENTS": json.dumps({"default": "demo:?hold=middle&delay_ms=0"})}
    body = {"model": "default", "input": "once", "background": True}
    with Gateway(tmp_path, settings) as gateway:
        first = gateway.call(
            "POST", "/openai/v1/responses", json=body, headers={"x-stainless-retry-count": "0"}
        )
        gateway.kill()
        gateway.start()
        again = gateway.call(
            "POST", "/openai/v1/responses", json=body, headers={"x-stainless-retry-count": "1"}
        )
        assert again["id"] == first["id"]
        assert again["status"] == "failed"
        assert len(gateway.call("GET", "/sessions")["sessions"]) == 1


@pytest.mark.parametrize("storage_url", ["jsonl:", "sqlite:"])
def test_r9_what_was_deleted_stays_deleted_over_a_kill_and_people_see_the_same(
    tmp_path: Path, storage_url: str
) -> None:
    settings = {
        "BAMBOO_AGENTS": json.dumps({"default": "demo:?delay_ms=0&tool=false&thinking=false"}),
        "BAMBOO_STORAGE_URL": storage_url,
    }
    with Gateway(tmp_path, settings) as gateway:

        def create(words: str, **more: Any) -> Any:
            body = {"model": "default", "input": words, **more}
            return gateway.call("POST", "/openai/v1/responses", json=body)

        first = create("one")
        second = create("two", previous_response_id=first["id"])
        other = create("three", previous_response_id=first["id"])
        conversation = f"/openai/v1/conversations/{first['conversation']['id']}"
        items = gateway.call("GET", f"{conversation}/items")["data"]
        gateway.call("DELETE", f"{conversation}/items/{items[0]['id']}")
        gateway.call("DELETE", f"/openai/v1/responses/{second['id']}")
        session_id = first["conversation"]["id"].removeprefix("conv_")
        path = f"/sessions/{session_id}/messages"
        said = gateway.call("GET", path)["messages"]
        streams = {
            name: gateway.http.get(f"/openai/v1/responses/{name}?stream=true").text
            for name in (first["id"], other["id"])
        }
        gateway.kill()
        gateway.start()
        assert gateway.call("GET", path)["messages"] == said
        left = gateway.call("GET", f"{conversation}/items")["data"]
        assert left == items[1:]
        assert gateway.http.get(f"/openai/v1/responses/{second['id']}").status_code == 404
        for name, text in streams.items():
            assert gateway.http.get(f"/openai/v1/responses/{name}?stream=true").text == text
        check_what_people_see(gateway.http, {session_id: ()})
        gateway.stop()
    check_files(gateway.data_dir, storage_url)
