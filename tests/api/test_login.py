"""Credentials of web pages: tickets for one session, and the login cookie."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute

from bamboo_gateway.api.routing import guarded_routes
from bamboo_gateway.wires.factory import wire_routers
from tests.api.keyed import SECRET, Keyed, LateClock, bearer, keyed, serving_with, token, watching
from tests.api.serving import SECONDS, refused, serving
from tests.e2e.watchers import HttpxSse
from tests.faults.wire import hanging
from tests.processes import Gateway
from tests.support.clients import local_request
from tests.support.waiting import until


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    with keyed(tmp_path_factory.mktemp("keys"), api_keys=("plain",), jwt_secret=SECRET) as running:
        for name, user_id in (("mine", "alice"), ("other", "alice"), ("bobs", "bob")):
            body = {"id": name, "user_id": user_id}
            assert running.ask("POST", "/sessions", bearer("plain"), json=body).status_code == 201
        yield running


LINE = b'{"type":"custom","name":"line","value":1}\n'


def ticket_of(gateway: Keyed, headers: dict[str, str], session_id: str = "mine") -> dict[str, str]:
    answer = gateway.ask("POST", f"/sessions/{session_id}/ticket", headers)
    assert answer.status_code == 201, answer.text
    made: dict[str, str] = answer.json()
    return made


def with_ticket(path: str, ticket: str) -> str:
    return f"{path}{'&' if '?' in path else '?'}ticket={ticket}"


READ_WITH_TICKET = (
    "/sessions/mine",
    "/sessions/mine/messages",
    "/sessions/mine/messages?limit=1",
    "/sessions/mine/events",
)


# -- tickets ---------------------------------------------------------------------------------


def test_an_event_source_reconnects_with_another_ticket(
    gateway: Keyed,
) -> None:
    made = ticket_of(gateway, bearer(token()))
    assert made["stream_url"].startswith("/api/v1/stream/mine?after=")
    assert made["stream_url"].endswith(f"&ticket={made['ticket']}")
    source = HttpxSse()
    source.start(gateway.served.url + made["stream_url"])
    try:
        until(lambda: source.seen, "the stream is open")
        for name in ("first", "end"):
            note = {"type": "custom", "name": name, "value": 1}
            gateway.ask("POST", "/sessions/mine/events", bearer(token()), json=note)
        source.wait_for_end()
    finally:
        source.stop()
    assert [seen.event.get("name") for seen in source.seen] == [None, "first", "end"]
    again = HttpxSse()
    url = with_ticket("/stream/mine", ticket_of(gateway, bearer(token()))["ticket"])
    again.seen.append(source.seen[0])  # as a page that was reloaded comes back with its last id
    again.start(f"{gateway.served.url}/api/v1{url}")
    try:
        again.wait_for_end()
    finally:
        again.stop()
    assert [seen.event.get("name") for seen in again.seen[2:]] == ["first", "end"]


def test_a_ticket_opens_the_read_routes_of_its_session(gateway: Keyed) -> None:
    ticket = ticket_of(gateway, bearer(token()))["ticket"]
    for path in READ_WITH_TICKET:
        assert gateway.get(with_ticket(path, ticket)).status_code == 200, path
    reconnect = with_ticket("/reconnect/mine", ticket)
    with watching(gateway, reconnect, {}) as stream:
        stream.until(b'"open"')
    refused(gateway.get(with_ticket("/sessions/mine?nonsense=1", ticket)), 422, "invalid")


def test_a_ticket_gets_404_for_other_sessions_whether_they_exist_or_not(
    gateway: Keyed,
) -> None:
    ticket = ticket_of(gateway, bearer(token()))["ticket"]
    for name in ("other", "bobs", "none"):
        answer = gateway.get(with_ticket(f"/sessions/{name}", ticket))
        problem = refused(answer, 404, "session-not-found")
        assert problem["detail"] == f"No session {name!r}."


@pytest.mark.parametrize(
    ("route", "method"),
    [
        pytest.param(route, method, id=f"{method} {route.path}")
        for route in guarded_routes(wire_routers())
        for method in sorted(route.methods or ())
        if route.right is not None
    ],
)
def test_a_ticket_opens_no_other_route(gateway: Keyed, route: APIRoute, method: str) -> None:
    takes = {
        "/api/v1/stream/{session_id}",
        "/api/v1/reconnect/{session_id}",
        "/api/v1/sessions/{session_id}",
        "/api/v1/sessions/{session_id}/messages",
        "/api/v1/sessions/{session_id}/events",
        "/api/v1/ds/{session_id}",
        "/api/v1/stream",
        "/api/v1/files/{file_id}",
    }
    from tests.api.serving import CONTRACT

    documented = []
    if route.include_in_schema:
        documented = CONTRACT.document["paths"][route.path_format][method.lower()]["security"]
    if method == "GET" and route.path in takes:
        assert {"ticket": ["read"]} in documented
        return
    assert {"ticket": ["read"]} not in documented
    ticket = ticket_of(gateway, bearer(token()))["ticket"]
    names = {"session_id": "mine", "run_id": "r", "connection_id": "c", "name": "n"}
    names |= {"share_id": "share-1", "branch_id": "main", "user_id": "alice"}
    names |= {"file_id": "file_1", "webhook_id": "wh_1"}
    names |= {"agent": "default", "threadId": "mine"}
    names |= {"response_id": "resp_1", "conversation_id": "conv_1", "item_id": "i", "model": "m"}
    path = route.path.format(**{name: names[name] for name in route.param_convertors})
    answer = local_request(
        method,
        gateway.served.url + with_ticket(path, ticket),
        content=b"{ no JSON" if method != "GET" else None,
        timeout=SECONDS,
    )
    refused(answer, 403, "forbidden")


def test_a_ticket_needs_read_access_to_its_session(gateway: Keyed) -> None:
    for name in ("bobs", "none"):
        answer = gateway.ask("POST", f"/sessions/{name}/ticket", bearer(token()))
        problem = refused(answer, 404, "session-not-found")
        assert problem["detail"] == f"No session {name!r}."
    answer = gateway.ask("POST", "/sessions/mine/ticket", bearer(token(scope="write")))
    refused(answer, 403, "forbidden")
    ticket_of(gateway, bearer(token(scope="read")))
    ticket_of(gateway, bearer("plain"), "bobs")


def test_a_forged_or_expired_ticket_is_401(gateway: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = LateClock()
    monkeypatch.setattr(gateway.served.app.state.gate._signer, "_clock", clock)
    ticket = ticket_of(gateway, bearer(token()))["ticket"]
    assert gateway.get(with_ticket("/sessions/mine", ticket)).status_code == 200
    head, payload, signature = ticket.split(".")
    wrong = [
        "",
        "x",
        head + "." + payload + ".",
        f"{head}.{payload}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}",
        f"{head}.{payload[:-2]}AA.{signature}",
        token(),
        "plain",
        f"{ticket}&ticket={ticket}",
        f"{ticket}&%74icket=x",
    ]
    expected = gateway.get("/sessions/mine", bearer("wrong"))
    for text in wrong:
        answer = gateway.get(with_ticket("/sessions/mine", text))
        refused(answer, 401, "unauthorized")
        assert answer.text == expected.text
        assert answer.headers["www-authenticate"] == expected.headers["www-authenticate"]
    # Nor is it a key, nor the cookie of a login.
    refused(gateway.get("/sessions/mine", bearer(ticket)), 401, "unauthorized")
    cookie = {"Cookie": f"bamboo_login={ticket}"}
    refused(gateway.get("/sessions/mine", cookie), 401, "unauthorized")
    clock.ahead_ms = 61_000
    refused(gateway.get(with_ticket("/sessions/mine", ticket)), 401, "unauthorized")


def test_a_wrong_header_is_401_even_with_a_valid_ticket(gateway: Keyed) -> None:
    ticket = ticket_of(gateway, bearer(token()))["ticket"]
    path = with_ticket("/sessions/mine", ticket)
    refused(gateway.get(path, bearer("wrong")), 401, "unauthorized")
    assert gateway.get(path, bearer(token())).status_code == 200


def test_revoking_a_key_ends_its_tickets_and_their_streams(gateway: Keyed) -> None:
    key_id, key = gateway.make("alice")
    ticket = ticket_of(gateway, bearer(key))["ticket"]
    with watching(gateway, with_ticket("/stream/mine", ticket), {}) as stream:
        stream.until(b'"open"')
        gateway.revoke(key_id)
        goodbye = stream.to_end()[-1].data
        assert goodbye == {"type": "goodbye", "reason": "unauthorized", "retry": True}
    refused(gateway.get(with_ticket("/sessions/mine", ticket)), 401, "unauthorized")


def test_a_stream_outlives_its_ticket_but_not_the_ticket_makers_token(
    gateway: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = LateClock()
    for one in (gateway.served.app.state.gate, gateway.served.app.state.gate._signer):
        monkeypatch.setattr(one, "_clock", clock)
    # The token of an hour holds for 30 s longer, for clocks that differ.
    made = ticket_of(gateway, bearer(token(exp=int(time.time()) + 3600)))
    with watching(gateway, with_ticket("/stream/mine", made["ticket"]), {}) as stream:
        stream.until(b'"open"')
        clock.ahead_ms = 1_800_000
        refused(gateway.get(with_ticket("/sessions/mine", made["ticket"])), 401, "unauthorized")
        note = {"type": "custom", "name": "later", "value": 1}
        gateway.ask("POST", "/sessions/mine/events", bearer("plain"), json=note)
        stream.until(b'"later"')
        assert b"goodbye" not in stream.received
        clock.ahead_ms = 3_700_000
        assert stream.to_end()[-1].data["reason"] == "unauthorized"


def test_a_gateway_without_credentials_makes_tickets_too(tmp_path: Path) -> None:
    with serving_with(tmp_path / "keys.json") as gateway:
        gateway.ask("POST", "/sessions", json={"id": "mine"})
        ticket = ticket_of(gateway, {})["ticket"]
        assert gateway.get(with_ticket("/sessions/mine", ticket)).status_code == 200
        refused(gateway.get(with_ticket("/sessions", ticket)), 403, "forbidden")
        refused(gateway.get(with_ticket("/sessions/mine", "wrong")), 401, "unauthorized")
        # It was made with nothing, so it ends when something is asked for.
        gateway.make("alice")
        refused(gateway.get(with_ticket("/sessions/mine", ticket)), 401, "unauthorized")


def test_tickets_and_cookies_survive_a_restart_and_are_not_stored(tmp_path: Path) -> None:
    settings = {
        "BAMBOO_API_KEYS": "a-plain-key",
        "BAMBOO_TICKET_TTL_SECONDS": "3600",
        "BAMBOO_LOG_LEVEL": "debug",
        "BAMBOO_LOG_FORMAT": "json",
    }
    with Gateway(tmp_path, settings) as running:
        headers = bearer("a-plain-key")
        running.call("POST", "/sessions", json={"id": "mine"}, headers=headers)
        ticket = running.call("POST", "/sessions/mine/ticket", headers=headers)["ticket"]
        cookie = running.http.post("/login", headers=headers).headers["set-cookie"]
        login = cookie.partition("=")[2].partition(";")[0]
        running.http.cookies.clear()
        secret = running.data_dir / "ticket-secret"
        assert secret.stat().st_mode & 0o777 == 0o600
        assert running.stop() == 0
        running.start()
        answers = [
            running.http.get(with_ticket("/sessions/mine", ticket)),
            running.http.get("/sessions", headers={"Cookie": f"bamboo_login={login}"}),
            running.http.get(with_ticket("/sessions/none", ticket)),
            running.http.get(with_ticket("/sessions/mine?x=1", ticket)),
            running.http.get(with_ticket("/nowhere", ticket)),
            running.http.post(with_ticket("/chat", ticket), content=b"{"),
            running.http.get(with_ticket("/sessions/mine", ticket + "x")),
            running.http.get(with_ticket("/sessions", f"x&ticket={ticket}")),
            running.http.get(f"/sessions/mine?%74icket={ticket}"),
        ]
        statuses = [answer.status_code for answer in answers]
        assert statuses == [200, 200, 404, 422, 404, 403, 401, 401, 200]
        with running.http.stream("GET", with_ticket("/stream/mine", ticket)) as stream:
            assert stream.status_code == 200
        assert running.stop() == 0
        # What was read with the ticket names it, for whoever has it, and nothing else does.
        refusals = [answer for answer in answers if answer.is_error]
        told = running.log + "".join(answer.text for answer in refusals)
        files = [path for path in running.data_dir.rglob("*") if path.is_file()]
        told += "".join(
            path.read_text("utf-8", errors="replace") for path in files if path != secret
        )
        for word in (ticket, login, "a-plain-key", secret.read_text("utf-8").strip()):
            assert word not in told
            assert word.rpartition(".")[2] not in told
        assert str(running.data_dir / "ticket-secret") not in told


# -- the cookie ------------------------------------------------------------------------------


@pytest.fixture
def page(gateway: Keyed) -> Iterator[httpx.Client]:
    """A browser that is logged in as alice, on a page of the gateway's own."""
    with gateway.served.client(headers={"Origin": gateway.served.url}) as client:
        assert client.post("/login", headers=bearer(token())).status_code == 204
        yield client


