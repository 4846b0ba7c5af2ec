"""Bodies, keys and ids outside the contract get their 4xx on every route."""

import json
from collections.abc import Iterator

import httpx
import pytest

from bamboo_gateway.api.limits import IDEMPOTENCY_KEY_CHARS_MAX, JSON_DEPTH_MAX
from tests.api.serving import Served, raw, refused, serving

JSON = {"Content-Type": "application/json"}
ROUTES_WITH_A_BODY = [
    ("POST", "/chat"),
    ("POST", "/sessions"),
    ("PATCH", "/sessions/{id}"),
    ("POST", "/sessions/{id}/messages"),
    ("POST", "/sessions/{id}/events"),
    ("POST", "/sessions/{id}/runs"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES_WITH_A_BODY)
@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nope",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": 1,}',
        b'{"a": "\xff"}',
        b'{"a": "\\ud800"}',
        b'{"a": 1} {"b": 2}',
        b"\xef\xbb\xbf{}",
    ],
)
def test_a_body_that_is_not_json_is_malformed(
    api: httpx.Client, session_id: str, method: str, path: str, body: bytes
) -> None:
    answer = api.request(method, path.format(id=session_id), content=body, headers=JSON)
    refused(answer, 400, "malformed")


@pytest.mark.parametrize(("method", "path"), ROUTES_WITH_A_BODY)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/xml"},
        {"Content-Type": "json"},
    ],
)
def test_a_body_without_a_json_media_type_is_415(
    api: httpx.Client, session_id: str, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = api.request(method, path.format(id=session_id), content=b"{}", headers=headers)
    refused(answer, 415, "unsupported-media-type")


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "application/merge-patch+json"]
)
def test_every_json_media_type_is_accepted(api: httpx.Client, session_id: str, kind: str) -> None:
    headers = {"Content-Type": kind}
    answer = api.patch(f"/sessions/{session_id}", content=b'{"title":"x"}', headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(("method", "path"), ROUTES_WITH_A_BODY)
@pytest.mark.parametrize("body", ["[]", '"x"', "1", "null", "true", "[1]", "[[]]"])
def test_json_of_another_shape_is_422(
    api: httpx.Client, session_id: str, method: str, path: str, body: str
) -> None:
    if (path, body) == ("/sessions", "null"):
        return  # a session without anything said about it
    answer = api.request(method, path.format(id=session_id), content=body, headers=JSON)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"][0] == "body"


@pytest.mark.parametrize(("method", "path"), ROUTES_WITH_A_BODY)
def test_no_body_is_422_where_one_is_needed(
    api: httpx.Client, session_id: str, method: str, path: str
) -> None:
    answer = api.request(method, path.format(id=session_id))
    if path == "/sessions":
        assert answer.status_code == 201
    elif path.endswith("/events"):
        refused(answer, 415, "unsupported-media-type")
    else:
        refused(answer, 422, "invalid")


@pytest.mark.parametrize(("method", "path"), ROUTES_WITH_A_BODY)
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_json_that_is_nested_too_deeply_is_malformed(
    api: httpx.Client, session_id: str, method: str, path: str, brackets: str
) -> None:
    opening = '{"a":' if brackets == "{}" else "["
    depth = 50_000
    body = opening * depth + "1" + brackets[1] * depth
    answer = api.request(method, path.format(id=session_id), content=body, headers=JSON)
    refused(answer, 400, "malformed")


def test_nesting_is_counted_to_its_bound(api: httpx.Client, session_id: str) -> None:
    def nested(depth: int) -> bytes:
        # The body, `metadata` and the lists in it.
        return b'{"metadata":{"a":' + b"[" * (depth - 2) + b"]" * (depth - 2) + b"}}"

    path = f"/sessions/{session_id}"
    assert api.patch(path, content=nested(JSON_DEPTH_MAX), headers=JSON).status_code == 200
    answer = api.patch(path, content=nested(JSON_DEPTH_MAX + 1), headers=JSON)
    refused(answer, 400, "malformed")
    # Many lists beside each other are not deep.
    wide = {"metadata": {"a": [[1]] * 500}}
    assert api.patch(path, json=wide).status_code == 200


@pytest.fixture(scope="module")
def small() -> Iterator[Served]:
    with serving(max_body_bytes=2048, max_event_bytes=1024) as served:
        yield served


@pytest.mark.parametrize(("method", "path"), ROUTES_WITH_A_BODY)
def test_a_body_over_the_limit_is_413_with_and_without_a_length(
    small: Served, method: str, path: str
) -> None:
    body = json.dumps({"message": "x" * 3000}).encode()
    with small.client() as api:
        answer = api.request(method, path.format(id="s"), content=body, headers=JSON)
        refused(answer, 413, "too-large")

        def chunks() -> Iterator[bytes]:
            yield body[:1000]
            yield body[1000:]

        answer = api.request(method, path.format(id="s"), content=chunks(), headers=JSON)
        refused(answer, 413, "too-large")
        assert api.get("/sessions/s").status_code == 404


def test_a_body_that_announces_too_much_is_refused_before_it_is_sent(small: Served) -> None:
    head = (
        b"POST /api/v1/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n"
    )
    answer = raw(small.port, head, until=b'"too-large"')
    assert answer.startswith(b"HTTP/1.1 413")


def test_an_event_or_message_over_its_own_limit_is_413_and_leaves_nothing(small: Served) -> None:
    with small.client() as api:
        assert api.post("/sessions", json={"id": "one"}).status_code == 201
        event = {"type": "custom", "name": "x", "value": "v" * 1100}
        answer = api.post("/sessions/one/events", json=event)
        refused(answer, 413, "event-too-large")
        message = {"role": "user", "content": "v" * 1100}
        refused(api.post("/sessions/one/messages", json=message), 413, "event-too-large")
        both = [{"role": "user", "content": "ok"}, message]
        refused(api.post("/sessions/one/messages", json=both), 413, "event-too-large")
        said = {"message": "v" * 1100, "session_id": "two"}
        refused(api.post("/chat", json=said), 413, "event-too-large")
        assert api.get("/sessions/one/messages").json()["messages"] == []
        assert len(api.get("/sessions/one/events").json()["events"]) == 1
        assert api.get("/sessions/two").status_code == 404


@pytest.mark.parametrize("key", ["", "a b", "ä", "x" * (IDEMPOTENCY_KEY_CHARS_MAX + 1), "a\tb"])
@pytest.mark.parametrize(("method", "path"), [r for r in ROUTES_WITH_A_BODY if r[0] == "POST"])
def test_an_idempotency_key_outside_the_contract_is_422(
    api: httpx.Client, session_id: str, method: str, path: str, key: str
) -> None:
    answer = api.request(
        method,
        path.format(id=session_id),
        json={"message": "x"},
        headers={b"Idempotency-Key": key.encode("latin-1")},
    )
    problem = refused(answer, 422, "invalid")
    assert problem["errors"][0]["loc"] == ["header", "Idempotency-Key"]


def test_two_idempotency_keys_are_422(api: httpx.Client) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    refused(api.post("/sessions", json={}, headers=headers), 422, "invalid")


BAD_IDS = [
    ".",
    "..",
    "%2e%2e",
    "-a",
    "_a",
    ".hidden",
    "a%00b",
    "a%0a",
    "%0aa",
    "a%20",
    "a%5cb",
    "a:b",
    "a*",
    "%ff",
    "x" * 129,
    "~",
    "a%3fb",
    "a;b",
]
SESSION_PATHS = [
    ("GET", "/sessions/{id}"),
    ("PATCH", "/sessions/{id}"),
    ("DELETE", "/sessions/{id}"),
    ("POST", "/sessions/{id}/close"),
    ("POST", "/sessions/{id}/reopen"),
    ("GET", "/sessions/{id}/messages"),
    ("POST", "/sessions/{id}/messages"),
    ("GET", "/sessions/{id}/events"),
    ("POST", "/sessions/{id}/events"),
    ("GET", "/sessions/{id}/runs"),
    ("POST", "/sessions/{id}/runs"),
    ("POST", "/sessions/{id}/cancel"),
    ("GET", "/sessions/{id}/connections"),
    ("GET", "/stream/{id}"),
    ("GET", "/reconnect/{id}"),
    ("POST", "/stop/{id}"),
    ("GET", "/sessions/known/runs/{id}"),
    ("POST", "/sessions/known/runs/{id}/cancel"),
    ("DELETE", "/sessions/known/connections/{id}"),
]
BODIES: dict[str, object] = {
    "messages": {"role": "user", "content": "x"},
    "events": {"type": "custom", "name": "x"},
    "runs": {"agent": "external"},
}


@pytest.mark.parametrize(("method", "path"), SESSION_PATHS)
def test_an_invalid_id_in_a_path_is_422(served: Served, method: str, path: str) -> None:
    last = path.rsplit("/", 1)[-1]
    body = json.dumps(BODIES.get(last, {})).encode()
    for bad in BAD_IDS:
        if "connections/" in path and bad in {".", "..", "%2e%2e", "-a", "_a", ".hidden"}:
            continue  # these are connection ids
        # Over a socket: clients resolve `..` before they send.
        target = f"/api/v1{path}".format(id=bad).encode()
        answer = raw(
            served.port,
            b"%b %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (method.encode(), target, len(body), body),
        )
        assert b'"code":"invalid-id"' in answer, (bad, answer)
        assert answer.startswith(b"HTTP/1.1 422"), (bad, answer)


@pytest.mark.parametrize("bad", ["", ".", "../x", "a/b", "a\n", "\na", "ä", "x" * 129, "a\u0000"])
def test_an_invalid_id_in_a_body_is_422(api: httpx.Client, session_id: str, bad: str) -> None:
    for path, body in [
        ("/sessions", {"id": bad}),
        ("/sessions", {"session_id": bad}),
        ("/chat", {"message": "x", "session_id": bad}),
        ("/chat", {"message": "x", "run_id": bad}),
        ("/chat", {"message": {"role": "user", "content": "x", "id": bad}}),
        (f"/sessions/{session_id}/messages", {"role": "user", "content": "x", "id": bad}),
        (f"/sessions/{session_id}/runs", {"agent": "external", "run_id": bad}),
    ]:
        problem = refused(api.post(path, json=body), 422, "invalid")
        assert problem["errors"][0]["loc"][-1] in {"id", "session_id", "run_id"}


@pytest.mark.parametrize("bad", ["", "-", "a b", "ä", "x" * 129, "a/b", "../x"])
def test_an_invalid_id_in_a_query_is_422(api: httpx.Client, session_id: str, bad: str) -> None:
    for path, name in [
        ("/sessions", "parent_id"),
        (f"/sessions/{session_id}/messages", "before"),
        (f"/sessions/{session_id}/messages", "after"),
        (f"/stream/{session_id}", "run_id"),
    ]:
        problem = refused(api.get(path, params={name: bad}), 422, "invalid-id")
        assert problem["errors"][0]["loc"] == ["query", name]
    if bad != "-":
        answer = api.get(f"/stream/{session_id}", params={"connection_id": bad})
        refused(answer, 422, "invalid-id")


def test_an_error_never_echoes_a_large_input(api: httpx.Client, session_id: str) -> None:
    large = "k" * 1_000_000
    for path, body in [
        ("/chat", {"message": "x", large: 1}),
        ("/chat", {"message": "x", "on_busy": large}),
        ("/chat", {"message": "x", "session_id": large}),
        (f"/sessions/{session_id}/events", {"type": large}),
        (f"/sessions/{session_id}/events", {"type": "token", "run_id": large, "content": ""}),
    ]:
        answer = api.post(path, json=body)
        assert answer.status_code in {404, 422}
        assert len(answer.content) < 3000
    many = [{"role": "user", "content": "x", f"k{number}": 1} for number in range(900)]
    answer = api.post(f"/sessions/{session_id}/messages", json=many)
    assert len(refused(answer, 422, "invalid")["errors"]) <= 20


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/sessions", "limit=0"),
        ("/sessions", "limit=1001"),
        ("/sessions", "limit=x"),
        ("/sessions", "limit=1.5"),
        ("/sessions", "limit="),
        ("/sessions", "limit=1&limit=2"),
        ("/sessions", "offset=-1"),
        ("/sessions", "offset=99999999999999999999"),
        ("/sessions", "offset=1&cursor=x"),
        ("/sessions", "state=sleeping"),
        ("/sessions", "session_type=robot"),
        ("/sessions", "sort_by=color"),
        ("/sessions", "sort_order=up"),
        ("/sessions", "count=maybe"),
        ("/sessions", "created_after=yesterday"),
        ("/sessions", "created_after=2026-13-01T00:00:00Z"),
        ("/sessions", "created_before=2026-01-01"),
        ("/sessions", "active_after=1763661234567"),
        ("/sessions", "active_after=2026-01-01T00:00:00+99:00"),
        ("/sessions", "titel_contains=x"),
        ("/sessions", "cursor=" + "x" * 5000),
        ("/sessions/{id}", "include_messages=perhaps"),
        ("/sessions/{id}", "x=1"),
        ("/sessions/{id}/messages", "limit=1001"),
        ("/sessions/{id}/messages", "order=up"),
        ("/sessions/{id}/events", "limit=-1"),
        ("/sessions/{id}/events", "wait=61"),
        ("/sessions/{id}/events", "wait=-1"),
        ("/sessions/{id}/events", "wait=nan"),
        ("/sessions/{id}/events", "wait=inf"),
        ("/sessions/{id}/events", "type=nonsense"),
        ("/sessions/{id}/events", "type="),
        ("/sessions/{id}/events", "order=sideways"),
        ("/sessions/{id}/runs", "limit=0"),
        ("/stream/{id}", "until=never"),
        ("/stream/{id}", "untl=complete"),
        ("/stream/{id}", "from=end"),
        ("/stream/{id}", "heartbeat=yes"),
        ("/stream/{id}", "after=1&after=2"),
        ("/sessions/{id}/connections", "limit=1001"),
        ("/health/live", "x=1"),
    ],
)
def test_a_query_outside_the_contract_is_422(
    api: httpx.Client, session_id: str, path: str, query: str
) -> None:
    problem = refused(api.get(f"{path.format(id=session_id)}?{query}"), 422, "invalid")
    assert problem["errors"][0]["loc"][0] == "query"


