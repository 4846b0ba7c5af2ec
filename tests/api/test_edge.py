"""The checks before a route: Host, Origin, keys, methods, bounds of the head."""

import re

import httpx
import pytest
from fastapi import FastAPI, HTTPException
from structlog.contextvars import merge_contextvars

from tests.api.serving import SECONDS, Served, check_answer, raw, refused, serving
from tests.support.logs import captured_logs


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8080",
        "127.1.2.3:80",
        "localhost",
        "LOCALHOST:99",
        "localhost.:8080",
        "app.localhost:8080",
        "[::1]",
        "[::1]:8080",
    ],
)
def test_a_loopback_host_is_served(api: httpx.Client, host: str) -> None:
    assert api.get("/sessions", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "notlocalhost",
        "10.0.0.1:8080",
        "0.0.0.0:8080",
        "[::2]:8080",
        "127.0.0.1:8080@evil.example",
        "127.0.0.1:80:80",
        "::1",
        "",
    ],
)
def test_a_host_that_is_not_a_loopback_name_is_refused(api: httpx.Client, host: str) -> None:
    refused(api.get("/sessions", headers={"Host": host}), 403, "host-not-allowed")
    refused(api.get("/health/live", headers={"Host": host}), 403, "host-not-allowed")


def test_two_host_headers_are_malformed(served: Served) -> None:
    head = b"GET /health/live HTTP/1.1\r\nConnection: close\r\n"
    hosts = b"Host: localhost\r\nHost: localhost\r\n\r\n"
    assert raw(served.port, head + hosts).startswith(b"HTTP/1.1 400")


def test_no_host_header_is_refused(served: Served) -> None:
    assert raw(served.port, b"GET /health/live HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://localhost:3000", "file://", "", "http://127.0.0.1:1"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_a_page_of_another_origin_is_refused(api: httpx.Client, origin: str, method: str) -> None:
    answer = api.request(method, "/sessions", headers={"Origin": origin})
    refused(answer, 403, "origin-not-allowed")


def test_a_page_of_the_gateways_own_origin_is_served(served: Served, api: httpx.Client) -> None:
    assert api.get("/sessions", headers={"Origin": served.url}).status_code == 200


def test_listed_origins_get_cors_headers_and_others_are_refused() -> None:
    with serving(cors_origins=("https://app.example",)) as served, served.client() as api:
        headers = {"Origin": "https://app.example"}
        answer = api.get("/sessions", headers=headers)
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "ETag" in answer.headers["access-control-expose-headers"]
        asked = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "cache-control,content-type,idempotency-key,"
            "last-event-id,traceparent,tracestate",
        }
        preflight = httpx.options(
            f"{served.url}/api/v1/chat", headers=headers | asked, trust_env=False, timeout=SECONDS
        )
        assert preflight.status_code == 200
        assert "POST" in preflight.headers["access-control-allow-methods"]
        asked = {
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization,if-none-match,if-range,range",
        }
        preflight = httpx.options(
            f"{served.url}/api/v1/files/file_1",
            headers=headers | asked,
            trust_env=False,
            timeout=SECONDS,
        )
        assert preflight.status_code == 200
        exposed = set(answer.headers["access-control-expose-headers"].split(", "))
        assert {"Accept-Ranges", "Content-Disposition", "Content-Range"} <= exposed
        other = api.get("/sessions", headers={"Origin": "https://other.example"})
        refused(other, 403, "origin-not-allowed")


