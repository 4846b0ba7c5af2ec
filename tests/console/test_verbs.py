"""The console's verbs, each by the hands of a user, and what a tester found broken in it."""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, FilePayload, Page, Route, expect

from tests.console.test_browser import answered, chat, show
from tests.processes import Gateway
from tests.support.chromium import Tab, chromium, violations
from tests.support.waiting import until

pytestmark = pytest.mark.external_service


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    settings = {"BAMBOO_WEBHOOK_PRIVATE_ADDRESSES": "true"}
    with Gateway(tmp_path_factory.mktemp("verbs"), settings) as running:
        yield running


@pytest.fixture
def tab(browser: Browser) -> Iterator[Tab]:
    opened = Tab(browser)
    yield opened
    opened.close()
    assert [error for error in opened.errors if "ERR_" not in error] == []


def said(gateway: Gateway, session: str, *texts: str) -> None:
    messages = [{"role": "user", "content": text} for text in texts]
    gateway.call("POST", f"/sessions/{session}/messages", json=messages)


def shown(page: Page) -> list[str]:
    return page.locator(".messages .prose").all_inner_texts()


def test_sessions_are_merged_closed_reopened_and_exported(tab: Tab, gateway: Gateway) -> None:
    for name in ("target", "source"):
        gateway.call("POST", "/sessions", json={"id": name, "title": name})
        said(gateway, name, f"from {name}")
    page = show(tab, gateway, "/sessions/target")
    expect(page.locator(".message")).to_have_count(1)
    page.locator("details.menu summary").click()
    page.get_by_role("button", name="Merge another session…").click()
    page.get_by_label("Id of the session to merge").fill("source")
    page.get_by_role("dialog").get_by_role("button", name="Merge").click()
    expect(page.locator(".message")).to_have_count(2)
    kept = gateway.call("GET", "/sessions/target/messages")["messages"]
    assert shown(page) == [message["content"] for message in kept]

    page.get_by_role("button", name="Export", exact=True).click()
    page.get_by_label("Format").select_option("json")
    with page.expect_download() as download:
        page.get_by_role("dialog").get_by_role("button", name="Export").click()
    assert download.value.suggested_filename == "target.json"
    exported = json.loads(Path(download.value.path()).read_text("utf-8"))
    assert "from source" in json.dumps(exported)

    page.locator("details.menu summary").click()
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_label("Message", exact=True)).to_be_hidden()
    page.locator("details.menu summary").click()
    page.get_by_role("button", name="Reopen").click()
    expect(page.get_by_label("Message", exact=True)).to_be_visible()

    show(tab, gateway, "/")
    for name in ("target", "source"):
        page.get_by_label(f"Select {name}", exact=True).check()
    page.get_by_role("group", name="Selected sessions").get_by_role("button", name="Export").click()
    with page.expect_download() as download:
        page.get_by_role("dialog").get_by_role("button", name="Export").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert len(archive.namelist()) == 2


def test_a_file_goes_with_a_message_and_a_drawing_with_a_script_stays_a_file(
    tab: Tab, gateway: Gateway
) -> None:
    gateway.call("POST", "/sessions", json={"id": "files"})
    page = show(tab, gateway, "/sessions/files")
    script = "window.hacked=1"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" onload="{script}">'
    svg = f"{head}<script>{script}</script></svg>".encode()
    files: list[FilePayload] = [
        {"name": "a.txt", "mimeType": "text/plain", "buffer": b"content"},
        {"name": "b.svg", "mimeType": "image/svg+xml", "buffer": svg},
    ]
    page.locator("input[type=file]").set_input_files(files)
    expect(page.locator(".attached li")).to_have_count(2)
    page.get_by_label("Message", exact=True).fill(
        "See [x](javascript:window.hacked=1) " + "x" * 3000
    )
    page.keyboard.press("Enter")
    expect(page.locator(".message.user")).to_contain_text("a.txt")
    with page.expect_download() as download:
        page.get_by_role("link", name=re.compile("a.txt")).click()
    assert Path(download.value.path()).read_bytes() == b"content"
    assert page.evaluate("window.hacked") is None
    # Nothing that cannot be broken makes the page wider than the screen.
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_an_answer_that_is_begun_stays_when_the_gateway_is_away(tab: Tab, gateway: Gateway) -> None:
    chat(gateway, "denies", "Count", ask=True)
    page = show(tab, gateway, "/sessions/denies")
    page.get_by_label("Reason, if you deny").fill("not now")
    page.route("**/inputs", lambda route: route.abort())
    with page.expect_event("requestfailed"):
        # Any news of what is asked makes the page look again, which fails.
        event = "{type: 'input_required', seq: 1e9}"
        page.evaluate(f"document.querySelector('bamboo-session').live.watching.onEvent({event})")
    expect(page.get_by_label("Reason, if you deny")).to_have_value("not now")
    page.unroute("**/inputs")
    page.get_by_role("button", name="Deny").click()
    expect(page.locator("form.request")).to_have_count(0)
    answered(page, 3)
    kept = gateway.call("GET", "/sessions/denies/messages")["messages"]
    assert "not now" in json.dumps(kept)


