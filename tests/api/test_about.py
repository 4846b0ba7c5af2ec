"""What somebody sees who opens the gateway's address: what it is, and its API as a page."""

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from bamboo_gateway import __version__
from tests.api.keyed import keyed
from tests.api.serving import CONTRACT, SECONDS, Served, refused
from tests.support.clients import local_client

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.fixture
def http(served: Served) -> Iterator[httpx.Client]:
    with local_client(base_url=served.url, timeout=SECONDS) as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/api/v1"])
def test_a_program_is_told_what_this_is_and_where_to_go(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    about: dict[str, Any] = answer.json()
    CONTRACT.check("GET", "/", answer)
    assert (about["name"], about["version"]) == ("Bamboo Gateway", __version__)
    assert about["links"]["api"] == "/api/v1"
    for link in about["links"].values():
        assert http.get(link).status_code == 200, link


@pytest.mark.parametrize("path", ["/", "/api/v1"])
def test_a_browser_gets_a_page_whose_links_lead_somewhere(http: httpx.Client, path: str) -> None:
    answer = http.get(path, headers={"Accept": BROWSER})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["vary"] == "Accept"
    assert f"<h1>Bamboo Gateway {__version__}</h1>" in answer.text
    links = [urljoin(path, link) for link in re.findall(r'href="([^"]+)"', answer.text)]
    assert {"/docs", "/api/v1/openapi.json", "/health/ready"} <= set(links)
    for link in links:
        assert http.get(link).status_code == 200, link


def test_the_page_of_the_api_loads_nothing_but_files_of_this_gateway(http: httpx.Client) -> None:
    page = http.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "script-src 'self';" in policy
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 5
    for link in loaded:
        assert not re.match(r"[a-z]+:|//", link), link
        answer = http.get(urljoin("/docs", link))
        assert answer.status_code == 200
        assert len(answer.content) > 100
    assert "<script>" not in page.text
    assert 'url: "api/v1/openapi.json"' in http.get("/docs/start.js").text


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("swagger-ui.js", "text/javascript"),
        ("swagger-ui.css", "text/css"),
        ("favicon.png", "image/png"),
    ],
)
def test_the_files_of_swagger_ui_are_those_of_its_package(
    http: httpx.Client, name: str, kind: str
) -> None:
    packaged = {"swagger-ui.js": "swagger-ui-bundle.js", "favicon.png": "favicon-32x32.png"}
    file = files("fastapi_swagger") / "resources" / packaged.get(name, name)
    answer = http.get(f"/docs/{name}")
    assert answer.content == file.read_bytes()
    assert answer.headers["content-type"].partition(";")[0] == kind
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "name", ["main.py", "docs.html", "..%2fabout.py", "%2e%2e", "start.js%00", "x" * 500]
)
def test_no_other_file_is_served(http: httpx.Client, name: str) -> None:
    answer = http.get(f"/docs/{name}")
    assert answer.status_code in {404, 422}
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_document_is_served_as_it_is_described(http: httpx.Client) -> None:
    answer = http.get("/api/v1/openapi.json")
    CONTRACT.check("GET", "/api/v1/openapi.json", answer)
    assert answer.json() == CONTRACT.document


def test_with_keys_a_stranger_learns_where_he_is_and_not_which_version(tmp_path: Path) -> None:
    with keyed(tmp_path) as gateway:
        url = gateway.served.url
        with httpx.Client(base_url=url, trust_env=False, timeout=SECONDS) as stranger:
            assert stranger.get("/").json()["name"] == "Bamboo Gateway"
            for accept in ("*/*", BROWSER):
                assert __version__ not in stranger.get("/", headers={"Accept": accept}).text
            for path in ("/docs", "/docs/swagger-ui.js", "/api/v1/openapi.json"):
                refused(stranger.get(path), 401, "unauthorized")


def test_the_page_of_the_api_is_open_to_a_login(tmp_path: Path) -> None:
    with keyed(tmp_path) as gateway:
        _, key = gateway.make("alice")
        url = gateway.served.url
        with httpx.Client(base_url=url, trust_env=False, timeout=SECONDS) as browser:
            login = browser.post("/api/v1/login", headers={"Authorization": f"Bearer {key}"})
            assert login.status_code == 204
            for path in ("/docs", "/docs/swagger-ui.js", "/api/v1/openapi.json"):
                assert browser.get(path).status_code == 200
