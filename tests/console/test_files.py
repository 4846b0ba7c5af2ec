"""The files of the console as the gateway serves them."""

import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from bamboo_gateway.console.routes import _DIRECTORY, FILES, OPEN_PATHS
from bamboo_gateway.main import create_app
from tests.processes import REPOSITORY, environment, program
from tests.support.settings import given_settings

WIRE_BYTES_MAX = 100_000


@pytest.fixture
async def http(request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    changed = getattr(request, "param", {})
    app = create_app(given_settings(storage_url="memory:", **changed))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://localhost", trust_env=False
        ) as client,
    ):
        yield client


def test_every_file_is_served_and_none_is_left_out() -> None:
    assert {path.name for path in _DIRECTORY.iterdir()} == set(FILES)
    page = (_DIRECTORY / "index.html").read_text("utf-8")
    loaded = set(re.findall(r'(?:href|src)="([\w.]+)"', page))
    assert loaded == set(FILES) - {"index.html"}, "the page loads all files at once"


@pytest.mark.parametrize("http", [{}, {"api_keys": ("secret",)}], indirect=True)
async def test_the_files_need_no_credential_and_have_a_strict_policy(
    http: httpx.AsyncClient,
) -> None:
    for path in OPEN_PATHS - {"/console"}:
        answer = await http.get(path)
        assert answer.status_code == 200, path
        name = path.rpartition("/")[2] or "index.html"
        assert answer.headers["content-type"] == FILES[name]
        assert answer.content == (_DIRECTORY / name).read_bytes()
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "unsafe" not in policy
        assert "require-trusted-types-for 'script'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_file_is_not_sent_again_while_it_is_the_same(http: httpx.AsyncClient) -> None:
    etags = set()
    for encoding in ("identity", "gzip", "gzip;q=0"):
        sent = {"Accept-Encoding": encoding}
        answer = await http.get("/console/main.js", headers=sent)
        assert answer.headers.get("content-encoding") == ("gzip" if encoding == "gzip" else None)
        assert answer.headers["vary"] == "Accept-Encoding"
        etag = answer.headers["etag"]
        etags.add(etag)
        again = await http.get("/console/main.js", headers={**sent, "If-None-Match": etag})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
    assert len(etags) == 2


async def test_head_is_answered_as_get(http: httpx.AsyncClient) -> None:
    head, get = await http.head("/console/"), await http.get("/console/")
    assert head.status_code == 200
    assert head.headers["etag"] == get.headers["etag"]


async def test_the_address_without_a_slash_leads_to_the_page(http: httpx.AsyncClient) -> None:
    answer = await http.get("/console")
    assert answer.status_code == 308
    # Relative: right below every prefix.
    assert answer.headers["location"] == "console/"


@pytest.mark.parametrize("http", [{"root_path": "/bamboo"}], indirect=True)
async def test_below_a_prefix_the_files_are_the_same(http: httpx.AsyncClient) -> None:
    for prefix in ("", "/bamboo"):
        assert (await http.get(f"{prefix}/console/main.js")).status_code == 200
    about = (await http.get("/")).json()
    assert about["links"]["console"] == "/bamboo/console/"


@pytest.mark.parametrize(
    "name", ["routes.py", "..%2froutes.py", "%2e%2e", "main.js%00", "MAIN.JS", "x" * 500]
)
async def test_no_name_leads_to_another_file_r13(http: httpx.AsyncClient, name: str) -> None:
    answer = await http.get(f"/console/{name}")
    assert answer.status_code in {400, 404, 422}
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("http", [{"console": False}], indirect=True)
async def test_a_gateway_without_the_console_has_no_such_address(http: httpx.AsyncClient) -> None:
    for path in OPEN_PATHS:
        assert (await http.get(path)).status_code == 404
    assert "console" not in (await http.get("/")).json()["links"]


async def test_the_whole_console_is_small_on_the_wire(http: httpx.AsyncClient) -> None:
    total = 0
    for path in OPEN_PATHS - {"/console"}:
        async with http.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as answer:
            total += len(b"".join([part async for part in answer.aiter_raw()]))
    assert 10_000 < total - len(await _page(http)) < WIRE_BYTES_MAX


async def _page(http: httpx.AsyncClient) -> bytes:
    """Return the page as it is sent: it is counted twice, at `/` and by its name."""
    async with http.stream("GET", "/console/", headers={"Accept-Encoding": "gzip"}) as answer:
        return b"".join([part async for part in answer.aiter_raw()])


def test_no_file_makes_markup_of_text_or_names_another_host() -> None:
    for name in FILES:
        text = (_DIRECTORY / name).read_text("utf-8")
        for forbidden in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ):
            assert forbidden not in text, (name, forbidden)
        assert " style=" not in text, name
        assert "<script>" not in text, name
        hosts = re.findall(r"https?://[\w.-]+", text)
        assert set(hosts) <= {"http://www.w3.org"}, name  # the name space of SVG


@pytest.mark.external_service
def test_the_scripts_have_no_type_errors(tmp_path: Path) -> None:
    node = program("node")
    compiler = REPOSITORY / "tests/e2e/node/node_modules/typescript/bin/tsc"
    # Beside the files: what the compiler checks lies below its configuration.
    flags = [
        "--noEmit",
        "--checkJs",
        "--allowJs",
        "--strict",
        "--noUnusedLocals",
        "--noUnusedParameters",
        "--target",
        "es2022",
        "--module",
        "es2022",
        "--moduleResolution",
        "bundler",
        "--lib",
        "es2023,dom,dom.iterable",
    ]
    scripts = sorted(str(path) for path in _DIRECTORY.glob("*.js"))
    done = subprocess.run(
        [node, str(compiler), *flags, *scripts],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
