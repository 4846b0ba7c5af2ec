"""The page of the API in a real browser that reaches nothing but this machine."""

import json
import re
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.processes import Gateway, environment, program

pytestmark = pytest.mark.external_service

SECONDS = 120


def test_the_page_shows_every_operation_and_asks_no_other_host(tmp_path: Path) -> None:
    with Gateway(tmp_path) as gateway:
        asked = check_page(gateway, gateway.url, tmp_path)
    assert f"{gateway.url}/docs/swagger-ui.js" in asked
    assert f"{gateway.url}/api/v1/openapi.json" in asked


def check_page(gateway: Gateway, base: str, directory: Path) -> set[str]:
    """Open the page below an address of the gateway; return the URLs that it has requested."""
    browser = program("chromium", "chromium-browser", "google-chrome")
    net_log = directory / "net.json"
    shown = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-proxy-server",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            "--enable-logging=stderr",
            f"--user-data-dir={directory / 'profile'}",
            f"--log-net-log={net_log}",
            "--virtual-time-budget=60000",
            "--dump-dom",
            f"{base}/docs",
        ],
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=True,
    )
    document = gateway.call("GET", "/openapi.json")
    operations = [
        operation for methods in document["paths"].values() for operation in methods.values()
    ]
    for operation in operations:
        assert f"-{operation['operationId']}" in shown.stdout
    assert len(operations) > 60
    assert "Content Security Policy" not in shown.stderr
    assert "CONSOLE" not in shown.stderr
    asked = requests_of(net_log, base)
    assert [url for url in asked if not url.startswith((f"{base}/", "data:"))] == []
    return asked


def requests_of(net_log: Path, base: str) -> set[str]:
    """Return the URLs that pages of the address have requested, as the browser logged them."""
    origin = str(httpx.URL(base).copy_with(raw_path=b"")).rstrip("/")
    text = net_log.read_text("utf-8")
    try:
        events = json.loads(text)["events"]
    except json.JSONDecodeError:  # it was ended before the log was closed
        events = json.loads(re.sub(r",\s*\Z", "", text) + "]}")["events"]
    return {
        params["url"]
        for params in (event.get("params", {}) for event in events)
        if "url" in params and params.get("initiator", "").startswith(origin)
    }
