"""Chat: accepted, streamed and waited for, with idempotency keys and limits."""

import json
import threading
from typing import Any

import httpx
import pytest

from tests.api.serving import CONTRACT, SECONDS, Served, frames_of, refused, serving
from tests.faults.wire import hanging
from tests.support.waiting import until

FAST: dict[str, Any] = {"delay_ms": 0}
STREAM = {"Accept": "text/event-stream"}


def test_an_accepted_chat_has_the_urls_and_ids_to_follow_it(
    api: httpx.Client, free_id: str
) -> None:
    answer = api.post("/chat", json={"message": "Hello!", "session_id": free_id, "options": FAST})
    assert answer.status_code == 202
    turn = answer.json()
    assert turn["session_id"] == free_id
    assert answer.headers["location"] == f"/api/v1/sessions/{free_id}/runs/{turn['run_id']}"
    assert turn["stream_url"] == (
        f"/api/v1/stream/{free_id}?after={turn['position']}&run_id={turn['run_id']}"
    )
    stream = api.get(turn["stream_url"].removeprefix("/api/v1") + "&until=complete")
    events = [event for _, event in frames_of(stream.text)][1:]
    assert events[0]["type"] == "session_created"
    assert events[-1]["type"] == "complete"
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    run = api.get(answer.headers["location"].removeprefix("/api/v1"))
    assert run.json()["status"] == "completed"


def test_one_request_streams_a_whole_run(served: Served, free_id: str) -> None:
    with served.client() as api:
        body = {"message": "Hello!", "session_id": free_id, "options": FAST}
        answer = api.post("/chat", json=body, headers=STREAM)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache, no-transform"
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.headers["session-id"] == free_id
        run_id = answer.headers["run-id"]
        assert answer.headers["location"] == f"/api/v1/sessions/{free_id}/runs/{run_id}"
        assert "\r" not in answer.text
        assert "event:" not in answer.text
        frames = frames_of(answer.text)
        opened = frames[0][1]
        assert opened["type"] == "open"
        assert opened["connection_id"] == answer.headers["connection-id"]
        assert frames[-1][1]["type"] == "complete"
        assert frames[4][1]["type"] == "session_updated"  # the title
        others = frames[3:4] + frames[5:]
        assert all(event.get("run_id") == run_id for _, event in others)
        assert [place for place, _ in frames] == [
            opened["position"],
            *(f"{opened['position'].split('-')[0]}-{event['seq']}" for _, event in frames[1:]),
        ]


@pytest.mark.parametrize(
    ("accept", "streams"),
    [
        ("text/event-stream", True),
        ("TEXT/EVENT-STREAM", True),
        ("text/event-stream, application/json", True),
        ("application/json, text/event-stream", False),
        ("application/json;q=0.5, text/event-stream", True),
        ("text/event-stream;q=0.1, application/json;q=0.9", False),
        ("text/event-stream;q=0", False),
        ("text/event-stream;q=x", False),
        ("*/*", False),
        ("text/*", False),
        ("application/json", False),
    ],
)
def test_accept_decides_whether_a_chat_is_streamed(
    api: httpx.Client, free_id: str, accept: str, streams: bool
) -> None:
    body = {"message": "x", "session_id": free_id, "options": FAST}
    answer = api.post("/chat", json=body, headers={"Accept": accept})
    assert answer.status_code == (200 if streams else 202)


def test_prefer_wait_returns_the_assistants_message(api: httpx.Client, free_id: str) -> None:
    body = {"message": "Hello!", "session_id": free_id, "options": FAST}
    answer = api.post("/chat", json=body, headers={"Prefer": "respond-async, wait=60"})
    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait=60"
    turn = answer.json()
    assert turn["status"] == "completed"
    assert turn["message"]["role"] == "assistant"
    assert turn["usage"]["total_tokens"] > 0
    assert turn["error"] is None