def test_after_a_refusal_that_passes_the_page_is_whole_again(tab: Tab, gateway: Gateway) -> None:
    gateway.call("POST", "/sessions", json={"id": "comes-back", "title": "Comes back"})
    tab.page.route("**/sessions/comes-back", lambda route: route.abort())
    page = show(tab, gateway, "/sessions/comes-back")
    expect(page.get_by_role("heading", level=1)).to_have_text("This session cannot be shown")
    page.unroute("**/sessions/comes-back")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Comes back")
    page.get_by_label("Message", exact=True).fill("Hello")
    page.keyboard.press("Enter")
    answered(page, 3)


def test_a_run_of_more_messages_than_a_page_is_shown_in_its_order_r2(
    tab: Tab, gateway: Gateway
) -> None:
    """The stream begins before the run; its first messages are older than those that are loaded."""
    body = {"session_id": "tools", "message": "Go", "options": {"hold": "middle", "delay_ms": 0}}
    gateway.call("POST", "/chat", json=body)
    page = tab.page
    page.route("**/tools/messages?*", lambda route: _with_limit(route, 1))
    show(tab, gateway, "/sessions/tools")
    expect(page.locator(".message.streaming .prose").last).to_contain_text("You")
    kept = gateway.call("GET", "/sessions/tools/messages")["messages"]
    ids = [item.get_attribute("data-message") for item in page.locator(".message").all()]
    assert ids[:-1] == [kept[-1]["id"]]
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("incomplete", exact=True)).to_be_visible()


def _with_limit(route: Route, limit: int) -> None:
    route.continue_(url=re.sub(r"limit=\d+", f"limit={limit}", route.request.url))


def test_a_page_that_is_open_for_long_stays_small_and_loads_what_it_let_go(
    tab: Tab, gateway: Gateway
) -> None:
    gateway.call("POST", "/sessions", json={"id": "grows"})
    page = show(tab, gateway, "/sessions/grows")
    expect(page.locator(".live")).to_have_text("live")
    page.get_by_role("tab", name="Events").click()
    for first in range(0, 600, 100):
        said(gateway, "grows", *(f"number {number}" for number in range(first, first + 100)))
        expect(page.get_by_text(f"number {first + 99}", exact=True)).to_be_visible()
    assert page.locator(".message").count() <= 400
    assert page.locator(".events li").count() <= 500
    # Nothing is lost: what was let go comes back above, and so do the events.
    page.get_by_role("button", name="Older events").click()
    until(lambda: page.locator(".events .type").count() >= 600, "all events are listed")
    expect(page.locator(".events .gap")).to_have_count(0)
    page.locator(".conversation .scroll").first.evaluate("(place) => (place.scrollTop = 0)")
    until(lambda: page.locator(".message").count() > 400, "older messages are loaded")


def test_events_that_come_while_the_list_is_loaded_are_in_it(tab: Tab, gateway: Gateway) -> None:
    gateway.call("POST", "/sessions", json={"id": "races"})
    said(gateway, "races", "first")
    page = tab.page
    held: list[tuple[Route, Any]] = []
    page.route("**/races/events?*", lambda route: held.append((route, route.fetch())))
    show(tab, gateway, "/sessions/races")
    expect(page.locator(".live")).to_have_text("live")
    page.get_by_role("tab", name="Events").click()

    def is_held() -> bool:
        page.wait_for_timeout(10)  # the browser's events are taken in meanwhile
        return bool(held)

    until(is_held, "the list is asked for")
    said(gateway, "races", "second")
    expect(page.locator(".message")).to_have_count(2)
    expect(page.locator(".events .type")).not_to_have_count(0)
    route, answer = held[0]
    route.fulfill(response=answer)
    expect(page.locator(".events .type")).to_have_count(
        len(gateway.call("GET", "/sessions/races/events")["events"])
    )


