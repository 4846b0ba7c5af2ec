"""The TypeScript that the documentation shows: it compiles, and it runs against a gateway."""

import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from typing_extensions import override

from tests.clients.typescript import PACKAGE, built, npm_program, run
from tests.docs_tables import pages
from tests.processes import Gateway, program
from tests.support.chromium import page_at
from tests.support.http_servers import http_server

pytestmark = pytest.mark.external_service

_FENCE = re.compile(r"^```(tsx?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ADDRESS = "http://127.0.0.1:8080"
# It shows how clients are made; a program of the reader answers what they ask.
_ONLY_COMPILED = "/my/token"
_CHAT = """
import { createElement } from "react";
import { createRoot } from "react-dom/client";
import { Chat } from "./SHOWN";

createRoot(document.body).render(createElement(Chat, { sessionId: "shown" }));
"""


def shown(gateway_url: str) -> Iterator[tuple[str, str]]:
    for page in [*(page for page in pages() if page.name != "README.md"), PACKAGE / "README.md"]:
        for number, (language, text) in enumerate(_FENCE.findall(page.read_text("utf-8")), 1):
            name = f"{page.parent.name}-{page.stem}-{number}.{language}"
            yield name, text.replace(_ADDRESS, gateway_url)


def test_what_the_documentation_shows_compiles_and_runs(tmp_path: Path) -> None:
    built()
    folder = tmp_path / "shown"
    (modules := folder / "node_modules").mkdir(parents=True)
    (modules / "@bamboo-gateway").mkdir()
    (modules / "@bamboo-gateway" / "client").symlink_to(PACKAGE)
    for name in ("react", "react-dom", "scheduler", "@types"):
        (modules / name).symlink_to(PACKAGE / "node_modules" / name)
    (folder / "package.json").write_text('{"type": "module"}')
    script = b""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_script = self.path == "/page.js"
            page = b'<!doctype html><body><script type="module" src="/page.js"></script>'
            self.send_response(200)
            self.send_header("Content-Type", "text/javascript" if is_script else "text/html")
            self.end_headers()
            self.wfile.write(script if is_script else page)

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http_server(Handler) as port:
        origin = f"http://127.0.0.1:{port}"
        agents = json.dumps({"default": "demo:?delay_ms=0"})
        settings = {"BAMBOO_CORS_ORIGINS": origin, "BAMBOO_AGENTS": agents}
        with Gateway(tmp_path, settings) as gateway:
            sources = dict(shown(gateway.url))
            assert len(sources) >= 8
            for name, text in sources.items():
                (folder / name).write_text(text, "utf-8")
            options = json.loads((PACKAGE / "tsconfig.json").read_text("utf-8"))["compilerOptions"]
            options |= {"rootDir": ".", "outDir": "out", "declaration": False, "jsx": "react-jsx"}
            options["noUnusedLocals"] = False
            options["lib"] = ["ES2023", "DOM", "DOM.Iterable", "DOM.AsyncIterable"]
            config = {"compilerOptions": options, "files": list(sources)}
            (folder / "tsconfig.json").write_text(json.dumps(config))
            run([program("node"), npm_program("tsc"), "--project", folder], folder)
            printed = {
                name: run([program("node"), folder / "out" / f"{Path(name).stem}.js"], folder)
                for name, text in sources.items()
                if name.endswith(".ts") and _ONLY_COMPILED not in text
            }
            assert all(printed.values()), printed
            assert any("There is no such session." in text for text in printed.values())
            assert any("a,b\n1,2" in text for text in printed.values())
            (hook,) = (name for name in sources if name.endswith(".tsx"))
            entry = folder / "out" / "entry.js"
            entry.write_text(_CHAT.replace("SHOWN", f"{Path(hook).stem}.js"), "utf-8")
            bundler = [npm_program("esbuild"), entry, "--bundle", "--format=esm"]
            mode = '--define:process.env.NODE_ENV="production"'
            script = run([*bundler, mode], folder).encode()
            with page_at(origin) as page:
                page.locator("input").fill("Hello")
                page.evaluate("document.querySelector('form').requestSubmit()")
                page.locator("p.user.complete", has_text="Hello").wait_for()
                page.locator("p.assistant.complete").last.wait_for()