@pytest.mark.parametrize(
    "cursor", ["x", "e30", "!!!!", "AAAA", "-1", "99999999999999999999", "%00"]
)
def test_a_cursor_that_the_gateway_did_not_make_is_422(
    api: httpx.Client, session_id: str, cursor: str
) -> None:
    for path in (
        "/sessions",
        f"/sessions/{session_id}/runs",
        f"/sessions/{session_id}/connections",
    ):
        problem = refused(api.get(f"{path}?cursor={cursor}"), 422, "invalid-cursor")
        assert problem["errors"][0]["loc"] == ["query", "cursor"]


@pytest.mark.parametrize("after", ["x", "-", "1-", "-1", "1-x", "1--2", "1 -2", "", "1-2-3", "1e3"])
def test_a_malformed_position_is_422(api: httpx.Client, session_id: str, after: str) -> None:
    for path in (f"/sessions/{session_id}/events", f"/stream/{session_id}"):
        refused(api.get(path, params={"after": after}), 422, "invalid-position")


@pytest.mark.parametrize("prefer", ["wait=x", "wait=-1", "wait=301", "wait=", "wait", "wait=1.5"])
def test_a_wait_outside_the_contract_is_422(api: httpx.Client, free_id: str, prefer: str) -> None:
    body = {"message": "x", "session_id": free_id}
    problem = refused(api.post("/chat", json=body, headers={"Prefer": prefer}), 422, "invalid")
    assert problem["errors"][0]["loc"] == ["header", "Prefer"]
    assert api.get(f"/sessions/{free_id}").status_code == 404