def test_with_keys_every_route_but_health_needs_one() -> None:
    with serving(api_keys=("first", "second")) as served, served.client() as api:
        for path in ("/sessions", "/sessions/x", "/metrics", "/nowhere", "/stream/x"):
            answer = api.get(path)
            refused(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"].startswith("Bearer")
        refused(api.post("/chat", json={"message": "hi"}), 401, "unauthorized")
        for path in ("/health/live", "/health/ready"):
            assert api.get(path).status_code == 200
            assert (
                httpx.get(f"{served.url}{path}", trust_env=False, timeout=SECONDS).status_code
                == 200
            )
        assert (
            httpx.get(f"{served.url}/metrics", trust_env=False, timeout=SECONDS).status_code == 401
        )
        for key in ("first", "second"):
            headers = {"Authorization": f"bearer {key}"}
            assert api.get("/sessions", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "value",
    ["Bearer wrong", "Bearer", "Basic first", "first", "Bearer first second", "Bearer é"],
)
def test_a_wrong_key_is_refused(value: str) -> None:
    with serving(api_keys=("first",)) as served, served.client() as api:
        headers = {b"Authorization": value.encode("latin-1")}
        answer = api.get("/sessions", headers=headers)
        refused(answer, 401, "unauthorized")
        assert "invalid_token" in answer.headers["www-authenticate"]


def test_with_keys_any_host_and_origin_is_served() -> None:
    with serving(api_keys=("k",)) as served, served.client() as api:
        headers = {
            "Authorization": "Bearer k",
            "Host": "gateway.example",
            "Origin": "https://app.example",
        }
        assert api.get("/sessions", headers=headers).status_code == 200


def test_insecure_allows_addresses_and_names_without_dots_but_no_dns_name() -> None:
    with serving(insecure=True) as served, served.client() as api:
        for host in ("192.168.1.7:8080", "bamboo:8080", "[fd00::1]:8080"):
            assert api.get("/sessions", headers={"Host": host}).status_code == 200
        answer = api.get("/sessions", headers={"Host": "evil.example"})
        refused(answer, 403, "host-not-allowed")


def test_an_unknown_route_is_404_and_an_unknown_method_is_405_with_allow(
    api: httpx.Client, session_id: str
) -> None:
    refused(api.get("/nowhere"), 404, "not-found")
    refused(api.get("/sessions/"), 404, "not-found")
    refused(api.get(f"/sessions/{session_id}/forks"), 404, "not-found")
    answer = api.put(f"/sessions/{session_id}", json={})
    refused(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "DELETE, GET, HEAD, PATCH"
    answer = api.delete("/sessions")
    assert answer.headers["allow"] == "GET, HEAD, POST"


def test_every_get_answers_head_without_a_body(api: httpx.Client, session_id: str) -> None:
    got = api.get(f"/sessions/{session_id}")
    head = api.head(f"/sessions/{session_id}")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["etag"] == got.headers["etag"]
    assert head.headers["content-length"] == got.headers["content-length"]
    assert api.head("/sessions/unknown-one").status_code == 404


def test_head_of_a_stream_answers_its_headers_and_opens_none(
    api: httpx.Client, session_id: str
) -> None:
    head = api.head(f"/stream/{session_id}")
    assert head.status_code == 200
    assert head.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert api.get(f"/sessions/{session_id}/connections").json()["connections"] == []


@pytest.mark.parametrize("path", ["/sessions/..%2F..%2Fvictim", "/stream/a%2fb", "/%2F"])
def test_an_encoded_slash_in_an_id_is_refused(api: httpx.Client, path: str) -> None:
    refused(api.get(path), 422, "invalid-id")


def test_a_request_keeps_the_id_of_a_proxy_or_gets_one(api: httpx.Client) -> None:
    assert api.get("/sessions").headers["x-request-id"].startswith("req_")
    named = api.get("/nowhere", headers={"X-Request-Id": "abc-123"})
    assert named.headers["x-request-id"] == "abc-123"
    for bad in ("a b", "x" * 129, ""):
        answer = api.get("/sessions", headers={"X-Request-Id": bad})
        assert answer.headers["x-request-id"].startswith("req_")


def test_an_unexpected_error_is_a_500_without_a_trace_and_a_trace_in_the_log() -> None:
    def break_it(app: FastAPI) -> None:
        def broken() -> bytes:
            raise RuntimeError("secret inside")

        app.state.openapi_json = broken

    with serving(break_it) as served, captured_logs(merge_contextvars) as logs:
        url = f"{served.url}/api/v1/openapi.json"
        answer = httpx.get(url, trust_env=False, timeout=SECONDS)
    assert answer.status_code == 500
    problem = answer.json()
    assert problem["code"] == "internal"
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    (failure,) = [line for line in logs if line["log_level"] == "error"]
    assert failure["request_id"] == problem["request_id"]
    assert failure["exc_info"]


@pytest.mark.parametrize(
    "data",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n",
        b"GET /api/v1/sessions/\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /api/v1/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
    ],
)
def test_bytes_that_are_not_http_are_malformed(served: Served, data: bytes) -> None:
    answer = raw(served.port, data)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"application/problem+json" in answer
    assert b'"code":"malformed"' in answer


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 12_000 + b"\r\n",
    ],
)
def test_a_head_that_is_too_large_is_refused(served: Served, head: bytes) -> None:
    assert raw(served.port, head).startswith(b"HTTP/1.1 400")


def test_a_header_that_never_ends_is_cut(served: Served) -> None:
    import socket

    with socket.create_connection(("127.0.0.1", served.port), timeout=SECONDS) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        sent = 0
        try:
            while sent < 4_000_000:
                sent += sock.send(b"a" * 16_384)
            assert sock.recv(100).startswith(b"HTTP/1.1 400")
        except (BrokenPipeError, ConnectionResetError):
            return


def test_a_websocket_handshake_is_an_ordinary_request(served: Served) -> None:
    answer = raw(
        served.port,
        b"GET /api/v1/stream/x HTTP/1.1\r\nHost: localhost\r\nConnection: close, Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n"
        b"Sec-WebSocket-Version: 13\r\n\r\n",
        until=b"\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 404")


def test_the_openapi_document_is_served(served: Served) -> None:
    answer = httpx.get(f"{served.url}/api/v1/openapi.json", trust_env=False, timeout=SECONDS)
    assert answer.json()["openapi"].startswith("3.1")


def test_answers_are_not_cached(api: httpx.Client, session_id: str) -> None:
    for path in (f"/sessions/{session_id}", "/sessions", "/sessions/unknown-one"):
        assert api.get(path).headers["cache-control"] == "no-store"


