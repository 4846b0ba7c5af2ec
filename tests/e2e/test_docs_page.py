"""The page of the API in a real browser that reaches nothing but this machine."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.processes import Gateway, environment, program

pytestmark = pytest.mark.external_service

SECONDS = 120


def test_the_page_shows_every_operation_and_asks_no_other_host(tmp_path: Path) -> None:
    browser = program("chromium", "chromium-browser", "google-chrome")
    net_log = tmp_path / "net.json"
    with Gateway(tmp_path) as gateway:
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
                f"--user-data-dir={tmp_path / 'profile'}",
                f"--log-net-log={net_log}",
                "--virtual-time-budget=60000",
                "--dump-dom",
                f"{gateway.url}/docs",
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
    asked = requests_of(net_log, gateway.url)
    assert f"{gateway.url}/docs/swagger-ui.js" in asked
    assert f"{gateway.url}/api/v1/openapi.json" in asked
    assert [url for url in asked if not url.startswith((f"{gateway.url}/", "data:"))] == []


def requests_of(net_log: Path, origin: str) -> set[str]:
    """Return the URLs that pages of an origin have requested, as the browser logged them."""
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
