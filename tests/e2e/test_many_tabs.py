"""The page of examples/many_tabs in a real browser: eight tabs, and one connection for all."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from typing_extensions import override

from tests.processes import REPOSITORY, Gateway, environment, program
from tests.support.http_servers import http_server
from tests.support.waiting import until

pytestmark = pytest.mark.external_service

EXAMPLE = REPOSITORY / "examples" / "many_tabs"
TABS = 8
# Appended to the page: reports what is shown.
_REPORTER = b"""<script type="module">
  const session = new URLSearchParams(location.search).get("session");
  // One after the other: of two at once the earlier one may come last.
  let told = Promise.resolve();
  const tell = () => {
    const shown = { session, messages: messages.innerText, changes: changes.innerText };
    return fetch("/seen", { method: "POST", body: JSON.stringify(shown) });
  };
  const report = () => (told = told.then(tell, tell));
  new MutationObserver(report).observe(document.body, { childList: true, subtree: true });
</script>"""


class Tabs:
    """What each tab shows, as it has told, and the browser."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, str]] = {}
        self.debugger = ""

    def show(self, session: str, text: str, where: str = "messages") -> None:
        """Wait until the tab of a session shows a text."""
        until(
            lambda: text in self.seen.get(session, {}).get(where, ""),
            lambda: f"{session} shows {text!r}; it shows {self.seen.get(session)}",
        )

    def targets(self) -> list[dict[str, Any]]:
        """Return the open pages."""
        answer = httpx.get(f"{self.debugger}/json/list", trust_env=False, timeout=60)
        return [one for one in answer.json() if one["type"] == "page"]

    def open(self, url: str) -> None:
        # The whole query is the address of the page.
        opening = f"{self.debugger}/json/new?{quote(url, safe='')}"
        httpx.put(opening, trust_env=False, timeout=60).raise_for_status()

    def close(self, session: str) -> None:
        """Close the tab of a session."""
        (target,) = [one for one in self.targets() if f"session={session}&" in one["url"]]
        httpx.get(
            f"{self.debugger}/json/close/{target['id']}", trust_env=False, timeout=60
        ).raise_for_status()


@contextmanager
def page_server(tabs: Tabs) -> Iterator[str]:
    """Serve the example's files; yield their origin."""

    class Handler(SimpleHTTPRequestHandler):
        @override
        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/":
                super().do_GET()
                return
            page = (EXAMPLE / "index.html").read_bytes() + _REPORTER
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page)

        def do_POST(self) -> None:
            shown = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            tabs.seen[shown["session"]] = shown
            self.send_response(204)
            self.end_headers()

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http_server(partial(Handler, directory=str(EXAMPLE))) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def browsing(tabs: Tabs, directory: Path) -> Iterator[None]:
    """Run a browser whose tabs the test opens and closes."""
    browser = program("chromium", "chromium-browser", "google-chrome")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-proxy-server"]
    flags += ["--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", "--remote-debugging-port=0"]
    profile = directory / "profile"
    with (
        (directory / "chromium.log").open("ab") as log,
        subprocess.Popen(
            [browser, *flags, f"--user-data-dir={profile}", "about:blank"],
            env=environment(),
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            port_file = profile / "DevToolsActivePort"
            until(lambda: port_file.exists() and port_file.read_text(), "the browser runs")
            tabs.debugger = f"http://127.0.0.1:{port_file.read_text().splitlines()[0]}"
            yield
        finally:
            process.kill()


@contextmanager
def opened(directory: Path, count: int, more: str = "") -> Iterator[tuple[Tabs, Gateway, str]]:
    """Open tabs, each with a session of its own; yield what they show, and the page's address."""
    tabs = Tabs()
    with (
        page_server(tabs) as origin,
        Gateway(directory, {"BAMBOO_CORS_ORIGINS": origin}) as gateway,
        browsing(tabs, directory),
    ):
        base = f"{origin}/?gateway={gateway.url}&session="
        for number in range(count):
            tabs.open(f"{base}s-{number}&{more}")
        yield tabs, gateway, base


def say(gateway: Gateway, session: str, text: str) -> None:
    message = {"role": "assistant", "content": text}
    gateway.call("POST", f"/sessions/{session}/messages", json=message)


def connections(gateway: Gateway, session: str) -> list[str]:
    listed = gateway.call("GET", f"/sessions/{session}/connections")["connections"]
    return [one["connection_id"] for one in listed]


def open_streams(gateway: Gateway) -> int:
    text = gateway.http.get(f"{gateway.url}/metrics").text
    (line,) = [one for one in text.splitlines() if one.startswith("bamboo_streams_open ")]
    return int(float(line.split()[1]))


def test_eight_tabs_share_one_connection_and_each_shows_its_chat(tmp_path: Path) -> None:
    with opened(tmp_path, TABS) as (tabs, gateway, base):
        names = [f"s-{number}" for number in range(TABS)]
        until(
            lambda: all(
                httpx.get(f"{gateway.url}/api/v1/sessions/{name}", trust_env=False).is_success
                and connections(gateway, name)
                for name in names
            ),
            "every session is watched",
        )
        for name in names:
            say(gateway, name, f"only {name}")
        for name in names:
            tabs.show(name, f"only {name}")
            # All tabs hear of all sessions.
            for other in names:
                tabs.show(name, other, "changes")
        # Each tab that came had the worker connect again; the earlier connections end.
        until(
            lambda: len({tuple(connections(gateway, name)) for name in names}) == 1,
            "all sessions share one connection",
        )
        # One of the events, one of the changes.
        until(lambda: open_streams(gateway) == 2, "the earlier connections have ended")
        gateway.call("POST", "/chat", json={"session_id": "s-3", "message": "Hello"})
        tabs.show("s-3", "user: Hello")

        # A second tab of a session gets what was said before, and everything after.
        tabs.open(f"{base}s-1&again=1")
        until(lambda: len(tabs.targets()) == TABS + 2, "the tab is open")
        # Tabs that go take their sessions with them, and nobody else's.
        tabs.close("s-0")
        until(lambda: not connections(gateway, "s-0"), "nobody watches it any more")
        say(gateway, "s-2", "still here")
        tabs.show("s-2", "still here")

        # The gateway is killed: each tab goes on where it was.
        gateway.kill()
        gateway.start()
        say(gateway, "s-5", "after the crash")
        tabs.show("s-5", "after the crash")
        assert tabs.seen["s-5"]["messages"].count("only s-5") == 1
        gateway.call("DELETE", "/sessions/s-6")
        tabs.show("s-6", "The session has ended: deleted.")
        say(gateway, "s-7", "alone")
        tabs.show("s-7", "alone")


def test_a_browser_without_shared_workers_shows_the_same(tmp_path: Path) -> None:
    with opened(tmp_path, 2, "alone=1") as (tabs, gateway, _):
        for name in ("s-0", "s-1"):
            until(
                lambda name=name: (
                    httpx.get(  # type: ignore[misc]
                        f"{gateway.url}/api/v1/sessions/{name}", trust_env=False
                    ).is_success
                ),
                "the page has made its session",
            )
            say(gateway, name, f"only {name}")
            tabs.show(name, f"only {name}")
        assert connections(gateway, "s-0") != connections(gateway, "s-1")