def test_the_contract_check_of_these_tests_finds_a_wrong_answer(served: Served) -> None:
    request = httpx.Request("GET", f"{served.url}/api/v1/sessions/x")
    wrong = httpx.Response(200, json={"id": 1}, request=request)
    with pytest.raises(Exception, match="id"):
        check_answer(wrong)


def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
    def request(name: str, last: bool) -> bytes:
        end = "Connection: close\r\n" if last else ""
        return f"GET /api/v1/{name} HTTP/1.1\r\nHost: localhost\r\n{end}\r\n".encode()

    names = ["first", "health/live", "third", "fourth"]
    sent = b"".join(request(name, name == "fourth") for name in names)
    received = raw(served.port, sent)
    places = [received.index(f'/api/v1/{name}"'.encode()) for name in ("first", "third", "fourth")]
    assert places == sorted(places)
    assert received.count(b"HTTP/1.1 ") == 4


@pytest.mark.parametrize(
    ("path", "has"),
    [
        ("/sessions/x/messages?untill=now", "after, before, branch, limit, order"),
        ("/sessions/x/runs?untill=now&order=asc", "cursor, limit, order"),
        ("/sessions/x/summary?untill=now", "none"),
    ],
)
def test_a_misspelt_parameter_is_named_with_those_there_are(
    api: httpx.Client, path: str, has: str
) -> None:
    problem = refused(api.get(path), 422, "invalid")
    assert problem["detail"] == (
        f"Query parameter 'untill': no such parameter; this route has {has}."
    )
    assert problem["errors"] == [{"loc": ["query", "untill"], "msg": "no such parameter"}]


@pytest.mark.parametrize(
    ("path", "body", "loc", "msg"),
    [
        ("/chat", {"messages": "Hi"}, ["messages"], "no such field; did you mean `message`?"),
        ("/chat", {"message": "Hi", "qqqq": 1}, ["qqqq"], "no such field"),
        ("/sessions", {"titel": "x"}, ["titel"], "no such field; did you mean `title`?"),
        # Inside of a list, an object and a union: the fields of the object there.
        (
            "/chat",
            {"message": {"role": "user", "content": "Hi", "modell": "x"}},
            ["message", "modell"],
            "no such field; did you mean `model`?",
        ),
        (
            "/sessions/x/messages",
            [{"role": "user", "content": "Hi", "usage": {"total_token": 1}}],
            [0, "usage", "total_token"],
            "no such field; did you mean `total_tokens`?",
        ),
        (
            "/chat",
            {"message": {"role": "user", "content": [{"type": "text", "text": "x", "urls": "y"}]}},
            ["message", "content", 0, "urls"],
            "no such field",  # `url` is a field of other parts
        ),
    ],
)
def test_a_misspelt_field_is_named_with_the_nearest_there_is(
    api: httpx.Client, path: str, body: object, loc: list[str | int], msg: str
) -> None:
    problem = refused(api.post(path, json=body), 422, "invalid")
    assert {"loc": ["body", *loc], "msg": msg} in problem["errors"]


def test_a_very_long_field_is_cut(api: httpx.Client) -> None:
    problem = refused(api.post("/chat", json={"message": "Hi", "y" * 100_000: 1}), 422, "invalid")
    assert len(problem["detail"]) < 400
    assert problem["errors"][0]["msg"] == "no such field"


def test_a_very_long_parameter_is_cut_and_the_others_are_still_named(api: httpx.Client) -> None:
    problem = refused(api.get(f"/sessions/x/runs?{'y' * 5000}=1"), 422, "invalid")
    assert len(problem["detail"]) < 400
    assert problem["detail"].endswith("this route has cursor, limit, order.")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": ["text"]},
        {"text": "x"},
        "x",
        None,
    ],
)
def test_an_unknown_part_is_refused_with_the_parts_there_are(
    api: httpx.Client, part: object
) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "What is this?"}, part]}
    problem = refused(api.post("/chat", json={"message": message}), 422, "invalid")
    assert problem["errors"][0]["loc"] == ["body", "message", "content", 1]
    for name in ("text", "thinking", "image", "file", "url", "data", "media_type"):
        assert re.search(rf"\b{name}\b", problem["detail"])
    # Within the length to which texts are cut.
    assert not problem["detail"].endswith("…")


def test_a_program_that_embeds_the_app_may_add_routes() -> None:
    def prepare(app: FastAPI) -> None:
        @app.get("/mine/{name}")
        async def mine(name: str, shout: bool = False) -> dict[str, str]:
            if name == "nobody":
                raise HTTPException(418, "a teapot")
            return {"name": name.upper() if shout else name}

    with serving(prepare) as served, httpx.Client(base_url=served.url, timeout=SECONDS) as client:
        assert client.get("/mine/ann?shout=true").json() == {"name": "ANN"}
        assert client.get("/mine/nobody").status_code == 418
        assert client.get("/mine").status_code == 404
        assert client.get("/api/v1/health/live").status_code == 200
        # The gateway's checks hold for them as well.
        assert client.get("/mine/ann", headers={"Host": "example.com"}).status_code == 403
