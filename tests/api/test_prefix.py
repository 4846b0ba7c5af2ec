"""Behind a path prefix: answers have it in every URL, requests have it or not."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx
import pytest
from fastapi import FastAPI, Request
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount

from bamboo_gateway.api.prefix import PREFIX, PathPrefix, put_back
from bamboo_gateway.api.routing import guarded_routes
from bamboo_gateway.api.security.authentication import COOKIE, OPEN_PATHS
from bamboo_gateway.domain.path_prefix import OWN_SEGMENTS, check_prefix
from bamboo_gateway.main import create_app
from bamboo_gateway.settings import Settings
from bamboo_gateway.wires.factory import wire_routers
from tests.api.serving import SECONDS, Served, raw, refused, serving
from tests.support.clients import local_client
from tests.support.waiting import until

KEY = {"Authorization": "Bearer secret"}
KEYED: dict[str, Any] = {"api_keys": ("secret",)}


@pytest.fixture(scope="module")
def behind() -> Iterator[Served]:
    with serving(root_path="/a/b", **KEYED) as running:
        yield running


@pytest.fixture(scope="module")
def plain() -> Iterator[Served]:
    with serving(**KEYED) as running:
        yield running


def client_of(served: Served, **options: Any) -> httpx.Client:
    return local_client(base_url=served.url, timeout=SECONDS, **options)


# -- every URL has it --------------------------------------------------------------------------

_URL = re.compile(r"(?<![\w~.-])((?:/[\w.~-]+)*)/api/v1/(?:sessions|stream|reconnect)/")


def urls_of(response: httpx.Response) -> list[str]:
    """Return what stands before each of the gateway's own paths in an answer."""
    shown = "\n".join([response.text, *(f"{k}: {v}" for k, v in response.headers.items())])
    return _URL.findall(re.sub(r'"instance":"[^"]*"', "", shown))


def flow(client: httpx.Client, base: str, sid: str) -> Iterator[httpx.Response]:
    """Call each route whose answer has URLs."""
    one = f"{base}/sessions/{sid}"
    chat = {"session_id": sid, "message": "Hi", "options": {"delay_ms": 0}}
    yield client.post(f"{base}/sessions", json={"id": sid, "user_id": "u"})
    turn = client.post(f"{base}/chat", json=chat)
    yield turn
    run_id = turn.json()["run_id"]
    waiting = {"Prefer": "wait=60"}
    yield client.get(f"{one}/runs/{run_id}", headers=waiting)
    yield client.get(f"{one}/runs/{run_id}")
    yield client.get(f"{one}/runs")
    yield client.post(f"{one}/runs/{run_id}/cancel")
    yield client.post(f"{base}/chat", json=chat, headers=waiting)
    yield client.post(f"{base}/chat", json=chat, headers={"Accept": "text/event-stream"})
    yield client.post(f"{one}/runs", json={"agent": "external"})
    yield client.post(f"{one}/cancel")
    yield client.get(one)
    yield client.get(one, params={"include_messages": "true"})
    yield client.patch(one, json={"title": "T"})
    yield client.get(f"{base}/sessions", params={"user_id": "u"})
    yield client.get(f"{one}/messages")
    yield client.post(f"{one}/ticket")
    yield client.post(f"{one}/shares", json={"link": True})
    yield client.post(f"{one}/fork", json={"new_id": f"{sid}-fork"})
    yield client.post(f"{one}/merge", json={"source_id": f"{sid}-fork"})
    document = client.get(f"{one}/export", params={"format": "json"}).content
    typed = {"Content-Type": "application/json"}
    yield client.post(f"{base}/import", content=document, headers=typed)
    ndjson = {**typed, "Accept": "application/x-ndjson"}
    yield client.post(f"{base}/import", content=document, headers=ndjson)
    yield client.post(f"{one}/close")
    yield client.post(f"{one}/reopen")
    yield client.post(f"{one}/archive")
    yield client.get(f"{base}/archive")
    yield client.get(f"{base}/archive/{sid}")
    yield client.post(f"{one}/restore")


@pytest.mark.parametrize("asked_with", ["", "/a/b"])
def test_every_url_in_every_answer_begins_with_the_prefix(behind: Served, asked_with: str) -> None:
    with client_of(behind, headers=KEY) as client:
        sid = f"urls{len(asked_with)}"
        answers = list(flow(client, f"{asked_with}/api/v1", sid))
    for answer in answers:
        assert answer.is_success, (answer.request.url, answer.text)
        assert set(urls_of(answer)) <= {"/a/b"}, answer.request.url
    assert [answer.request.url.path for answer in answers if not urls_of(answer)] == []


