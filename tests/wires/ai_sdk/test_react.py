"""`useChat` of React in a real browser: a page that is loaded again in the middle of an answer."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from typing_extensions import override

from tests.processes import Gateway
from tests.support.chromium import page_at
from tests.support.http_servers import http_server
from tests.support.waiting import until
from tests.wires import official
from tests.wires.ai_sdk.client import V5, V6, V7, plain

pytestmark = pytest.mark.external_service

SECONDS = 120
VERSIONS = {"5": ("ai-5.0.277", V5), "6": ("ai-6.0.326", V6), "7": ("ai-7.0.173", V7)}
PAGE = b"""<!doctype html><meta charset="utf-8"><title>Chat</title><div id="root"></div>
<script type="module">import("/page-" + new URLSearchParams(location.search).get("version") + ".js")
</script>"""


def bundle(directory: Path, version: str) -> None:
    """Make the page's script for a version, with its own React hook."""
    options = {
        "entryPoints": ["ai_sdk_page.mjs"],
        "outfile": str(directory / f"page-{version}.js"),
        "bundle": True,
        "format": "esm",
        "target": "es2022",
        "alias": {"ai-react": f"ai-react-{version}", "ai-transport": VERSIONS[version][0]},
        "define": {"process.env.NODE_ENV": '"production"'},
        "logLevel": "error",
    }
    script = f"require('esbuild').buildSync({json.dumps(options)})"
    subprocess.run(
        [official.node(), "-e", script], cwd=official.NODE_DIR, timeout=SECONDS, check=True
    )


@contextmanager
def pages(directory: Path, told: dict[str, Any]) -> Iterator[str]:
    """Serve the page; `told` gets what each tab tells, by its session."""

    class Handler(SimpleHTTPRequestHandler):
        @override
        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/":
                super().do_GET()
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE)

        def do_POST(self) -> None:
            shown = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told[shown["session"]] = shown
            self.send_response(204)
            self.end_headers()

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http_server(partial(Handler, directory=str(directory))) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_page_that_is_loaded_again_in_the_middle_of_an_answer_shows_it_once(
    tmp_path: Path, version: str
) -> None:
    bundle(tmp_path, version)
    told: dict[str, Any] = {}
    api = VERSIONS[version][1]
    with (
        pages(tmp_path, told) as origin,
        Gateway(tmp_path, {"BAMBOO_CORS_ORIGINS": origin}) as gateway,
        page_at(f"{origin}/?version={version}&session=c&api={quote(gateway.url + api, safe='')}"),
    ):
        until(lambda: "c" in told, "the page tells what it shows")
        loaded = gateway.call("GET", f"{api.removeprefix('/api/v1')}/c/messages")
        assert told["c"]["error"] is None
        assert plain(told["c"]["messages"]) == plain(loaded)
        assert [one["role"] for one in loaded] == ["user", "assistant"]
        assert told["c"]["shown"].count("You said:") == 1
        assert len(gateway.call("GET", "/sessions/c/runs")["runs"]) == 1