def test_prefer_wait_that_was_too_short_gives_202(api: httpx.Client, free_id: str) -> None:
    body = {"message": "x", "session_id": free_id, "options": {"hold": "start"}}
    answer = api.post("/chat", json=body, headers={"Prefer": "wait=0"})
    assert answer.status_code == 202
    assert answer.json()["status"] == "running"
    path = answer.headers["location"].removeprefix("/api/v1")
    waited = api.get(path, headers={"Prefer": "wait=0"})
    assert waited.status_code == 200
    assert waited.json()["status"] == "running"
    assert "message" not in waited.json()
    assert api.post(f"{path}/cancel").json()["status"] == "cancelled"
    assert api.get(path, headers={"Prefer": "wait=5"}).json()["status"] == "cancelled"


def test_a_failed_run_has_its_error(api: httpx.Client, free_id: str) -> None:
    body = {"message": "x", "session_id": free_id, "options": {**FAST, "fail": "tired"}}
    turn = api.post("/chat", json=body, headers={"Prefer": "wait=60"}).json()
    assert (turn["status"], turn["error"]["code"]) == ("failed", "tired")
    assert turn["message"]["status"] == "incomplete"


def test_closing_the_stream_does_not_stop_the_run(api: httpx.Client, free_id: str) -> None:
    body = {"message": "x", "session_id": free_id, "options": {"delay_ms": 1}}
    with api.stream("POST", "/chat", json=body, headers=STREAM) as answer:
        next(answer.iter_raw())
        location = answer.headers["location"]
    ended = api.get(location.removeprefix("/api/v1"), headers={"Prefer": "wait=60"})
    assert ended.json()["status"] == "completed"


def test_the_run_has_the_id_the_client_gave_it(api: httpx.Client, free_id: str) -> None:
    body = {"message": "x", "session_id": free_id, "run_id": "mine", "options": {"hold": "start"}}
    assert api.post("/chat", json=body).json()["run_id"] == "mine"
    assert api.post(f"/sessions/{free_id}/runs/mine/cancel").json()["status"] == "cancelled"
    refused(api.post("/chat", json=body), 409, "run-exists")


def test_on_busy_decides_what_a_chat_in_a_busy_session_does(
    api: httpx.Client, free_id: str
) -> None:
    held = {"message": "x", "session_id": free_id, "options": {"hold": "start"}}
    first = api.post("/chat", json=held).json()
    problem = refused(api.post("/chat", json={**held, "on_busy": "reject"}), 409, "run-active")
    assert problem["active_run_id"] == first["run_id"]
    queued = api.post("/chat", json=held).json()
    assert queued["status"] == "queued"
    urgent = {**held, "on_busy": "interrupt", "options": FAST}
    urgent_turn = api.post("/chat", json=urgent, headers={"Prefer": "wait=60"}).json()
    assert urgent_turn["status"] == "completed"
    cancelled = api.post(f"/stop/{free_id}").json()
    assert cancelled["session_id"] == free_id
    statuses = {
        run["run_id"]: run["status"] for run in api.get(f"/sessions/{free_id}/runs").json()["runs"]
    }
    assert statuses[first["run_id"]] == "cancelled"
    assert statuses[queued["run_id"]] == "cancelled"


def test_the_queue_of_a_session_is_bounded() -> None:
    with serving(max_queued_runs=1) as served, served.client() as api:
        held = {"message": "x", "session_id": "s", "options": {"hold": "start"}}
        assert [api.post("/chat", json=held).status_code for _ in range(2)] == [202, 202]
        refused(api.post("/chat", json=held), 429, "too-many-queued-runs")


def test_the_number_of_sessions_is_bounded() -> None:
    with serving(max_sessions=1) as served, served.client() as api:
        assert api.post("/sessions", json={"id": "one"}).status_code == 201
        refused(api.post("/sessions", json={"id": "two"}), 429, "too-many-sessions")
        refused(api.post("/chat", json={"message": "x"}), 429, "too-many-sessions")