def test_without_a_prefix_no_url_has_one(plain: Served) -> None:
    with client_of(plain, headers=KEY) as client:
        for answer in flow(client, "/api/v1", "urls"):
            assert answer.is_success, (answer.request.url, answer.text)
            assert set(urls_of(answer)) == {""}, answer.request.url


def test_the_urls_lead_back(behind: Served) -> None:
    with client_of(behind, headers=KEY) as client:
        made = client.post("/api/v1/sessions", json={"id": "back"})
        assert made.headers["Location"] == "/a/b/api/v1/sessions/back"
        assert client.get(made.headers["Location"]).json()["id"] == "back"
        turn = client.post("/a/b/api/v1/chat", json={"session_id": "back", "message": "Hi"})
        assert "complete" in client.get(turn.json()["stream_url"] + "&until=complete").text
        ticket = client.post("/api/v1/sessions/back/ticket").json()["stream_url"]
    assert ticket.startswith("/a/b/api/v1/stream/back?after=")
    with client_of(behind) as nobody:
        page = ticket.replace("/stream/back?", "/sessions/back/messages?").replace("after=", "x=")
        page = page.split("?")[0] + "?ticket=" + ticket.split("ticket=")[1]
        shown = nobody.get(page).json()
        assert shown["stream_url"].startswith("/a/b/api/v1/stream/back?after=")
        assert shown["stream_url"].endswith(ticket.split("&")[1])


def test_the_front_page_the_document_and_its_page_have_it(behind: Served) -> None:
    with client_of(behind, headers=KEY) as client:
        for root in ("", "/", "/a/b", "/a/b/", "/a/b/api/v1"):
            about = client.get(root)
            assert about.json()["links"]["docs"] == "/a/b/docs", root
            page = client.get(root, headers={"Accept": "text/html"}).text
            assert 'href="/a/b/docs"' in page
            assert 'href="/a/b/api/v1/openapi.json"' in page
        for path in ("/api/v1/openapi.json", "/a/b/api/v1/openapi.json"):
            (server,) = client.get(path).json()["servers"]
            assert server["url"] == "/a/b"
        docs = client.get("/a/b/docs").text
        for link in re.findall(r'(?:src|href)="([^"]+)"', docs):
            assert client.get(f"/a/b/{link}").is_success, link


def test_a_problem_names_the_path_with_the_prefix(behind: Served) -> None:
    with client_of(behind, headers=KEY) as client:
        for path in ("/a/b/api/v1/sessions/none", "/api/v1/sessions/none"):
            problem = refused(client.get(path), 404, "session-not-found")
            assert problem["instance"] == "/a/b/api/v1/sessions/none"


# -- kept answers ------------------------------------------------------------------------------


def test_a_kept_answer_has_the_prefix_of_the_request_that_asks() -> None:
    calls: list[tuple[str, dict[str, Any]]] = [
        ("/sessions", {"id": "kept"}),
        ("/chat", {"session_id": "kept", "message": "Hi", "on_busy": "enqueue"}),
        ("/sessions/kept/fork", {"new_id": "kept-fork"}),
        ("/sessions/kept/runs", {"agent": "external"}),
        ("/sessions/kept/cancel", {}),
        ("/sessions/kept/shares", {"link": True}),
        ("/sessions/kept/close", {}),
        ("/sessions/kept/archive", {}),
    ]
    with serving(trusted_proxies=("127.0.0.1",), **KEYED) as served, client_of(served) as client:
        for number, (path, body) in enumerate(calls):
            if path.endswith("/runs"):
                done = "/api/v1/sessions/kept"
                until(
                    lambda: client.get(done, headers=KEY).json()["active_run_id"] is None,  # noqa: B023
                    "the run has ended",
                )
            answers = {}
            for prefix in ("", "/one", "/two/deep", ""):
                headers = {**KEY, "Idempotency-Key": f"k{number}"}
                if prefix:
                    headers["X-Forwarded-Prefix"] = prefix
                answer = client.post(f"/api/v1{path}", json=body or None, headers=headers)
                assert answer.is_success, (path, answer.text)
                assert set(urls_of(answer)) == {prefix}, (path, prefix)
                shown = answer.text + answer.headers.get("location", "")
                answers[prefix] = shown.replace(f"{prefix}/api/v1", "/api/v1")
            assert len(set(answers.values())) == 1, path


