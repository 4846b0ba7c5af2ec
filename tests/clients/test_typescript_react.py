"""The React hook in a real browser: reloads, tabs, lost networks, a killed gateway."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, BrowserContext, Page
from typing_extensions import override

from tests.clients.typescript import built, npm_program, run
from tests.processes import Gateway
from tests.support.chromium import SECONDS, chromium
from tests.support.http_servers import http_server
from tests.support.waiting import until

pytestmark = pytest.mark.external_service

KEY = "secret"
AGENT = "demo:?delay_ms=0&thinking=false&tool=false"
LIST = "[...document.querySelectorAll('li')]"
Event = dict[str, Any]


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the page and its script; return their origin."""
    built()
    script = tmp_path_factory.mktemp("page") / "page.js"
    run([npm_program("esbuild"), "tests/page.mjs", "--bundle", "--format=esm", "--target=es2022",
         '--define:process.env.NODE_ENV="development"', f"--outfile={script}"])  # fmt: skip
    page = (
        b'<!doctype html><meta charset="utf-8"><body><script type="module" src="/page.js"></script>'
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_script = self.path == "/page.js"
            body = script.read_bytes() if is_script else page
            self.send_response(200)
            self.send_header("Content-Type", "text/javascript" if is_script else "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http_server(Handler) as port:
        yield f"http://127.0.0.1:{port}"


def started(directory: Path, origin: str) -> Gateway:
    settings = {
        "BAMBOO_CORS_ORIGINS": origin,
        "BAMBOO_API_KEYS": KEY,
        "BAMBOO_AGENTS": json.dumps({"default": AGENT}),
    }
    gateway = Gateway(directory, settings)
    gateway.http.headers["Authorization"] = f"Bearer {KEY}"
    return gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, origin: str) -> Iterator[Gateway]:
    with started(tmp_path_factory.mktemp("gateway"), origin) as running:
        yield running


@pytest.fixture(scope="module")
def running_browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def browser(running_browser: Browser) -> Iterator[BrowserContext]:
    with running_browser.new_context() as context:
        context.set_default_timeout(SECONDS * 1000)
        yield context


class Chat:
    """A tab with the page, and the session that it shows.

    Args:
        more: Further parameters of the page's address; without any it gets the key.
    """

    def __init__(
        self, browser: BrowserContext, gateway: Gateway, origin: str, session: str, **more: str
    ) -> None:
        self._gateway = gateway
        self.session = session
        asked = {"gateway": gateway.url, "session": session, **(more or {"token": KEY})}
        self.page: Page = browser.new_page()
        self.page.goto(f"{origin}/?{urlencode(asked)}")
        self.has("status", "idle", "running", "needs_input", "closed", "error")

    def has(self, name: str, *values: str) -> None:
        """Wait until the page shows one of these states."""
        found = f"document.querySelector('#chat')?.dataset.{name}"
        self.page.wait_for_function(f"{list(values)}.includes({found})")

    def shows(self, *texts: str) -> None:
        """Wait until the messages are these texts."""
        self.page.wait_for_function(f"JSON.stringify({LIST}.map((one) => one.textContent)) === "
                        f"JSON.stringify({list(texts)})")  # fmt: skip

    def do(self, call: str) -> Any:
        """Call a function of the hook."""
        return self.page.evaluate(
            f"chat.{call}.then(() => null, (error) => error.code ?? error.name)"
        )

    def is_true_to_the_gateway(self) -> None:
        """Check that what is shown is what the gateway answers, and what the log says."""
        path = f"/sessions/{self.session}/messages"
        told = self._gateway.call("GET", path, params={"limit": "1000"})["messages"]
        shown = self.page.evaluate("chat.messages")
        assert shown == told[-len(shown) :]


def external_run(gateway: Gateway, session: str) -> str:
    path = f"/sessions/{session}/runs"
    run_id: str = gateway.call("POST", path, json={"agent": "external"})["run_id"]
    return run_id


def post(gateway: Gateway, session: str, run_id: str, *events: Event) -> None:
    body = [{**event, "run_id": run_id} for event in events]
    gateway.call("POST", f"/sessions/{session}/events", json=body)


def token(text: str) -> Event:
    return {"type": "token", "content": text}


COMPLETE = {"type": "complete", "finish_reason": "stop"}


def test_an_answer_goes_on_after_a_reload_and_in_two_tabs(
    browser: BrowserContext, gateway: Gateway, origin: str
) -> None:
    first = Chat(browser, gateway, origin, "reload")
    assert first.do("send('Hello', {options: {text: 'One answer.'}})") is None
    first.shows("Hello", "One answer.")
    first.has("status", "idle")
    second = Chat(browser, gateway, origin, "reload")
    run_id = external_run(gateway, "reload")
    post(gateway, "reload", run_id, token("Half "))
    for chat in (first, second):
        chat.shows("Hello", "One answer.", "Half ")
        chat.has("status", "running")
    first.page.reload()
    first.shows("Hello", "One answer.", "Half ")
    first.has("status", "running")
    post(gateway, "reload", run_id, token("and "))
    first.shows("Hello", "One answer.", "Half and ")
    first.page.reload()
    post(gateway, "reload", run_id, token("whole."), COMPLETE)
    for chat in (first, second):
        chat.shows("Hello", "One answer.", "Half and whole.")
        chat.has("status", "idle")
        chat.is_true_to_the_gateway()


def test_what_is_sent_is_shown_at_once_and_once(
    browser: BrowserContext, gateway: Gateway, origin: str
) -> None:
    first = Chat(browser, gateway, origin, "sent")
    with gateway.held():
        first.page.evaluate("void chat.send('Wait for me', {options: {text: 'Here.'}})")
        first.shows("Wait for me")
        first.page.wait_for_function(f"{LIST}[0].dataset.status === 'sending'")
    first.shows("Wait for me", "Here.")
    first.has("status", "idle")
    first.is_true_to_the_gateway()
    # A refusal: the message stays, can be sent again as the same one, or taken away.
    assert first.do("send('No', {id: 'm-no', options: {unknown: 1}})") == "option-refused"
    first.page.wait_for_function(f"{LIST}.at(-1).dataset.status === 'failed'")
    first.page.wait_for_function(
        "document.querySelector('#error').textContent === 'option-refused'"
    )
    assert first.do("send('No', {id: 'm-no', options: {text: 'Yes.'}})") is None
    first.shows("Wait for me", "Here.", "No", "Yes.")
    first.page.wait_for_function("document.querySelector('#error').textContent === ''")


def test_a_page_that_was_offline_catches_up(
    browser: BrowserContext, gateway: Gateway, origin: str
) -> None:
    gateway.call("POST", "/sessions", json={"id": "offline"})
    chat = Chat(browser, gateway, origin, "offline")
    chat.has("connection", "open")
    browser.set_offline(True)
    chat.has("connection", "reconnecting")
    run_id = external_run(gateway, "offline")
    post(gateway, "offline", run_id, token("Said "))
    browser.set_offline(False)
    chat.shows("Said ")
    chat.has("connection", "open")
    post(gateway, "offline", run_id, token("meanwhile."), COMPLETE)
    chat.shows("Said meanwhile.")
    chat.is_true_to_the_gateway()


def test_a_killed_gateway_is_waited_for_in_mid_answer(
    browser: BrowserContext, origin: str, tmp_path: Path
) -> None:
    with started(tmp_path, origin) as own:
        own.call("POST", "/sessions", json={"id": "killed"})
        chat = Chat(browser, own, origin, "killed")
        chat.do("send('Go', {options: {text: 'One two three.', hold: 'middle'}})")
        chat.page.wait_for_function(f"{LIST}.at(-1)?.dataset.status === 'streaming'")
        own.kill()
        chat.has("connection", "reconnecting")
        own.start()
        chat.page.wait_for_function("document.querySelector('#run').textContent === 'interrupted'")
        chat.page.wait_for_function(f"{LIST}.at(-1)?.dataset.status === 'incomplete'")
        chat.has("status", "idle")
        chat.is_true_to_the_gateway()
        # Deleted and made again: another epoch, from which the page starts anew.
        own.call("DELETE", "/sessions/killed")
        chat.has("status", "gone")
        assert chat.do("send('Again', {options: {text: 'Anew.'}})") is None
        chat.shows("Again", "Anew.")
        chat.is_true_to_the_gateway()


def test_stop_regenerate_edit_and_select(
    browser: BrowserContext, gateway: Gateway, origin: str
) -> None:
    chat = Chat(browser, gateway, origin, "branches")
    other = "{options: {text: 'Another.'}}"
    chat.do("send('One', {options: {text: 'First.'}})")
    chat.shows("One", "First.")
    chat.has("status", "idle")
    assert chat.do(f"regenerate(undefined, {other})") is None
    chat.shows("One", "Another.")
    chat.has("status", "idle")
    chat.page.wait_for_function(f"{LIST}.at(-1).dataset.siblings === '2'")
    chat.is_true_to_the_gateway()
    assert chat.do("select(chat.messages.at(-1).siblings[0])") is None
    chat.shows("One", "First.")
    assert chat.do(f"edit(chat.messages[0].id, 'Uno', {other})") is None
    chat.shows("Uno", "Another.")
    chat.has("status", "idle")
    chat.is_true_to_the_gateway()
    chat.do("send('Long', {options: {text: 'a b c d', hold: 'middle'}})")
    chat.has("status", "running")
    assert chat.do("stop()") is None
    chat.page.wait_for_function("document.querySelector('#run').textContent === 'cancelled'")
    chat.has("status", "idle")
    chat.is_true_to_the_gateway()
    chat.do("send('Last', {options: {text: 'The end.'}})")
    chat.has("status", "idle")
    # Four messages are loaded at first; a reload has fewer than the branch.
    chat.page.reload()
    chat.has("older", "true")
    before = chat.page.evaluate("chat.messages.length")
    assert chat.do("loadOlder()") is None
    chat.page.wait_for_function(f"chat.messages.length > {before}")
    chat.has("older", "false")
    chat.is_true_to_the_gateway()


def test_what_the_agent_asks_is_answered(
    browser: BrowserContext, gateway: Gateway, origin: str
) -> None:
    chat = Chat(browser, gateway, origin, "asks")
    chat.do("send('Count', {options: {tool: true, ask: true}})")
    chat.has("status", "needs_input")
    chat.page.reload()
    chat.has("status", "needs_input")
    assert chat.page.evaluate("document.querySelectorAll('.input').length") == 1
    assert chat.do("answer({[chat.inputs[0].request_id]: {approved: true}})") is None
    chat.page.wait_for_function("document.querySelectorAll('.input').length === 0")
    chat.has("status", "idle")
    chat.page.wait_for_function(f"{LIST}.at(-1).dataset.role === 'assistant'")
    chat.is_true_to_the_gateway()


def test_a_login_by_cookie_and_a_wrong_key(
    browser: BrowserContext, gateway: Gateway, origin: str
) -> None:
    wrong = Chat(browser, gateway, origin, "login", token="wrong")
    wrong.has("status", "error")
    wrong.page.wait_for_function("document.querySelector('#error').textContent === 'unauthorized'")
    chat = Chat(browser, gateway, origin, "login", login=KEY)
    assert chat.do("send('Hello', {options: {text: 'By cookie.'}})") is None
    chat.shows("Hello", "By cookie.")
    assert chat.page.evaluate("document.cookie") == ""


def test_words_that_come_together_are_rendered_together(
    browser: BrowserContext, gateway: Gateway, origin: str
) -> None:
    chat = Chat(browser, gateway, origin, "many")
    chat.do("send('Go', {options: {tokens: 2000}})")
    chat.page.wait_for_function("document.querySelector('#run').textContent === 'completed'")
    chat.has("status", "idle")
    until(lambda: len(chat.page.evaluate(f"{LIST}.at(-1).textContent").split()) > 1000, "all words")
    assert chat.page.evaluate("renders") < 500
    # The function that is told events is another one at each render, and the stream goes on.
    assert chat.page.evaluate("events.filter((type) => type === 'open').length") < 5
    chat.is_true_to_the_gateway()


def test_a_title_and_the_end_of_a_session_are_shown(
    browser: BrowserContext, gateway: Gateway, origin: str
) -> None:
    gateway.call("POST", "/sessions", json={"id": "closing", "title": "Before"})
    chat = Chat(browser, gateway, origin, "closing")
    chat.page.wait_for_function("document.querySelector('h1').textContent === 'Before'")
    gateway.call("PATCH", "/sessions/closing", json={"title": "After"})
    chat.page.wait_for_function("document.querySelector('h1').textContent === 'After'")
    gateway.call("POST", "/sessions/closing/close")
    chat.has("status", "closed")
    assert chat.do("send('Too late', {id: 'late'})") == "session-closed"
    chat.shows("Too late")
    chat.page.evaluate("chat.discard('late')")
    chat.shows()
    gateway.call("POST", "/sessions/closing/reopen")
    chat.page.evaluate("chat.reload()")
    chat.has("status", "idle")
    assert chat.do("send('Hello', {options: {text: 'Open again.'}})") is None
    chat.shows("Hello", "Open again.")