def test_a_reader_is_shown_what_is_asked_and_an_answerer_a_form(
    browser: Browser, gateway: Gateway, tmp_path: Path
) -> None:
    settings = {"BAMBOO_API_KEYS": "secret-key"}
    with Gateway(tmp_path, settings) as guarded:
        guarded.http.headers["Authorization"] = "Bearer secret-key"
        chat(guarded, "s", "Count", ask=True)
        for scope, count in (("read", 0), ("answer", 1)):
            share = {"link": True, "scope": scope}
            token = guarded.call("POST", "/sessions/s/shares", json=share)["token"]
            reader = Tab(browser)
            end = "/answer" if scope == "answer" else ""
            page = show(reader, guarded, f"/shared/s/{token}{end}")
            expect(page.get_by_text("May I count the words?")).to_be_visible()
            assert page.get_by_role("button", name="Approve").count() == count
            if count:
                page.get_by_role("button", name="Approve").click()
                expect(page.locator(".request")).to_have_count(0)
            assert reader.errors == []
            reader.close()


def test_a_webhook_is_made_tried_switched_off_and_deleted(tab: Tab, gateway: Gateway) -> None:
    page = show(tab, gateway, "/operating")
    page.get_by_role("button", name="New webhook").click()
    url = f"{gateway.url}/nowhere"
    page.get_by_label("URL").fill(url)
    page.get_by_role("dialog").get_by_role("button", name="Create").click()
    expect(page.get_by_role("textbox", name="Secret")).to_have_value(re.compile("whsec_"))
    page.get_by_role("button", name="Done").click()
    page.get_by_role("button", name="Send a test").click()
    (made,) = gateway.call("GET", "/webhooks")["webhooks"]
    path = f"/webhooks/{made['id']}/deliveries"
    until(lambda: gateway.call("GET", path)["deliveries"], "the test was delivered")
    page.get_by_text("Deliveries").click()
    expect(page.get_by_role("region", name="Deliveries")).to_contain_text("HTTP 40")
    page.get_by_role("button", name="Disable").click()
    expect(page.get_by_role("button", name="Enable")).to_be_visible()
    page.locator("article.webhook").get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator("article.webhook")).to_have_count(0)
    assert gateway.call("GET", "/webhooks")["webhooks"] == []


def test_who_may_not_see_the_load_is_told_so_without_charts(tab: Tab, gateway: Gateway) -> None:
    asked: list[str] = []

    def refuse(route: Route) -> None:
        asked.append(route.request.url)
        problem = {"status": 403, "code": "forbidden", "detail": "This needs the right `admin`."}
        route.fulfill(status=403, json=problem)

    tab.page.clock.install()
    tab.page.route("**/metrics", refuse)
    page = show(tab, gateway, "/operating")
    expect(page.get_by_text("This needs the right `admin`.")).to_be_visible()
    expect(page.locator(".chart").first).to_be_hidden()
    page.clock.run_for(20_000)
    assert len(asked) == 1


def test_axe_finds_nothing_in_what_is_opened_and_no_phone_is_too_narrow(
    browser: Browser, tmp_path: Path
) -> None:
    with Gateway(tmp_path, {"BAMBOO_API_KEYS": "secret-key"}) as guarded:
        guarded.http.headers["Authorization"] = "Bearer secret-key"
        chat(guarded, "s", "Explain", text="```py\nx\n```\n\n```py\ny\n```\n\n|a|b|\n|-|-|\n|1|2|")
        screen = {"width": 360, "height": 740}
        tab = Tab(browser, bypass_csp=True, reduced_motion="reduce", viewport=screen)
        page = show(tab, guarded, "/")
        page.get_by_label("Key or token").fill("secret-key")
        page.keyboard.press("Enter")
        page.locator("tbody a").click()
        answered(page, 3)
        for name in ("Events", "Tree", "Connected"):
            page.get_by_role("tab", name=name).click()
            assert violations(page) == [], name
        page.locator("details.tool summary").click()
        assert violations(page) == []
        for name in ("Share", "Export", "Fork"):
            page.locator(".actions").get_by_role("button", name=name).click()
            expect(page.get_by_role("dialog")).to_be_visible()
            assert violations(page) == [], name
            page.keyboard.press("Escape")
        for path in ("/", "/sessions/s", "/operating"):
            show(tab, guarded, path)
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        tab.close()
