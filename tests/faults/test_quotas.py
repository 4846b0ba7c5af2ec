"""Quotas over HTTP: each is reached, named in the answer, counted, and ends (R11)."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.api.serving import refused, serving
from tests.faults.test_network import assert_healthy
from tests.faults.wire import Wire, metric, refusals
from tests.support.waiting import until

HOLD = {"delay_ms": 0, "hold": "middle"}
BODY = {"message": "x", "session_id": "b", "options": HOLD}


def chat(api: httpx.Client, session_id: str, user_id: str = "ann") -> httpx.Response:
    body = {"message": "x", "session_id": session_id, "user_id": user_id, "options": HOLD}
    return api.post("/chat", json=body)


def create(api: httpx.Client, session_id: str, user_id: str = "ann") -> httpx.Response:
    return api.post("/sessions", json={"id": session_id, "user_id": user_id})


def grow(api: httpx.Client, session_id: str) -> httpx.Response:
    event = {"type": "custom", "name": "n", "value": "x" * 900}
    return api.post(f"/sessions/{session_id}/events", json=event)


def import_one(api: httpx.Client, _: str) -> httpx.Response:
    session = {"title": "t", "user_id": "ann", "messages": []}
    document: dict[str, Any] = api.get("/sessions/a/export", params={"format": "json"}).json()
    assert session["user_id"] == document["session"]["user_id"]
    return api.post("/import", params={"id": "new"}, json=document)


class Case(NamedTuple):
    """A limit, what is done until it is reached, and what makes room again."""

    setting: str
    most: int
    code: str
    fill: Callable[[httpx.Client, str], httpx.Response]
    over: Callable[[httpx.Client, str], httpx.Response]
    free: tuple[str, str]


CANCEL, DELETE = ("POST", "/sessions/a/cancel"), ("DELETE", "/sessions/a")
RUNS, QUEUED, SESSIONS, STORED = (
    "too-many-runs",
    "too-many-queued-runs",
    "too-many-sessions",
    "storage-quota-reached",
)


@pytest.mark.parametrize(
    "case",
    [
        Case("max_active_runs_per_user", 1, RUNS, chat, chat, CANCEL),
        Case("max_active_runs", 1, RUNS, chat, chat, CANCEL),
        Case("max_sessions_per_user", 1, SESSIONS, create, create, DELETE),
        Case("max_sessions_per_user", 1, SESSIONS, create, chat, DELETE),
        Case("max_sessions_per_user", 1, SESSIONS, create, import_one, DELETE),
        Case("max_stored_bytes_per_user", 1000, STORED, grow, create, DELETE),
        Case("max_stored_bytes", 1000, STORED, grow, chat, DELETE),
    ],
    ids=lambda case: f"{case.setting}-{case.over.__name__}",
)
def test_a_full_quota_is_429_and_counted_and_there_is_room_again(case: Case) -> None:
    settings: dict[str, Any] = {case.setting: case.most}
    with serving(**settings) as served, served.client() as api:
        if case.fill is grow:
            create(api, "a")
        assert case.fill(api, "a").status_code in {201, 202}
        problem = refused(case.over(api, "b"), 429, case.code)
        assert problem["detail"].startswith(f"Limit reached: {case.most} ({case.setting}). ")
        assert problem["retryable"]
        assert refusals(api, case.code) == 1
        assert api.get("/sessions/b").status_code == 404
        assert api.request(*case.free).is_success
        assert_healthy(served, api)


def test_queued_runs_are_limited_per_user_over_all_sessions() -> None:
    with serving(max_queued_runs_per_user=1) as served, served.client() as api:
        statuses = [chat(api, name).status_code for name in ("a", "b", "a")]
        assert statuses == [202, 202, 202]
        problem = refused(chat(api, "b"), 429, QUEUED)
        assert "Limit reached: 1 (max_queued_runs_per_user). " in problem["detail"]
        assert refusals(api, QUEUED) == 1
        assert api.post("/sessions/a/cancel").is_success
        assert chat(api, "b").status_code == 202
        assert_healthy(served, api)


def test_streams_are_limited_per_user() -> None:
    settings: dict[str, Any] = {"api_keys": ("key",), "max_connections_per_user": 2}
    with serving(**settings) as served:
        key = {"Authorization": "Bearer key"}
        with (
            served.client(headers={**key, "X-User-Id": "ann"}) as ann,
            served.client(headers={**key, "X-User-Id": "bob"}) as bob,
            served.client(headers=key) as operator,
        ):
            for api, session_id in ((ann, "a"), (bob, "b")):
                assert api.post("/sessions", json={"id": session_id}).status_code == 201
            with ann.stream("GET", "/stream/a"), ann.stream("GET", "/stream/a"):
                problem = refused(ann.get("/stream/a"), 429, "too-many-streams")
                assert problem["detail"].startswith("Limit reached: 2 (max_connections_per_user). ")
                with bob.stream("GET", "/stream/b") as other:
                    assert other.status_code == 200
                with operator.stream("GET", "/stream/a") as other:
                    assert other.status_code == 200
                assert refusals(operator, "too-many-streams") == 1
            until(lambda: metric(operator, "streams_open") == 0, "they are gone")
            with ann.stream("GET", "/stream/a") as again:
                assert again.status_code == 200


def test_busy_sessions_are_limited_per_user() -> None:
    settings: dict[str, Any] = {"api_keys": ("key",), "max_active_sessions_per_user": 1}
    key = {"Authorization": "Bearer key"}
    with (
        serving(**settings) as served,
        served.client(headers={**key, "X-User-Id": "ann"}) as ann,
        served.client(headers={**key, "X-User-Id": "bob"}) as bob,
    ):
        for api, session_id in ((ann, "a"), (ann, "b"), (bob, "c")):
            assert api.post("/sessions", json={"id": session_id}).status_code == 201
        chat = {"message": "x", "session_id": "a", "options": HOLD}
        assert ann.post("/chat", json=chat).status_code == 202
        message = {"role": "user", "content": "x"}
        for path, body in (("/sessions", {}), ("/sessions/b/messages", message), ("/chat", BODY)):
            problem = refused(ann.post(path, json=body), 429, "too-many-busy-sessions")
            assert problem["detail"].startswith("Limit reached: 1 (max_active_sessions_per_user). ")
            assert problem["retryable"]
        assert bob.post("/chat", json={**chat, "session_id": "c"}).status_code == 202
        assert ann.get("/sessions/b/messages").status_code == 200
        with ann.stream("GET", "/stream/b") as stream:
            assert stream.status_code == 200
        assert ann.post("/sessions/a/cancel").is_success
        assert ann.post("/sessions/b/messages", json=message).status_code == 201


@pytest.mark.parametrize("storage", ["memory:", "jsonl:"])
def test_streams_do_not_take_places_of_active_sessions(storage: str, tmp_path: Path) -> None:
    """R2: each is woken by what comes, once and in order, and told when its session goes."""
    with ExitStack() as stack:
        served = stack.enter_context(
            serving(storage_url=storage, data_dir=tmp_path, max_active_sessions=2)
        )
        api = stack.enter_context(served.client())
        wires: dict[str, Wire] = {}
        for number in range(30):
            assert create(api, f"a{number}").status_code == 201
            wire = wires[f"a{number}"] = Wire(served.port, f"/stream/a{number}")
            stack.enter_context(wire.sock)
            wire.take_until(b"\n\n")
        assert metric(api, "streams_open") == 30
        assert metric(api, "sessions_in_memory") <= 2
        for session_id in ("b", "c", "d"):
            assert create(api, session_id, "bob").status_code == 201
            assert grow(api, session_id).status_code == 201
        with api.stream("GET", "/stream/b") as stream:
            assert stream.status_code == 200
        for value in ("one", "two"):
            for session_id in wires:
                event = {"type": "custom", "name": "n", "value": value}
                assert api.post(f"/sessions/{session_id}/events", json=event).status_code == 201
        for session_id, wire in wires.items():
            assert api.delete(f"/sessions/{session_id}").status_code == 204
            wire.take_frame(b"goodbye")
            told = [frame.data.get("value", frame.data["type"]) for frame in wire.frames]
            assert told == ["open", "one", "two", "goodbye"]
            assert wire.frames[-1].data["reason"] == "deleted"
            wire.cut()
        until(lambda: metric(api, "streams_open") == 0, "they are gone")


def test_a_chat_whose_stream_is_refused_starts_no_run() -> None:
    with serving(max_connections=1) as served, served.client() as api:
        create(api, "a")
        with api.stream("GET", "/stream/a"):
            answer = api.post(
                "/chat",
                json={"message": "x", "session_id": "b"},
                headers={"Accept": "text/event-stream"},
            )
            refused(answer, 503, "too-many-connections")
            assert api.get("/sessions/b").status_code == 404
        until(lambda: api.get("/metrics").text.find("bamboo_streams_open 0") >= 0, "room")
        assert_healthy(served, api)