def test_a_repeated_chat_replays_its_answer(api: httpx.Client, free_id: str) -> None:
    body = {"message": "x", "session_id": free_id, "options": FAST}
    headers = {"Idempotency-Key": f"key-{free_id}"}
    first = api.post("/chat", json=body, headers=headers)
    assert "idempotency-replayed" not in first.headers
    again = api.post("/chat", json=dict(reversed(body.items())), headers=headers)
    assert again.status_code == 202
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert again.json()["run_id"] == first.json()["run_id"]
    other = api.post("/chat", json={**body, "message": "y"}, headers=headers)
    refused(other, 422, "idempotency-key-reused")
    streamed = api.post("/chat", json=body, headers=headers | STREAM)
    assert streamed.headers["idempotency-replayed"] == "true"
    frames = frames_of(streamed.text)
    assert frames[-1][1]["type"] == "complete"
    assert frames[1][1]["type"] == "session_created"
    assert len(api.get(f"/sessions/{free_id}/runs").json()["runs"]) == 1


def test_a_repeated_chat_without_a_session_id_replays_its_session(api: httpx.Client) -> None:
    headers = {"Idempotency-Key": "no-session-yet"}
    body = {"message": "x", "options": FAST}
    first = api.post("/chat", json=body, headers=headers).json()
    again = api.post("/chat", json=body, headers=headers).json()
    assert again["session_id"] == first["session_id"]
    assert again["run_id"] == first["run_id"]


def test_a_chat_may_contain_tool_results(api: httpx.Client, session_id: str) -> None:
    call = {"id": "call_1", "name": "ask", "arguments": {}}
    asked = {"role": "assistant", "content": "", "tool_calls": [call]}
    assert api.post(f"/sessions/{session_id}/messages", json=asked).status_code == 201
    message: list[dict[str, Any]] = [
        {"role": "tool", "tool_call_id": "call_1", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "Go on."}]},
    ]
    body = {"message": message, "session_id": session_id, "options": FAST}
    turn = api.post("/chat", json=body, headers={"Prefer": "wait=60"}).json()
    said = api.get(f"/sessions/{session_id}/messages").json()["messages"]
    assert [one["id"] for one in said[1:3]] == turn["message_ids"]
    assert said[2]["content"] == message[1]["content"]


def test_a_waiting_chat_ends_when_its_client_disconnects(
    served: Served, api: httpx.Client, free_id: str
) -> None:
    said = {"message": "x", "session_id": free_id, "options": {"hold": "start"}}
    body = json.dumps(said).encode()
    head = (
        "POST /api/v1/chat HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=300\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    registry = served.app.state.manager._registry

    def is_waited_for() -> bool:
        live = registry.get(free_id)
        return live is not None and bool(live._run_waiters)

    with hanging(served.port, head.encode() + body):
        until(is_waited_for, "the client waits")
    until(lambda: not is_waited_for(), "nobody waits")
    assert api.get(f"/sessions/{free_id}").json()["active_run_id"] is not None
    api.post(f"/stop/{free_id}")


def test_concurrent_chats_in_one_session_run_one_after_another(
    served: Served, free_id: str
) -> None:
    statuses: list[str] = []

    def talk() -> None:
        with served.client() as api:
            body = {"message": "x", "session_id": free_id, "options": {**FAST, "tokens": 1}}
            answer = api.post("/chat", json=body, headers={"Prefer": "wait=60"})
            statuses.append(answer.json()["status"])

    threads = [threading.Thread(target=talk) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert statuses == ["completed"] * 20


def test_the_openapi_examples_of_a_chat_match_the_schema() -> None:
    responses = CONTRACT.document["paths"]["/api/v1/chat"]["post"]["responses"]
    assert "text/event-stream" in responses["200"]["content"]
    assert "application/json" in responses["200"]["content"]