MESSAGE_ERRORS: list[dict[str, object]] = [
    {},
    {"role": "user"},
    {"content": "x"},
    {"role": "robot", "content": "x"},
    {"role": "user", "content": 1},
    {"role": "user", "content": None},
    {"role": "user", "content": ""},
    {"role": "user", "content": []},
    {"role": "user", "content": ["x"]},
    {"role": "user", "content": [{"type": "text"}]},
    {"role": "user", "content": [{"type": "poem", "text": "x"}]},
    {"role": "user", "content": [{"type": ["text"], "text": "x"}]},
    {"role": "user", "content": [{"type": {}, "text": "x"}]},
    {"role": "user", "content": [{"type": "text", "text": "x", "color": 1}]},
    {"role": "user", "content": [{"type": "image", "media_type": "image/png"}]},
    {"role": "user", "content": [{"type": "image", "url": "u"}]},
    {
        "role": "user",
        "content": [{"type": "image", "url": "u", "data": "d", "media_type": "image/png"}],
    },
    {"role": "user", "content": "x", "tool_call_id": "c"},
    {"role": "user", "content": "x", "tool_calls": [{"id": "c", "name": "n", "arguments": {}}]},
    {"role": "assistant", "content": "", "tool_calls": []},
    {"role": "assistant", "content": "x", "tool_calls": [{"id": "c"}]},
    {"role": "assistant", "content": "x", "tool_calls": [{"id": "c", "name": "n", "arguments": 1}]},
    {"role": "tool", "content": "x"},
    {"role": "user", "content": "x", "metadata": []},
    {"role": "user", "content": "x", "metadata": {"a": "x" * 70_000}},
    {"role": "user", "content": "x", "status": "complete"},
    {"role": "user", "content": "x", "usage": {"total_tokens": -1}},
]