def test_a_login_sets_an_http_only_same_site_cookie(
    gateway: Keyed,
) -> None:
    answer = gateway.ask("POST", "/login", bearer(token()))
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["cache-control"] == "no-store"
    pair, *attributes = (part.strip() for part in answer.headers["set-cookie"].split(";"))
    assert pair.startswith("bamboo_login=")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(attributes)
    assert "Secure" not in attributes
    (age,) = [int(one.partition("=")[2]) for one in attributes if one.startswith("Max-Age")]
    assert 0 < age <= 640  # no longer than the token, with its leeway
    for headers in ({"X-Forwarded-Proto": "https"}, {"Origin": "https://gw.example"}):
        behind = gateway.ask("POST", "/login", bearer(token(), **headers))
        assert "; Secure" in behind.headers["set-cookie"]


def test_a_request_with_the_cookie_has_the_users_rights(gateway: Keyed, page: httpx.Client) -> None:
    listed = [session["id"] for session in page.get("/sessions").json()["sessions"]]
    assert sorted(listed) == ["mine", "other"]
    assert page.post("/sessions/mine/ticket").status_code == 201
    note = {"type": "custom", "name": "n", "value": 1}
    assert page.post("/sessions/mine/events", json=note).status_code == 201
    refused(page.get("/metrics"), 403, "forbidden")
    refused(page.get("/sessions", headers={"X-User-Id": "bob"}), 403, "forbidden")
    with gateway.served.client() as reader:
        reader.post("/login", headers=bearer(token(scope="read")))
        refused(
            reader.post("/sessions", json={}, headers={"Origin": gateway.served.url}),
            403,
            "forbidden",
        )


