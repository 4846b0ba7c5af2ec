"""The page of the API in a real browser that reaches nothing but this machine."""

from pathlib import Path

import pytest

from tests.processes import Gateway
from tests.support.chromium import Tab, chromium

pytestmark = pytest.mark.external_service


def test_the_page_shows_every_operation_and_asks_no_other_host(tmp_path: Path) -> None:
    with Gateway(tmp_path) as gateway:
        asked = check_page(gateway, gateway.url)
    assert f"{gateway.url}/docs/swagger-ui.js" in asked
    assert f"{gateway.url}/api/v1/openapi.json" in asked


def check_page(gateway: Gateway, base: str) -> set[str]:
    """Open the page below an address of the gateway; return the URLs that it has requested."""
    document = gateway.call("GET", "/openapi.json")
    operations = [
        operation for methods in document["paths"].values() for operation in methods.values()
    ]
    assert len(operations) > 60
    with chromium() as browser:
        tab = Tab(browser)
        tab.page.goto(f"{base}/docs")
        tab.page.locator(f"[id$='-{operations[-1]['operationId']}']").wait_for()
        shown = tab.page.content()
        tab.close()
    for operation in operations:
        assert f"-{operation['operationId']}" in shown
    assert tab.errors == []
    assert [url for url in tab.asked if not url.startswith((f"{base}/", "data:"))] == []
    return tab.asked
