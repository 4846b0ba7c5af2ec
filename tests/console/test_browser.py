"""The console in a real browser: each view, each verb, cut networks, restarts, and attacks."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.processes import Gateway
from tests.support.chromium import Tab, chromium, violations
from tests.support.waiting import until

pytestmark = pytest.mark.external_service

ATTACK = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>{{1}}\'"`'
LINKS = "[a](javascript:window.hacked=1) [b](data:text/html,x) ![c](http://elsewhere.example/p.png)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("console")) as running:
        yield running


@pytest.fixture
def tab(browser: Browser) -> Iterator[Tab]:
    opened = Tab(browser)
    yield opened
    opened.close()
    assert opened.errors == []
    foreign = [
        url for url in opened.asked if not re.match(r"http://127\.0\.0\.1:|data:|blob:", url)
    ]
    assert foreign == []


def chat(gateway: Gateway, session: str, said: str, **options: Any) -> None:
    body = {"session_id": session, "message": said, "options": {"delay_ms": 0, **options}}
    gateway.call("POST", "/chat", json=body, headers={"Prefer": "wait=60"})


def show(tab: Tab, gateway: Gateway, path: str) -> Page:
    tab.page.goto(f"{gateway.url}/console/#{path}")
    return tab.page


def wait_for_index(gateway: Gateway, words: str) -> None:
    """Wait until a message with the words is found: the index follows the log."""
    query = {"q": words}
    until(lambda: gateway.call("GET", "/search", params=query)["results"], f"{words} is found")


def answered(page: Page, count: int) -> None:
    """Wait until so many messages are shown, and the last one is whole."""
    expect(page.locator(".message")).to_have_count(count)
    expect(page.locator(".message.streaming")).to_have_count(0)


def test_a_chat_is_made_answered_edited_and_forked(tab: Tab, gateway: Gateway) -> None:
    page = show(tab, gateway, "/")
    page.get_by_role("button", name="New session").click()
    page.get_by_label("Title", exact=True).last.fill("First steps")
    page.get_by_label("Id (made when empty)").fill("steps")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("First steps")

    page.get_by_label("Message", exact=True).fill("Hello")
    page.keyboard.press("Enter")
    # The call with its result is one message, the text after it another.
    answered(page, 3)
    expect(page.locator(".message").last).to_contain_text("You said: “Hello”")
    page.locator("details.tool summary").click()
    expect(page.locator("details.tool")).to_contain_text('"words": 1')

    page.locator(".message").last.get_by_role("button", name="Regenerate").click()
    expect(page.locator(".siblings")).to_contain_text("2/2")
    page.get_by_role("button", name="Earlier version").click()
    expect(page.locator(".siblings")).to_contain_text("1/2")

    page.locator(".message.user").get_by_role("button", name="Edit").click()
    page.get_by_label("Message", exact=True).fill("Goodbye")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".message").last).to_contain_text("You said: “Goodbye”")
    expect(page.locator(".message.user .siblings")).to_contain_text("2/2")
    answered(page, 3)

    page.get_by_role("tab", name="Tree").click()
    expect(page.locator("svg.tree .place")).to_have_count(4)  # the session and its branches
    page.locator(".message").last.get_by_role("button", name="Fork").click()
    page.get_by_label("Title of the fork").fill("A fork")
    page.get_by_role("dialog").get_by_role("button", name="Fork").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("A fork")
    page.get_by_role("tab", name="Tree").click()
    expect(page.locator("svg.tree a")).to_contain_text("First steps")
    page.get_by_role("button", name="Rename").click()
    page.get_by_role("dialog").get_by_label("Title").fill("Renamed")
    page.get_by_role("dialog").get_by_role("button", name="Rename").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Renamed")


def test_an_answer_is_stopped_and_what_was_said_stays(tab: Tab, gateway: Gateway) -> None:
    body = {"session_id": "stops", "message": "Go", "options": {"hold": "middle", "delay_ms": 0}}
    gateway.call("POST", "/chat", json=body)
    page = show(tab, gateway, "/sessions/stops")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("incomplete", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    expect(page.locator(".runs")).to_contain_text("cancelled")


def test_what_the_agent_asks_is_answered_by_a_form(tab: Tab, gateway: Gateway) -> None:
    chat(gateway, "asks", "Count", ask=True)
    page = show(tab, gateway, "/sessions/asks")
    page.get_by_role("button", name="Approve").click()
    expect(page.locator("form.request")).to_have_count(0)
    expect(page.locator(".message").last).to_contain_text("You said: “Count”")


def test_sessions_are_found_and_archived_and_deleted_after_a_preview(
    tab: Tab, gateway: Gateway
) -> None:
    for number in range(3):
        body = {"id": f"many-{number}", "title": f"Crowd {number}"}
        gateway.call("POST", "/sessions", json=body)
        message = {"role": "user", "content": f"a zebra and a crowd, number {number}"}
        gateway.call("POST", f"/sessions/many-{number}/messages", json=message)
    page = show(tab, gateway, "/?title_contains=Crowd")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(3)
    # Live: a session that comes meanwhile is in the list.
    gateway.call("POST", "/sessions", json={"id": "many-3", "title": "Crowd 3"})
    expect(rows).to_have_count(4)

    page.get_by_label("Select Crowd 0").check()
    page.get_by_role("button", name="Archive").click()
    expect(rows).to_have_count(3)
    assert gateway.call("GET", "/archive/many-0")["session"]["state"] == "archived"

    page.get_by_label("Select all shown sessions").check()
    page.get_by_role("button", name="Delete…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Delete 3 sessions?")
    expect(dialog.locator("li")).to_have_count(3)
    dialog.get_by_role("button", name="Cancel").click()
    expect(rows).to_have_count(3)
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(rows).to_have_count(0)
    assert gateway.http.get("/sessions/many-1").status_code == 404


def test_a_search_shows_where_the_words_stand(tab: Tab, gateway: Gateway) -> None:
    message = {"role": "user", "content": "the quick okapi jumps"}
    gateway.call("POST", "/sessions", json={"id": "found", "title": "Animals"})
    gateway.call("POST", "/sessions/found/messages", json=message)

    wait_for_index(gateway, "okapi")
    page = show(tab, gateway, "/")
    page.get_by_label("Search in messages").fill("okapi")
    expect(page.locator(".hits mark")).to_have_text("okapi")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.locator(".hits a").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Animals")


def test_a_restart_in_the_middle_of_an_answer_loses_nothing_r2_r5(
    browser: Browser, tmp_path: Path
) -> None:
    tab = Tab(browser)
    with Gateway(tmp_path) as gateway:
        options = {"hold": "middle", "delay_ms": 0, "thinking": False, "tool": False}
        text = " ".join(f"word{number}" for number in range(40))
        body = {"session_id": "s", "message": "Go", "options": {**options, "text": text}}
        gateway.call("POST", "/chat", json=body)
        page = show(tab, gateway, "/sessions/s")
        expect(page.locator(".message").last).to_contain_text("word19")
        gateway.kill()
        expect(page.locator(".live")).to_have_text("connecting…")
        gateway.start()
        expect(page.locator(".live")).to_have_text("live")
        expect(page.get_by_text("incomplete", exact=True)).to_be_visible()
        shown = page.locator(".message").last.locator(".prose").inner_text()
        (_, kept) = gateway.call("GET", "/sessions/s/messages")["messages"]
        assert shown.split() == kept["content"].split()
        # It goes on: the next chat is shown too.
        chat(gateway, "s", "More")
        expect(page.locator(".message").last).to_contain_text("You said: “More”")
    tab.close()
    assert [error for error in tab.errors if "ERR_" not in error] == []


def test_two_tabs_show_the_same_also_after_a_cut_network_r2(
    browser: Browser, gateway: Gateway
) -> None:
    gateway.call("POST", "/sessions", json={"id": "two"})
    one, other = Tab(browser), Tab(browser)
    pages = [show(each, gateway, "/sessions/two") for each in (one, other)]
    for page in pages:
        expect(page.locator(".live")).to_have_text("live")
    other.offline(True)
    pages[0].get_by_label("Message", exact=True).fill("Hello both")
    pages[0].keyboard.press("Enter")
    expect(pages[0].locator(".message").last).to_contain_text("I counted 2 words")
    pages[1].get_by_label("Message", exact=True).fill("lost?")
    pages[1].keyboard.press("Enter")
    expect(
        pages[1].locator("#notices").get_by_text("The gateway cannot be reached")
    ).to_be_visible()
    expect(pages[1].get_by_label("Message", exact=True)).to_have_value("lost?")
    other.offline(False)
    pages[1].keyboard.press("Enter")
    for page in pages:
        expect(page.locator(".message").last).to_contain_text("You said: “lost?”")
        answered(page, 6)
    assert len(gateway.call("GET", "/sessions/two/runs")["runs"]) == 2
    texts = [page.locator(".messages .prose").all_inner_texts() for page in pages]
    assert texts[0] == texts[1]
    one.close()
    other.close()


def test_what_users_and_agents_write_never_becomes_markup(tab: Tab, gateway: Gateway) -> None:
    gateway.call(
        "POST", "/sessions", json={"id": "xss", "title": ATTACK, "metadata": {"a": ATTACK}}
    )
    stored = gateway.http.post(
        "/files", params={"name": ATTACK}, content=b"x", headers={"Content-Type": "text/html"}
    ).json()
    calls = [{"id": "c1", "name": ATTACK, "arguments": {ATTACK: ATTACK}}]
    part = {"type": "file", "file_id": stored["file_id"]}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": f"{ATTACK} {LINKS}"}, part]},
        {
            "role": "assistant",
            "content": f"```{ATTACK}\n{ATTACK}\n```\n{LINKS}",
            "tool_calls": calls,
        },
        {"role": "tool", "tool_call_id": "c1", "content": ATTACK},
        {
            "role": "assistant",
            "content": f"| a | {ATTACK} |\n|---|---|\n| {LINKS} | b |\n\n> {ATTACK}",
        },
    ]
    gateway.call("POST", "/sessions/xss/messages", json=messages)
    event = {"type": "custom", "name": ATTACK, "value": ATTACK}
    gateway.call("POST", "/sessions/xss/events", json=event)
    gateway.call("POST", "/sessions/xss/fork", json={"new_name": ATTACK})

    page = show(tab, gateway, "/sessions/xss")
    expect(page.get_by_role("heading", level=1)).to_have_text(ATTACK)
    for name in ("Runs", "Tree", "Connected", "Events"):
        page.get_by_role("tab", name=name).click()
    page.locator(".events summary").first.click()
    page.locator("details.tool summary").click()
    check_harmless(page)
    wait_for_index(gateway, "window.hacked")
    show(tab, gateway, "/?q=window.hacked")
    expect(page.locator(".hits li").first).to_be_visible()
    check_harmless(page)
    show(tab, gateway, "/operating")
    expect(page.get_by_text("Most active")).to_be_visible()
    check_harmless(page)


def check_harmless(page: Page) -> None:
    assert page.evaluate("window.hacked") is None
    assert page.locator("main script, main iframe, main img[src='x']").count() == 0
    schemes = page.evaluate("[...document.links].map((link) => new URL(link.href).protocol)")
    assert set(schemes) <= {"http:", "https:", "mailto:"}


def test_a_login_shows_the_own_sessions_and_a_link_one_to_read(
    browser: Browser, tmp_path: Path
) -> None:
    tab = Tab(browser)
    settings = {"BAMBOO_API_KEYS": "secret-key", "BAMBOO_ROOT_PATH": "/bamboo"}
    with Gateway(tmp_path, settings) as gateway:
        gateway.http.headers["Authorization"] = "Bearer secret-key"
        chat(gateway, "mine", "Hello")
        page = tab.page
        page.goto(f"{gateway.url}/bamboo/console")
        page.get_by_label("Key or token").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_be_visible()
        assert violations_of(browser, gateway, "/bamboo/console/") == []
        page.get_by_label("Key or token").fill("secret-key")
        page.keyboard.press("Enter")
        page.locator("tbody a").click()
        answered(page, 3)
        page.get_by_role("button", name="Share").click()
        page.get_by_role("dialog").get_by_role("button", name="Share").click()
        link = page.get_by_role("textbox", name="Link").input_value()
        page.get_by_role("button", name="Done").click()

        reader = Tab(browser)
        reader.page.goto(link)
        answered(reader.page, 3)
        expect(reader.page.get_by_text("read only")).to_be_visible()
        assert reader.page.get_by_role("button", name="Send").count() == 0
        assert reader.page.get_by_role("button", name="Regenerate").count() == 0
        chat(gateway, "mine", "More")
        expect(reader.page.locator(".message").last).to_contain_text("You said: “More”")
        (share,) = gateway.call("GET", "/sessions/mine/shares")["shares"]
        gateway.call("DELETE", f"/sessions/mine/shares/{share['id']}")
        expect(reader.page.get_by_role("heading", level=1)).to_have_text(
            "This session cannot be shown"
        )
        assert reader.errors == []
        reader.close()

        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Key or token")).to_be_visible()
        page.reload()
        expect(page.get_by_label("Key or token")).to_be_visible()
    tab.close()
    assert tab.errors == []


def violations_of(browser: Browser, gateway: Gateway, path: str) -> list[str]:
    """Return what axe finds in a page of its own, where its script may run."""
    found = []
    for context in (
        {"color_scheme": "light", "viewport": {"width": 1280, "height": 800}},
        {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}},
    ):
        tab = Tab(browser, bypass_csp=True, reduced_motion="reduce", **context)
        tab.page.goto(f"{gateway.url}{path}")
        expect(tab.page.get_by_role("heading", level=1).first).not_to_be_empty()
        tab.page.wait_for_load_state("load")
        found += violations(tab.page)
        tab.close()
    return found


def test_axe_finds_nothing(browser: Browser, gateway: Gateway) -> None:
    text = "# Plan\n\n**bold** `code`\n\n```py\nx = 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    chat(gateway, "axe", "Explain", text=text)
    chat(gateway, "axe", "And ask", ask=True)
    for path in ("#/", "#/sessions/axe", "#/operating", "#/nothing"):
        assert violations_of(browser, gateway, f"/console/{path}") == [], path


def test_ten_thousand_messages_are_shown_by_pages(tab: Tab, gateway: Gateway) -> None:
    gateway.call("POST", "/sessions", json={"id": "long"})
    for first in range(0, 10_000, 1000):
        messages = [
            {"role": "user", "content": f"message {number}"}
            for number in range(first, first + 1000)
        ]
        gateway.call("POST", "/sessions/long/messages", json=messages)
    page = show(tab, gateway, "/sessions/long")
    expect(page.get_by_text("message 9999", exact=True)).to_be_visible()
    # Only what a first look needs was loaded and laid out.
    assert page.locator(".message").count() == 50
    page.locator(".conversation .scroll").first.evaluate("(place) => (place.scrollTop = 0)")
    expect(page.locator(".message").nth(149)).to_be_attached()
    expect(page.get_by_text("message 9900", exact=True)).to_be_attached()


def test_the_operator_sees_the_load_and_cleans_after_a_preview(tab: Tab, gateway: Gateway) -> None:
    gateway.call("POST", "/sessions", json={"id": "kept", "title": "Kept"})
    gateway.call("POST", "/sessions/kept/archive")
    page = show(tab, gateway, "/operating")
    expect(page.get_by_text("checks are well").or_(page.locator(".state.warn"))).not_to_have_count(
        0
    )
    expect(page.locator(".chart strong").first).to_contain_text(re.compile(r"\d"))
    archives = page.get_by_role("region", name="Archived sessions")
    archives.get_by_role("row", name="Kept").get_by_role("button", name="Restore").click()
    expect(page.get_by_role("row", name="Kept")).to_have_count(0)
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_text("Would delete 0 sessions and 0 archives")).to_be_visible()
