"""Pages in the machine's own Chromium: one browser for a module, a context for each test."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.processes import REPOSITORY, program

SECONDS = 120
AXE = REPOSITORY / "tests/e2e/node/node_modules/axe-core/axe.min.js"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run the browser without a window."""
    expect.set_options(timeout=SECONDS * 1000)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program("chromium", "chromium-browser", "google-chrome"),
            args=flags,
            timeout=SECONDS * 1000,
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def page_at(url: str, **context: Any) -> Iterator[Page]:
    """Show one page in a browser of its own."""
    with chromium() as browser:
        page = browser.new_context(**context).new_page()
        page.set_default_timeout(SECONDS * 1000)
        page.goto(url)
        yield page


class Tab:
    """A page of its own context, that keeps what goes wrong in it and what it asks for.

    Attributes:
        page: The page.
        errors: Errors of scripts, and everything that the policy has refused.
        asked: The URLs of all requests.
    """

    def __init__(self, browser: Browser, **context: Any) -> None:
        self._context = browser.new_context(**context)
        self._context.set_default_timeout(SECONDS * 1000)
        self.page: Page = self._context.new_page()
        self.errors: list[str] = []
        self.asked: set[str] = set()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._note)
        self.page.on("request", lambda request: self.asked.add(request.url))

    def close(self) -> None:
        """Close the page with all that belongs to it."""
        self._context.close()

    def offline(self, is_offline: bool) -> None:
        """Cut the network, or connect it again."""
        self._context.set_offline(is_offline)

    def _note(self, message: Any) -> None:
        # The browser itself reports each answer that is no success.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.errors.append(message.text)


def violations(page: Page) -> list[str]:
    """Return what axe finds wrong in a page."""
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {one['help']}: {[node['html'][:200] for node in one['nodes']][:3]}"
        for one in found["violations"]
    ]