def test_an_invalid_time_in_a_body_has_the_location_body(api: httpx.Client) -> None:
    problem = refused(api.post("/cleanup", json={"before": "yesterday"}), 422, "invalid")
    assert [error["loc"] for error in problem["errors"]] == [["body", "before"]]
    assert "%2B" not in problem["detail"]


@pytest.mark.parametrize("message", MESSAGE_ERRORS)
def test_a_message_outside_the_contract_is_422(
    api: httpx.Client, session_id: str, message: dict[str, object]
) -> None:
    for path, body in [
        (f"/sessions/{session_id}/messages", message),
        (f"/sessions/{session_id}/messages", [{"role": "user", "content": "ok"}, message]),
        ("/chat", {"message": message, "session_id": session_id}),
        ("/chat", {"message": [message], "session_id": session_id}),
    ]:
        problem = refused(api.post(path, json=body), 422, "invalid")
        for error in problem["errors"]:
            assert error["loc"][0] == "body"
            assert not any(str(part).startswith("<") for part in error["loc"])
    assert api.get(f"/sessions/{session_id}/messages").json()["messages"] == []


@pytest.mark.parametrize(
    "extra",
    [
        {"message": ""},
        {"message": []},
        {"message": ["x"]},
        {"message": [{"role": "user", "content": "x"}] * 1001},
        {"on_busy": "explode"},
        {"agent": ""},
        {"agent": 1},
        {"options": []},
        {"options": {"x": "y" * 70_000}},
        {"title": "x" * 1001},
        {"title": 1},
        {"user_id": ""},
        {"session_type": "robot"},
        {"metadata": {"x": "y" * 70_000}},
        {"nonsense": 1},
        {"stream": True},
        {"working_dir": "x" * 5000},
    ],
)
def test_a_chat_outside_the_contract_is_422_and_creates_nothing(
    api: httpx.Client, free_id: str, extra: dict[str, object]
) -> None:
    body = {"message": "x", "session_id": free_id, **extra}
    refused(api.post("/chat", json=body), 422, "invalid")
    refused(api.get(f"/sessions/{free_id}"), 404, "session-not-found")


