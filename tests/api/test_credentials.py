"""Keys and tokens at a running gateway: whom they are for, their rights, and their end."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from fastapi import APIRouter

from bamboo_gateway.api import routing
from bamboo_gateway.api.direct_route import DirectRoute
from bamboo_gateway.api.routing import guarded_routes
from bamboo_gateway.api.security.rights import GuardedRoute, OpenRoute, OperatorRoute
from bamboo_gateway.credentials.keys import make_key
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.codec import encode_pretty
from bamboo_gateway.main import create_app
from bamboo_gateway.settings import Settings
from bamboo_gateway.wires.factory import wire_routers
from tests.api.keyed import SECRET, Keyed, LateClock, bearer, keyed, serving_with, token, watching
from tests.api.serving import SECONDS, Served, check_answer, raw, refused
from tests.support.clients import local_request
from tests.support.logs import captured_logs
from tests.support.waiting import until


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    with keyed(tmp_path_factory.mktemp("keys"), api_keys=("plain",), jwt_secret=SECRET) as running:
        yield running


def callers_seen(served: Served) -> list[Caller]:
    """Return every caller that a session was created for from now on."""
    seen: list[Caller] = []
    manager = served.app.state.manager
    create = manager.create_session

    async def spy(caller: Caller, *rest: Any) -> Any:
        seen.append(caller)
        return await create(caller, *rest)

    manager.create_session = spy
    return seen


def test_a_users_credential_acts_for_that_user_and_a_services_key_for_the_user_it_names(
    gateway: Keyed,
) -> None:
    seen = callers_seen(gateway.served)
    user_key = gateway.make("alice")
    service = gateway.make(None)
    operator = gateway.make(None, "read", "write", "admin")
    sent: list[dict[str, str]] = [
        bearer(user_key[1]),
        bearer(token()),
        bearer(user_key[1], **{"X-User-Id": "alice"}),
        bearer(token(), **{"X-User-Id": "alice"}),
        bearer(service[1], **{"X-User-Id": "alice"}),
        bearer(operator[1], **{"X-User-Id": "alice"}),
        bearer("plain", **{"X-User-Id": "alice"}),
    ]
    for headers in sent:
        assert gateway.ask("POST", "/sessions", headers, json={}).status_code == 201
    assert {(caller.id, caller.user_id) for caller in seen} == {("user:alice", "alice")}
    assert [caller.credential for caller in seen[::4]] == [user_key[0], service[0]]
    for headers, key_id in ((bearer(operator[1]), operator[0]), (bearer("plain"), None)):
        assert gateway.ask("POST", "/sessions", headers, json={}).status_code == 201
        assert seen[-1].user_id is None
        assert seen[-1].rights == {"read", "write", "admin"}
        assert key_id in {None, seen[-1].id}


def test_a_user_cannot_act_for_another_and_a_service_must_name_a_user(gateway: Keyed) -> None:
    _, user_key = gateway.make("alice")
    _, service = gateway.make(None)
    for credential in (user_key, token()):
        refused(
            gateway.get("/sessions", bearer(credential, **{"X-User-Id": "bob"})), 403, "forbidden"
        )
    problem = refused(gateway.get("/sessions", bearer(service)), 403, "forbidden")
    assert "X-User-Id" in problem["detail"]


@pytest.mark.parametrize("user_id", ["", "../alice", "a b", "a/b", "é", "a" * 129, ".a", "a\tb"])
def test_r13_an_invalid_user_id_is_refused(gateway: Keyed, user_id: str) -> None:
    headers = {**bearer("plain"), "X-User-Id": user_id.encode()}
    refused(gateway.get("/sessions", headers), 422, "invalid-id")  # type: ignore[arg-type]
    # Who has no good credential learns nothing of it.
    headers = {**bearer("wrong"), "X-User-Id": user_id.encode()}
    refused(gateway.get("/sessions", headers), 401, "unauthorized")  # type: ignore[arg-type]


def test_two_user_headers_are_refused(gateway: Keyed) -> None:
    answer = raw(
        gateway.served.port,
        b"GET /api/v1/sessions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Authorization: Bearer plain\r\nX-User-Id: a\r\nX-User-Id: b\r\n\r\n",
    )
    assert b'"code":"invalid-id"' in answer


def test_every_wrong_credential_gets_the_same_answer(gateway: Keyed, tmp_path: Path) -> None:
    key_id, key = gateway.make("alice", expires_at=1)
    revoked_id, revoked = gateway.make("alice")
    gateway.revoke(revoked_id)
    until(lambda: gateway.get("/sessions", bearer(revoked)).status_code == 401, "it is revoked")
    _, unknown, _ = make_key()
    wrong = [
        key,
        revoked,
        unknown,
        revoked[:-1] + "a",
        key_id,
        "wrong",
        "plain ,plain",
        token(exp=1),
        token(sub="../x"),
        token(aud="other"),
        jwt.encode({"sub": "alice"}, SECRET, "HS256"),
        jwt.encode({"sub": "alice", "exp": 4e9}, SECRET + "x", "HS256"),
        jwt.encode({"sub": "alice", "exp": 4e9}, "", "none"),
        token() + "x",
        "e30.e30.e30",
    ]
    answers = set()
    for credential in wrong:
        answer = gateway.get("/sessions", bearer(credential))
        refused(answer, 401, "unauthorized")
        kept = {k: v for k, v in answer.headers.items() if k not in {"date", "x-request-id"}}
        answers.add((answer.text, json.dumps(kept, sort_keys=True)))
    assert len(answers) == 1


REACHED = [
    pytest.param(route, method, id=f"{method} {route.path}")
    for route in guarded_routes(wire_routers())
    for method in sorted(route.methods or ())
]


def test_every_route_but_the_open_ones_needs_a_right() -> None:
    classes = {type(route) for route in guarded_routes(wire_routers())}
    assert classes
    assert GuardedRoute not in classes
    for route in guarded_routes(wire_routers()):
        if isinstance(route, OpenRoute):
            is_meant = "/health/" in route.path
            is_meant |= route.path in {"/", "/api/v1", "/api/v1/logout"}
            assert is_meant, f"{route.path} is open to everybody"
        if any(word in route.path for word in ("/metrics",)):
            assert isinstance(route, OperatorRoute), route.path


@pytest.mark.parametrize(("route", "method"), REACHED)
def test_a_missing_right_is_403_before_anything_is_looked_up(
    rightless: dict[str, dict[str, str]], gateway: Keyed, route: GuardedRoute, method: str
) -> None:
    path = route.path.format(
        **dict.fromkeys(route.param_convertors, "not-there")  # 404 to whoever may look
    )
    answer = local_request(
        method,
        f"{gateway.served.url}{path}",
        headers=rightless[str(route.right)],
        content=b"{ no JSON" if method != "GET" else None,
        timeout=SECONDS,
    )
    if route.right is None:
        assert answer.status_code in {200, 204}
        return
    check_answer(answer)
    problem = refused(answer, 403, "forbidden")
    # Below the wire of OpenAI the words are the error's `message`.
    said = problem["error"]["message"] if "error" in problem else problem["detail"]
    assert str(route.right) in said


@pytest.fixture(scope="module")
def rightless(gateway: Keyed) -> dict[str, dict[str, str]]:
    """Headers of credentials that have every right but one."""
    return {
        "read": bearer(gateway.make("r", "write", "admin")[1]),
        "write": bearer(gateway.make("w", "read", "admin")[1]),
        "answer": bearer(gateway.make("w", "read", "admin")[1]),
        "admin": bearer(gateway.make("a", "read", "write")[1]),
        "None": {},
    }


@pytest.mark.parametrize(("route", "method"), REACHED)
def test_the_document_says_which_right_a_route_needs(route: GuardedRoute, method: str) -> None:
    from tests.api.serving import CONTRACT

    if not route.include_in_schema:  # a page for people
        assert route.path_format not in CONTRACT.document["paths"]
        return
    operation = CONTRACT.document["paths"][route.path_format][method.lower()]
    if route.right is None:
        assert operation["security"] == []
        return
    schemes = CONTRACT.document["components"]["securitySchemes"]
    named = {name: scopes for one in operation["security"] for name, scopes in one.items()}
    assert {"key", "token"} <= set(named) <= set(schemes)
    assert all(scopes == [route.right] for scopes in named.values())
    assert {} in operation["security"]


def test_revoking_a_key_ends_its_streams_within_seconds_and_no_others(
    gateway: Keyed,
) -> None:
    key_id, key = gateway.make("carol")
    _, other = gateway.make("carol")
    gateway.ask("POST", "/sessions", bearer(key), json={"id": "revoked-one", "user_id": "carol"})
    with (
        watching(gateway, "/stream/revoked-one", bearer(key)) as first,
        watching(gateway, "/stream/revoked-one", bearer(other)) as second,
    ):
        first.until(b'"open"')
        second.until(b'"open"')
        gateway.revoke(key_id)
        goodbye = first.to_end()[-1].data
        assert goodbye == {"type": "goodbye", "reason": "unauthorized", "retry": True}
        refused(gateway.get("/stream/revoked-one", bearer(key)), 401, "unauthorized")
        note = {"type": "custom", "name": "still", "value": "here"}
        path = "/sessions/revoked-one/events"
        assert gateway.ask("POST", path, bearer(other), json=note).status_code == 201
        second.until(b'"still"')
        assert b"goodbye" not in second.received


@pytest.mark.parametrize("kind", ["key", "token"])
def test_a_stream_ends_when_its_credential_expires(
    gateway: Keyed, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = LateClock()
    expires = clock.now_ms() // 1000 + 3600
    if kind == "key":
        headers = bearer(gateway.make("dora", expires_at=expires * 1000)[1])
    else:
        headers = bearer(token(sub="dora", exp=expires))
    name = f"ends-with-its-{kind}"
    gateway.ask("POST", "/sessions", bearer("plain"), json={"id": name, "user_id": "dora"})
    with watching(gateway, f"/stream/{name}", headers) as stream:
        stream.until(b'"open"')
        monkeypatch.setattr(gateway.served.app.state.gate, "_clock", clock)
        clock.ahead_ms = 3_700_000
        assert stream.to_end()[-1].data["reason"] == "unauthorized"
    refused(gateway.get(f"/stream/{name}", headers), 401, "unauthorized")


def test_the_first_key_closes_an_open_gateway_and_revoking_the_last_does_not_open_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "keys.json"
    with serving_with(path) as open_one:
        assert open_one.get("/sessions").status_code == 200
        refused(open_one.get("/sessions", {"Host": "evil.example"}), 403, "host-not-allowed")
        assert open_one.ask("POST", "/sessions", json={"id": "s"}).status_code == 201
        with watching(open_one, "/stream/s", {}) as stream:
            stream.until(b'"open"')
            key_id, key = open_one.make("alice")
            assert stream.to_end()[-1].data["reason"] == "unauthorized"
        until(lambda: open_one.get("/sessions").status_code == 401, "it asks for a key")
        assert open_one.get("/sessions", bearer(key)).status_code == 200
        # Behind a name of its own, as a gateway with credentials may stand.
        named = bearer(key, Host="gateway.example")
        assert open_one.get("/sessions", named).status_code == 200
        open_one.revoke(key_id)
        until(lambda: open_one.get("/sessions", bearer(key)).status_code == 401, "it is revoked")
        with captured_logs() as logs:
            path.unlink()
            until(lambda: any("again" in entry["event"] for entry in logs), "it was noticed")
        refused(open_one.get("/sessions"), 401, "unauthorized")


def test_a_broken_keys_file_keeps_the_keys_that_were_loaded(tmp_path: Path) -> None:
    with keyed(tmp_path) as gateway:
        _, key = gateway.make("alice")
        path = tmp_path / "keys.json"
        good = path.read_bytes()
        with captured_logs() as logs:
            path.write_bytes(b"{ a slip")
            until(lambda: any("stay" in entry["event"] for entry in logs), "it was noticed")
        assert gateway.get("/sessions", bearer(key)).status_code == 200
        path.write_bytes(good + b"\n")
        _, other = gateway.make("bob")
        assert gateway.get("/sessions", bearer(other)).status_code == 200


def test_an_empty_keys_file_admits_no_caller(tmp_path: Path) -> None:
    with keyed(tmp_path) as gateway:
        refused(gateway.get("/sessions"), 401, "unauthorized")
        assert gateway.get("/health/ready").status_code == 200
        document = json.loads((tmp_path / "keys.json").read_bytes())
        assert document == {"version": 1, "keys": []}
        assert (tmp_path / "keys.json").read_bytes() == encode_pretty(document)


def test_every_route_says_which_right_it_needs(gateway: Keyed) -> None:
    assert [each for each in gateway.served.app.routes if not isinstance(each, GuardedRoute)] == []


def test_the_document_and_its_page_are_for_whoever_may_read(gateway: Keyed) -> None:
    for path in ("/api/v1/openapi.json", "/docs", "/docs/start.js", "/docs/swagger-ui.js"):
        url = gateway.served.url + path
        assert httpx.get(url, trust_env=False, timeout=SECONDS).status_code == 401
        assert (
            httpx.get(url, headers=bearer(token()), trust_env=False, timeout=SECONDS).status_code
            == 200
        )


def test_a_route_without_a_declared_right_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    forgetful = APIRouter(route_class=DirectRoute)
    forgetful.get("/forgotten")(lambda: None)
    monkeypatch.setattr(routing, "ROUTERS", (*routing.ROUTERS, forgetful))
    for make in (lambda: create_app(Settings(storage_url="memory:")), routing.create_openapi):
        with pytest.raises(TypeError, match="forgotten"):
            make()