# -- requests with it and without it -----------------------------------------------------------


def status_of(served: Served, path: str, *headers: str) -> int:
    """Ask for a path as it is, which no client would send."""
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *headers]
    answer = raw(served.port, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/health/live", 200),
        ("/a/b/health/live", 200),
        ("/a/b", 200),
        ("/a/b/", 200),
        ("/", 200),
        # A letter may be escaped, which a proxy in front passes on or not.
        ("/%61/b/health/live", 200),
        ("/a/%62/health/live", 200),
        # Stripped once: the rest is no path of the gateway, and needs a credential as such.
        ("/a/b/a/b/health/live", 401),
        ("/a/b/a/b", 401),
        # At the end of a segment.
        ("/a/bX/health/live", 401),
        ("/a/b.health/live", 401),
        ("/a", 401),
        ("/a/health/live", 401),
        ("/b/health/live", 401),
        ("/A/B/health/live", 401),
        # Nothing is taken out of a path to find it.
        ("//a/b/health/live", 401),
        ("/a//b/health/live", 401),
        ("/a/b//health/live", 401),
        ("/a/./b/health/live", 401),
        ("/x/../a/b/health/live", 401),
        ("/a/b/../health/live", 401),
        ("/a/b/%2e%2e/health/live", 401),
        ("/a/b;x/health/live", 401),
        # A slash that is escaped ends no segment.
        ("/a%2fb/health/live", 422),
        ("/a/b%2Fhealth/live", 422),
        ("/a/b%2f", 422),
        ("/a/b%00/health/live", 401),
        ("/a/b/api/v1/sessions", 401),
    ],
)
def test_the_prefix_is_taken_once_and_at_a_whole_segment(
    behind: Served, path: str, status: int
) -> None:
    assert status_of(behind, path) == status


@cache
def _any_spelling(prefix: str) -> re.Pattern[str]:
    """Match a prefix at the beginning of a path, with any of its letters escaped.

    It is written without the code that it judges: of the path as it was sent, character by
    character.
    """
    spelt = [
        "/" if char == "/" else f"(?:{re.escape(char)}|%(?i:{ord(char):02x}))" for char in prefix
    ]
    return re.compile("".join(spelt) + r"(?=/|$)")


PIECES = st.sampled_from(
    [
        *("/a/b", "/%61/b", "/a", "/b", "/a/bX", "/a%2fb", "/A/b", "//", "/", "/.", "/.."),
        "/%2e%2e",
        *("/api/v1", "/health/live", "/health/ready", "/metrics", "/docs", "/api/v1/sessions"),
        *("/api/v1/diagnostics", "/api/v1/logout", "/api/v1/openapi.json", ";", "%00", "%20", "\\"),
    ]
)  # fmt: skip
PATHS = (
    st.lists(PIECES, min_size=1, max_size=5)
    .map("".join)
    .map(lambda path: f"/{path}"[path[0] == "/" :])
)


@given(PATHS)
def test_a_path_gets_what_it_gets_without_a_prefix_once_that_is_taken_from_it(
    behind: Served, plain: Served, path: str
) -> None:
    """No spelling of a prefix reaches a route that asks for more than it would without one."""
    rest = _any_spelling("/a/b").sub("", path, count=1) or "/"
    if path == "/a/b/metrics" or "metrics" in path:
        assert (status_of(behind, path) == 200) == (status_of(plain, rest) == 200)
        return
    expected = status_of(plain, rest)
    assert status_of(behind, path) == expected
    if expected == 200:  # without a credential
        assert rest in OPEN_PATHS