def test_a_login_needs_a_credential_in_the_header(gateway: Keyed, page: httpx.Client) -> None:
    refused(page.post("/login"), 401, "unauthorized")
    refused(gateway.ask("POST", "/login"), 401, "unauthorized")
    refused(gateway.ask("POST", "/login", bearer("wrong")), 401, "unauthorized")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "", "http://localhost:1", None])
def test_a_page_of_another_origin_changes_nothing_with_a_cookie(
    gateway: Keyed, page: httpx.Client, origin: str | None
) -> None:
    del page.headers["Origin"]
    headers = {} if origin is None else {"Origin": origin}
    for method, path in (
        ("POST", "/sessions"),
        ("PATCH", "/sessions/mine"),
        ("DELETE", "/sessions/mine"),
    ):
        answer = page.request(method, path, headers=headers)
        refused(answer, 403, "origin-not-allowed")
    if origin is not None:
        refused(page.get("/sessions", headers=headers), 403, "origin-not-allowed")
    assert gateway.get("/sessions/mine", bearer(token())).status_code == 200
    # Whoever can set the header needs no cookie, and is asked for no origin.
    assert page.get("/sessions", headers={**headers, **bearer(token())}).status_code == 200


def test_a_cookie_read_without_an_origin_is_refused_when_another_site_made_it(
    page: httpx.Client,
) -> None:
    del page.headers["Origin"]
    for site, mode, status in (
        ("same-origin", "cors", 200),
        ("none", "navigate", 200),
        ("same-site", "navigate", 200),
        ("same-site", "no-cors", 403),
        ("cross-site", "no-cors", 403),
        ("cross-site", "cors", 403),
    ):
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
        assert page.get("/sessions", headers=headers).status_code == status, (site, mode)