@pytest.mark.parametrize(
    "patch",
    [
        {"state": "closed"},
        {"id": "x"},
        {"ttl_seconds": 0},
        {"ttl_seconds": 1.5},
        {"ttl_seconds": "60"},
        {"ttl_seconds": 10**12},
        {"session_type": None},
        {"session_type": "robot"},
        {"metadata": []},
        {"metadata": "x"},
        {"extension_data": 1},
        {"title": 1},
        {"title": "x" * 1001},
    ],
)
def test_a_patch_outside_the_contract_is_422_and_changes_nothing(
    api: httpx.Client, session_id: str, patch: dict[str, object]
) -> None:
    before = api.get(f"/sessions/{session_id}")
    refused(api.patch(f"/sessions/{session_id}", json={"title": "new", **patch}), 422, "invalid")
    assert api.get(f"/sessions/{session_id}").json() == before.json()


def test_an_unknown_agent_is_422(api: httpx.Client, free_id: str) -> None:
    body = {"message": "x", "session_id": free_id, "agent": "nobody"}
    refused(api.post("/chat", json=body), 422, "unknown-agent")
    refused(api.get(f"/sessions/{free_id}"), 404, "session-not-found")


@pytest.mark.parametrize(
    "body", [{}, {"agent": "default"}, {"agent": "external", "x": 1}, {"agent": None}]
)
def test_only_external_runs_are_opened(
    api: httpx.Client, session_id: str, body: dict[str, object]
) -> None:
    refused(api.post(f"/sessions/{session_id}/runs", json=body), 422, "invalid")