SEGMENT = st.text("abcXYZ019._~-", min_size=1, max_size=6).filter(lambda s: s not in {".", ".."})
PREFIXES = st.lists(SEGMENT, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
RESTS = st.one_of(
    PATHS, st.text(max_size=20).map(lambda text: "/" + text), st.sampled_from(sorted(OPEN_PATHS))
)


def scope_of(path: str, root_path: str = "", **more: Any) -> dict[str, Any]:
    raw_path = quote(path, safe="/%;\\").encode()
    return {
        "type": "http",
        "path": unquote(raw_path),
        "raw_path": raw_path,
        "root_path": root_path,
        "headers": [],
        "client": ("127.0.0.1", 1),
        **more,
    }


@given(PREFIXES, RESTS)
def test_any_prefix_is_taken_from_any_path_and_put_back(prefix: str, rest: str) -> None:
    paths = PathPrefix(Settings(root_path=prefix))
    given_scope = scope_of(prefix + rest)
    before = dict(given_scope)
    found, refusal = paths.stripped(given_scope)
    assert refusal is None
    assert given_scope == before
    wanted = scope_of(rest)
    assert (found["path"], found["raw_path"]) == (wanted["path"], wanted["raw_path"])
    assert found[PREFIX] == prefix
    put_back(found)
    assert (found["path"], found["raw_path"]) == (before["path"], before["raw_path"])
    assert found["root_path"] == prefix


@given(PREFIXES, RESTS)
def test_a_path_without_the_prefix_stays_as_it_is(prefix: str, rest: str) -> None:
    given_scope = scope_of(rest)
    if _any_spelling(prefix).match(given_scope["raw_path"].decode()):
        return
    found, _ = PathPrefix(Settings(root_path=prefix)).stripped(given_scope)
    assert (found["path"], found["raw_path"]) == (given_scope["path"], given_scope["raw_path"])


@given(PREFIXES)
def test_every_prefix_that_people_write_is_one(prefix: str) -> None:
    assert check_prefix(prefix) == prefix


def test_no_prefix_begins_like_a_path_of_the_gateway() -> None:
    segments = {route.path.split("/")[1] for route in guarded_routes(wire_routers())}
    assert segments - {""} == OWN_SEGMENTS


def test_without_a_prefix_the_scope_is_not_even_copied() -> None:
    scope = scope_of("/a/b/health/live")
    assert PathPrefix(Settings()).stripped(scope)[0] is scope


# -- X-Forwarded-Prefix ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forwarded() -> Iterator[Served]:
    with serving(root_path="/own", trusted_proxies=("10.9.0.0/16", "127.0.0.1")) as running:
        yield running


def links(served: Served, path: str = "/", *values: str) -> str:
    with client_of(served) as client:
        headers = [("X-Forwarded-Prefix", value) for value in values]
        answer = client.get(path, headers=headers)
        assert answer.status_code == 200, answer.text
        api: str = answer.json()["links"]["api"]
        return api


def test_a_trusted_proxy_names_the_prefix_of_its_request(forwarded: Served) -> None:
    assert links(forwarded) == "/own/api/v1"
    assert links(forwarded, "/", "/other/deep") == "/other/deep/api/v1"
    # Stripped by the proxy, or passed on.
    assert links(forwarded, "/other/deep/api/v1", "/other/deep") == "/other/deep/api/v1"
    assert links(forwarded, "/api/v1", "/other/deep") == "/other/deep/api/v1"
    # With a slash at its end, as some proxies write it; a proxy at the root says so.
    assert links(forwarded, "/", "/other/") == "/other/api/v1"
    assert links(forwarded, "/", "/") == "/api/v1"
    assert links(forwarded, "/", "") == "/own/api/v1"
    # It stands in place of the setting: that is no prefix of this request.
    with client_of(forwarded) as client:
        answer = client.get("/own/api/v1", headers={"X-Forwarded-Prefix": "/other"})
        assert answer.status_code == 404


@pytest.mark.parametrize("trusted", [(), ("10.0.0.0/8",), ("::1",)])
def test_the_header_of_anybody_else_counts_for_nothing(trusted: tuple[str, ...]) -> None:
    with serving(trusted_proxies=trusted) as served:
        assert links(served, "/", "/evil") == "/api/v1"
        assert links(served, "/", "//evil.example") == "/api/v1"
        with client_of(served) as client:
            answer = client.get("/evil/health/live", headers={"X-Forwarded-Prefix": "/evil"})
            assert answer.status_code == 404


@pytest.mark.parametrize(
    "value",
    [
        "bamboo",
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "/a//b",
        "/a/../b",
        "/..",
        "/.",
        "/a?b",
        "/a#b",
        "/a b",
        "/a;b",
        "/a,/b",
        "/a%2fb",
        '/a"b',
        "/<script>",
        "/a\tb",
        "/ä",
        "/api",
        "/api/v1",
        "/health/x",
        "/" + "a" * 300,
    ],
)
def test_a_header_that_is_no_prefix_is_refused_and_never_shown(
    forwarded: Served, value: str
) -> None:
    with client_of(forwarded) as client:
        for path in ("/", "/api/v1/sessions", "/docs"):
            answer = client.get(path, headers={b"X-Forwarded-Prefix": value.encode("latin-1")})
            assert refused(answer, 400, "malformed")["detail"].startswith("X-Forwarded-Prefix: ")
            whole = answer.text + repr(answer.headers)
            assert "evil" not in whole
            assert "script" not in whole


def test_two_headers_are_refused(forwarded: Served) -> None:
    with client_of(forwarded) as client:
        headers = [("X-Forwarded-Prefix", "/one"), ("X-Forwarded-Prefix", "/two")]
        refused(client.get("/", headers=headers), 400, "malformed")


@pytest.mark.parametrize(
    ("host", "counts"),
    [
        ("10.9.8.7", True),
        ("::ffff:10.9.8.7", True),
        ("10.8.0.1", False),
        ("fe80::1%eth0", True),
        ("fd00::1", False),
        ("testclient", False),
        ("", False),
    ],
)
def test_a_proxy_is_trusted_by_its_address(host: str, counts: bool) -> None:
    settings = Settings(trusted_proxies=("10.9.0.0/16", "fe80::/64"))
    headers = [(b"x-forwarded-prefix", b"/a")]
    scope = scope_of("/a/health/live", headers=headers, client=(host, 1))
    found, _ = PathPrefix(settings).stripped(scope)
    assert (found["path"], found.get(PREFIX)) == (
        ("/health/live", "/a") if counts else ("/a/health/live", None)
    )


def test_a_request_without_an_address_comes_from_no_trusted_proxy() -> None:
    headers = [(b"x-forwarded-prefix", b"/a")]
    scope = scope_of("/", headers=headers, client=None)
    found, refusal = PathPrefix(Settings(trusted_proxies=("0.0.0.0/0",))).stripped(scope)
    assert (refusal, PREFIX in found) == (None, False)


# -- the cookie --------------------------------------------------------------------------------


def cookies_of(answer: httpx.Response) -> list[tuple[str, bool]]:
    """Return the path of each cookie that is set, and whether it is removed."""
    found = []
    for cookie in answer.headers.get_list("set-cookie"):
        path = re.search(r"(?i); *path=([^;]*)", cookie)
        assert path is not None
        found.append((path[1], "max-age=0" in cookie.lower()))
    return found


def test_the_cookie_is_for_the_paths_behind_the_prefix(behind: Served) -> None:
    with client_of(behind) as client:
        answer = client.post("/a/b/api/v1/login", headers=KEY)
        assert cookies_of(answer) == [("/a/b", False)]
        client.cookies.clear()
        cookie = {"Cookie": answer.headers["set-cookie"].split(";")[0], "Origin": behind.url}
        assert client.get("/a/b/api/v1/sessions", headers=cookie).status_code == 200
        # A browser that had one before the prefix sends it as well: it does not outlive either.
        again = client.post("/api/v1/login", headers={**KEY, **cookie})
        assert cookies_of(again) == [("/a/b", False), ("/", True)]
        client.cookies.clear()
        assert cookies_of(client.post("/a/b/api/v1/logout", headers=cookie)) == [
            ("/a/b", True),
            ("/", True),
        ]
        assert COOKIE in cookie["Cookie"]


def test_without_a_prefix_the_cookie_is_for_the_whole_host(plain: Served) -> None:
    with client_of(plain) as client:
        assert cookies_of(client.post("/api/v1/login", headers=KEY)) == [("/", False)]
        sent = {"Origin": plain.url}
        assert cookies_of(client.post("/api/v1/logout", headers=sent)) == [("/", True)]


# -- what is measured, logged and limited ------------------------------------------------------


def test_log_metrics_audit_and_rates_see_the_path_without_it(
    tmp_path: Path,
) -> None:
    audit = tmp_path / "audit.jsonl"
    with (
        serving(
            root_path="/a/b", audit_log=audit, rate_limit_per_caller="8/hour", **KEYED
        ) as served,
        client_of(served, headers=KEY) as client,
    ):
        for path in ("/a/b/api/v1", "/api/v1"):
            name = f"s{len(path)}"
            assert client.post(f"{path}/sessions", json={"id": name}).status_code == 201
            assert client.delete(f"{path}/sessions/{name}").status_code == 204
        # What monitoring asks is free, also behind the prefix.
        for _ in range(20):
            assert client.get("/a/b/health/live").status_code == 200
            assert client.get("/a/b/").status_code == 200
        metrics = client.get("/a/b/metrics").text
        assert client.get("/a/b/api/v1/sessions").headers["RateLimit"].split(";")[1] == "r=2"
        refused(client.get("/a/b/api/v1/sessions/%2e"), 422, "invalid-id")
        assert client.get("/a/b/nothing").status_code == 404
        refused(client.get("/api/v1/sessions"), 429, "rate-limited")
    assert re.search(
        r'requests_total\{[^}]*method="DELETE"[^}]*route="/api/v1/sessions/\{session_id\}"'
        r'[^}]*status="2xx"\} 2',
        metrics,
    ), metrics
    assert "/a/b" not in metrics
    records = [json.loads(line) for line in audit.read_text("utf-8").splitlines()]
    assert [(one["action"], one["targets"]) for one in records] == [
        ("delete", ["s11"]),
        ("delete", ["s7"]),
    ]


# -- inside of another program -----------------------------------------------------------------


@asynccontextmanager
async def mounted(
    mount: str, *, host_root_path: str = "", **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """Run a gateway that a Starlette program has mounted, and a client of the program."""
    gateway = create_app(Settings(storage_url="memory:", **KEYED, **settings))
    host = Starlette(routes=[Mount(mount, gateway)])
    transport = httpx.ASGITransport(host, root_path=host_root_path)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(gateway.router.lifespan_context(gateway))
        yield await stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
        )


@pytest.mark.parametrize(
    ("mount", "host_root_path", "root_path", "path", "prefix"),
    [
        # The mount alone, also under a name that the gateway's own paths begin with.
        ("/gw", "", "", "/gw", "/gw"),
        ("/api", "", "", "/api", "/api"),
        # The server of the program names what a proxy has in front; it was stripped, or not.
        ("/gw", "/a/b", "", "/a/b/gw", "/a/b/gw"),
        ("/gw", "/a/b", "", "/gw", "/a/b/gw"),
        # The gateway's own setting names it.
        ("/gw", "", "/a/b", "/gw", "/a/b/gw"),
        # Both name it.
        ("/gw", "/a/b", "/a/b", "/gw", "/a/b/gw"),
        ("/gw", "/a/b", "/a/b", "/a/b/gw", "/a/b/gw"),
        # The setting names the whole path.
        ("/a/b", "", "/a/b", "/a/b", "/a/b"),
        # A part of the mount is the client's.
        ("/{tenant}/gw", "", "", "/x%20%22;%0D%0Ay/gw", "/x%20%22%3B%0D%0Ay/gw"),
    ],
)
async def test_a_mounted_gateway_knows_its_whole_prefix(
    mount: str, host_root_path: str, root_path: str, path: str, prefix: str
) -> None:
    async with mounted(mount, host_root_path=host_root_path, root_path=root_path) as client:
        # Open to everybody, as where nothing is mounted.
        assert (await client.get(f"{path}/health/live")).status_code == 200
        assert (await client.get(f"{path}/api/v1")).json()["links"]["docs"] == f"{prefix}/docs"
        refusal = await client.get(f"{path}/api/v1/sessions")
        assert refused(refusal, 401, "unauthorized")["instance"] == f"{prefix}/api/v1/sessions"
        made = await client.post(f"{path}/api/v1/sessions", json={"id": "s"}, headers=KEY)
        assert made.status_code == 201
        assert made.headers["Location"] == f"{prefix}/api/v1/sessions/s"
        assert made.json()["stream_url"].startswith(f"{prefix}/api/v1/stream/s?after=")
        login = await client.post(f"{path}/api/v1/login", headers=KEY)
        assert cookies_of(login) == [(prefix, False)]
        client.cookies.clear()
        # Stripped once.
        for twice in (f"{path}{path}", f"{path}{mount}") if "{" not in mount else ():
            again = await client.get(f"{twice}/health/live")
            assert again.status_code == 401, twice


async def test_a_mount_behind_a_path_of_the_client_stays_on_this_host() -> None:
    async with mounted("/{rest:path}/gw") as client:
        about = await client.get("http://127.0.0.1//evil.example/gw/api/v1")
        assert about.json()["links"]["api"] == "/evil.example/gw/api/v1"


def test_routes_that_a_program_adds_are_found_behind_the_prefix() -> None:
    def prepare(app: FastAPI) -> None:
        @app.get("/mine/{name}")
        async def mine(name: str, request: Request) -> dict[str, str]:
            return {"name": name, "url": str(request.url_for("mine", name="x").path)}

    with serving(prepare, root_path="/a/b") as served, client_of(served) as client:
        for path in ("/mine/ann", "/a/b/mine/ann"):
            assert client.get(path).json() == {"name": "ann", "url": "/a/b/mine/x"}
        assert client.get("/a/b/a/b/mine/ann").status_code == 404
        assert client.get("/a/b/health/live").status_code == 200