def test_a_cookie_is_invalid_after_its_time_and_after_its_key(
    gateway: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_id, key = gateway.make("alice")
    clock = LateClock()
    for one in (gateway.served.app.state.gate, gateway.served.app.state.gate._signer):
        monkeypatch.setattr(one, "_clock", clock)
    cookies = []
    for _ in range(2):
        cookie = gateway.ask("POST", "/login", bearer(key)).headers["set-cookie"]
        cookies.append({"Cookie": cookie.partition(";")[0]})
    with watching(gateway, "/stream/mine", cookies[0]) as stream:
        stream.until(b'"open"')
        clock.ahead_ms = 12 * 3_600_000 + 1_000
        assert stream.to_end()[-1].data["reason"] == "unauthorized"
    refused(gateway.get("/sessions", cookies[0]), 401, "unauthorized")
    clock.ahead_ms = 0
    assert gateway.get("/sessions", cookies[1]).status_code == 200
    gateway.revoke(key_id)
    until(lambda: gateway.get("/sessions", cookies[1]).status_code == 401, "it ends with its key")


def test_two_login_cookies_are_invalid(gateway: Keyed) -> None:
    pair = gateway.ask("POST", "/login", bearer(token())).headers["set-cookie"].partition(";")[0]
    assert gateway.get("/sessions", {"Cookie": f"theme=dark; {pair}"}).status_code == 200
    refused(gateway.get("/sessions", {"Cookie": f"{pair}; {pair}"}), 401, "unauthorized")
    refused(gateway.get("/sessions", {"Cookie": f"{pair}x"}), 401, "unauthorized")


def test_a_logout_deletes_the_cookie(gateway: Keyed, page: httpx.Client) -> None:
    refused(
        page.post("/logout", headers={"Origin": "https://evil.example"}), 403, "origin-not-allowed"
    )
    assert page.get("/sessions").status_code == 200
    answer = page.post("/logout")
    assert answer.status_code == 204
    assert "Max-Age=0" in answer.headers["set-cookie"]
    refused(page.get("/sessions"), 401, "unauthorized")
    assert page.post("/logout").status_code == 204


def test_a_logout_works_during_recovery(
    gateway: Keyed, page: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.served.app.state.gate, "_signer", None)
    assert page.post("/logout").status_code == 204


def test_a_gateway_without_credentials_sets_no_cookie() -> None:
    with serving() as served, served.client() as api:
        answer = api.post("/login")
        assert answer.status_code == 204
        assert "set-cookie" not in answer.headers


def test_a_listed_origin_may_call_with_a_cookie_and_a_wildcard_may_not(tmp_path: Path) -> None:
    origin = {"Origin": "https://app.example"}
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    for listed, status in (("https://app.example", 201), ("*", 403)):
        with keyed(tmp_path, api_keys=("plain",), cors_origins=(listed,)) as gateway:
            cookie = gateway.ask("POST", "/login", bearer("plain")).headers["set-cookie"]
            pair = {"Cookie": cookie.partition(";")[0]}
            answer = gateway.ask("POST", "/sessions", {**pair, **origin}, json={})
            assert answer.status_code == status
            preflight = httpx.options(
                f"{gateway.served.url}/api/v1/sessions",
                headers={**origin, **asked},
                trust_env=False,
                timeout=SECONDS,
            )
            assert preflight.status_code == 200
            allowed = preflight.headers.get("access-control-allow-credentials")
            assert allowed == ("true" if listed != "*" else None)
            assert preflight.headers["access-control-allow-origin"] == listed


def test_without_cors_origins_there_are_no_cors_headers(gateway: Keyed) -> None:
    answer = gateway.get("/sessions", bearer(token(), Origin="https://app.example"))
    assert not [name for name in answer.headers if name.startswith("access-control-")]


# -- requests that take long -----------------------------------------------------------------


@pytest.mark.parametrize("wait", ["poll", "run"])
def test_a_waiting_request_ends_when_its_credential_does(gateway: Keyed, wait: str) -> None:
    key_id, key = gateway.make("alice")
    session = f"waited-for-{wait}"
    gateway.ask("POST", "/sessions", bearer(key), json={"id": session})
    position = gateway.get(f"/sessions/{session}", bearer(key)).json()["position"]
    path, headers = f"/sessions/{session}/events?after={position}&wait=60", bearer(key)
    if wait == "run":
        opened = gateway.ask(
            "POST", f"/sessions/{session}/runs", headers, json={"agent": "external"}
        )
        path = f"/sessions/{session}/runs/{opened.json()['run_id']}"
        headers["Prefer"] = "wait=300"
    answers: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(gateway.get(path, headers)))
    waiting.start()
    registry = gateway.served.app.state.manager._registry
    live = registry.get(session)
    until(lambda: live.channel._change_waiters or live._run_waiters, "somebody waits")
    gateway.revoke(key_id)
    waiting.join(SECONDS)
    refused(answers[0], 401, "unauthorized")
    until(lambda: not (live.channel._change_waiters or live._run_waiters), "nobody waits")


def test_a_silent_ndjson_request_ends_when_its_credential_does(gateway: Keyed) -> None:
    key_id, key = gateway.make("alice")
    gateway.ask("POST", "/sessions", bearer(key), json={"id": "told"})
    events = "/sessions/told/events"
    chunk = b"%x\r\n%b\r\n" % (len(LINE), LINE)
    head = (
        f"POST /api/v1{events} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
        "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    )

    def taken() -> int:
        return gateway.get(events, bearer("plain")).content.count(b'"line"')

    with hanging(gateway.served.port, head.encode() + chunk) as sock:
        until(lambda: taken() == 1, "the first line is taken")
        gateway.revoke(key_id)
        received = b""
        while b"}" not in received:
            more = sock.recv(65536)
            assert more, received
            received += more
    assert received.startswith(b"HTTP/1.1 401")
    assert taken() == 1
