"""A real browser below a path of nginx: the API's page, and twenty streams at once over HTTP/2."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from tests.e2e.fronts import PATH, changed, nginx, nginx_serving, recipe
from tests.e2e.test_docs_page import check_page
from tests.e2e.test_nginx import self_signed
from tests.processes import Gateway, free_port
from tests.support.chromium import page_at
from tests.support.http_servers import http_server
from tests.support.waiting import until

pytestmark = pytest.mark.external_service

STREAMS = 20


@pytest.mark.parametrize("strips", [False, True], ids=["passes", "strips"])
def test_the_page_of_the_api_works_below_a_path(tmp_path: Path, strips: bool) -> None:
    with (
        Gateway(tmp_path, {"BAMBOO_ROOT_PATH": PATH}) as gateway,
        nginx(gateway, tmp_path, strips=strips, names=False) as base,
    ):
        asked = check_page(gateway, base)
    assert f"{base}/docs/swagger-ui.js" in asked
    assert f"{base}/api/v1/openapi.json" in asked


# The page logs in, opens a stream of each session, and tells when all are open, and when each has
# got its event. Browsers open six connections to one server: the seventh stream needs HTTP/2.
_PAGE = """<!doctype html><meta charset="utf-8"><title>streams</title><script>
const tell = (what) => fetch("/seen", { method: "POST", body: JSON.stringify(what) });
const api = "PATH/api/v1";
const got = new Set();
const opened = (number) => new Promise((resolve, reject) => {
  const source = new EventSource(`${api}/stream/s-${number}?from=start`);
  source.onopen = resolve;
  source.onmessage = (message) => {
    const event = JSON.parse(message.data);
    if (event.type !== "custom" || event.value !== number) return;
    got.add(number);
    if (got.size === STREAMS) tell({ got: [...got].sort((a, b) => a - b) });
  };
});
(async () => {
  const login = await fetch(`${api}/login`, {
    method: "POST", headers: { Authorization: "Bearer secret" },
  });
  await Promise.all(Array.from({ length: STREAMS }, (_, number) => opened(number)));
  const [entry] = performance.getEntriesByName(new URL(`${api}/login`, location.href).href);
  await tell({ login: login.status, protocol: entry.nextHopProtocol, cookie: document.cookie });
})().catch((error) => tell({ error: String(error) }));
</script>"""


@contextmanager
def page_server(seen: list[dict[str, Any]]) -> Iterator[int]:
    """Serve the page, and keep what it tells; yield the port."""
    page = _PAGE.replace("PATH", PATH).replace("STREAMS", str(STREAMS)).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_page = self.path == "/"
            self.send_response(200 if is_page else 404)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page if is_page else b"")

        def do_POST(self) -> None:
            seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http_server(Handler) as port:
        yield port


@pytest.mark.parametrize("strips", [False, True], ids=["passes", "strips"])
def test_twenty_streams_in_one_browser_at_once_over_http_2(tmp_path: Path, strips: bool) -> None:
    seen: list[dict[str, Any]] = []
    settings = {"BAMBOO_ROOT_PATH": PATH, "BAMBOO_API_KEYS": "secret"}
    certificate, key = self_signed(tmp_path)
    port = free_port()
    with Gateway(tmp_path, settings) as gateway, page_server(seen) as page_port:
        gateway.http.headers["Authorization"] = "Bearer secret"
        for number in range(STREAMS):
            gateway.call("POST", "/sessions", json={"id": f"s-{number}"})
        shown = recipe("nginx").replace("  # http://127.0.0.1:8080/ strips the path", "")
        upstream = f"127.0.0.1:{gateway.port}{'/' if strips else ''};"
        server = (
            f"listen 127.0.0.1:{port} ssl http2;\n"
            f"ssl_certificate {certificate};\nssl_certificate_key {key};\n"
            f"location / {{ proxy_pass http://127.0.0.1:{page_port}; }}\n"
            + changed(shown, ("127.0.0.1:8080;", upstream))
        )
        with (
            nginx_serving(server, f"https://localhost:{port}/nothing", tmp_path),
            page_at(f"https://localhost:{port}/", ignore_https_errors=True),
        ):
            until(lambda: seen, "all streams are open, or something is wrong")
            # The cookie is not for scripts.
            assert seen == [{"login": 204, "protocol": "h2", "cookie": ""}]
            for number in range(STREAMS):
                path = f"/sessions/s-{number}"
                assert len(gateway.call("GET", f"{path}/connections")["connections"]) == 1
                event = {"type": "custom", "name": "n", "value": number}
                gateway.call("POST", f"{path}/events", json=event)
            until(lambda: len(seen) > 1, "each stream has its event")
            assert seen[1] == {"got": list(range(STREAMS))}
