"""Requests for input over HTTP: asked, listed, answered, streamed, and who may answer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.keyed import Keyed, bearer, keyed
from tests.api.serving import frames_of, refused

ASKS = {"delay_ms": 0, "ask": True}
YES = {"approved": True}
NO = {"approved": False, "reason": "not today"}


def asked(api: httpx.Client, session_id: str, **chat: Any) -> str:
    """Let the demo ask; return the id of its request."""
    body = {"session_id": session_id, "message": "two words", "options": ASKS, **chat}
    ended = api.post("/chat", json=body, headers={"Prefer": "wait=60"}).json()
    assert ended["status"] == "completed"
    [request] = api.get(f"/sessions/{session_id}/inputs").json()["inputs"]
    assert request["kind"] == "approval"
    assert request["run_id"] == ended["run_id"]
    return str(request["request_id"])


def answer(
    api: httpx.Client, session_id: str, answers: dict[str, Any], **headers: str
) -> httpx.Response:
    return api.post(f"/sessions/{session_id}/inputs", json={"answers": answers}, headers=headers)


def test_a_session_that_waits_says_so_and_the_list_finds_it(
    api: httpx.Client, session_id: str
) -> None:
    request_id = asked(api, session_id)
    session = api.get(f"/sessions/{session_id}").json()
    assert session["state"] == "needs_input"
    [request] = session["open_requests"]
    assert (request["request_id"], request["expires_at"]) == (request_id, None)
    listed = api.get("/sessions", params={"state": "needs_input"}).json()["sessions"]
    assert session_id in [one["id"] for one in listed]
    run = api.get(f"/sessions/{session_id}/runs/{request['run_id']}").json()
    assert run["finish_reason"] == "input_required"


@pytest.mark.parametrize(("given", "said"), [(YES, '"words":2'), (NO, "not today")])
def test_an_answer_starts_the_next_run_and_its_stream_shows_all_of_it(
    api: httpx.Client, session_id: str, given: dict[str, Any], said: str
) -> None:
    taken = answer(api, session_id, {asked(api, session_id): given})
    assert taken.status_code == 202
    body = taken.json()
    assert taken.headers["location"] == f"/api/v1/sessions/{session_id}/runs/{body['run_id']}"
    stream = api.get(body["stream_url"].removeprefix("/api/v1") + "&until=complete")
    kinds = [event["type"] for _, event in frames_of(stream.text)]
    assert kinds[:3] == ["open", "input_given", "run_start"]
    assert kinds[-1] == "complete"
    messages = api.get(f"/sessions/{session_id}/messages").json()["messages"]
    assert [one["role"] for one in messages] == ["user", "assistant", "tool", "assistant"]
    assert said in messages[2]["content"]
    assert api.get(f"/sessions/{session_id}").json()["open_requests"] == []


def test_one_request_can_answer_and_stream_or_wait(api: httpx.Client, session_id: str) -> None:
    streamed = answer(api, session_id, {asked(api, session_id): YES}, Accept="text/event-stream")
    assert streamed.status_code == 200
    kinds = [event["type"] for _, event in frames_of(streamed.text)]
    assert (kinds[1], kinds[-1]) == ("input_given", "complete")
    waited = answer(api, session_id, {asked(api, session_id): YES}, Prefer="wait=60")
    assert waited.status_code == 200
    assert waited.json()["status"] == "completed"
    assert "I counted 2 words" in waited.json()["message"]["content"]


def test_answers_count_once(api: httpx.Client, session_id: str) -> None:
    request_id = asked(api, session_id)
    first = answer(api, session_id, {request_id: YES})
    again = answer(api, session_id, {request_id: YES})
    assert (again.status_code, again.json()) == (202, first.json())
    refused(answer(api, session_id, {request_id: NO}), 409, "already-answered")
    refused(answer(api, session_id, {"none": YES}), 404, "request-not-found")


def test_an_answer_that_does_not_fit_is_422_and_names_the_place(
    api: httpx.Client, session_id: str
) -> None:
    request_id = asked(api, session_id)
    problem = refused(
        answer(api, session_id, {request_id: {"approved": "yes"}}), 422, "invalid-answer"
    )
    assert problem["errors"][0]["loc"] == ["body", "answers", request_id, "approved"]
    refused(answer(api, session_id, {}), 422, "invalid")
    refused(answer(api, session_id, {"../x": YES}), 422, "invalid")


def test_a_chat_or_a_cancel_instead_closes_the_request(api: httpx.Client, session_id: str) -> None:
    first = asked(api, session_id)
    second = asked(api, session_id)
    problem = refused(answer(api, session_id, {first: YES}), 409, "input-closed")
    assert problem["reason"] == "superseded"
    said = {"role": "user", "content": "x"}
    refused(api.post(f"/sessions/{session_id}/messages", json=said), 409, "input-required")
    assert api.post(f"/sessions/{session_id}/cancel").status_code == 200
    problem = refused(answer(api, session_id, {second: YES}), 409, "input-closed")
    assert problem["reason"] == "cancelled"
    assert api.get(f"/sessions/{session_id}").json()["open_requests"] == []


def test_an_export_of_a_session_that_waits_comes_back_whole(
    api: httpx.Client, session_id: str
) -> None:
    asked(api, session_id)
    document = api.get(f"/sessions/{session_id}/export?format=json").content
    copy = api.post(
        "/import?id=new", content=document, headers={"Content-Type": "application/json"}
    )
    assert copy.status_code == 201
    assert copy.json()["open_requests"] == []
    messages = api.get(f"/sessions/{copy.json()['id']}/messages").json()["messages"]
    assert [one["role"] for one in messages] == ["user", "assistant", "tool"]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    directory: Path = tmp_path_factory.mktemp("inputs")
    with keyed(directory) as running:
        yield running


def test_a_key_or_a_share_with_the_scope_answer_may_answer_and_read_only(gateway: Keyed) -> None:
    alice = bearer(gateway.make("alice")[1])
    with gateway.served.client(headers=alice) as api:
        for name in ("a-key", "a-user", "a-link", "a-reader"):
            api.post("/sessions", json={"id": name})
        keys = {name: asked(api, name) for name in ("a-key", "a-user", "a-link", "a-reader")}
        share = "/sessions/a-user/shares"
        api.post(share, json={"user_id": "bob", "scope": "answer"})
        api.post("/sessions/a-reader/shares", json={"user_id": "bob"})
        link = {"link": True, "scope": "answer"}
        token = api.post("/sessions/a-link/shares", json=link).json()["token"]

    def post(session: str, headers: dict[str, str], query: str = "") -> httpx.Response:
        body = {"answers": {keys[session]: YES}}
        return gateway.ask("POST", f"/sessions/{session}/inputs{query}", headers, json=body)

    only_answers = bearer(gateway.make("alice", "read", "answer")[1])
    assert post("a-key", only_answers).status_code == 202
    chat = {"session_id": "a-key", "message": "x"}
    refused(gateway.ask("POST", "/chat", only_answers, json=chat), 403, "forbidden")
    bob = bearer(gateway.make("bob")[1])
    refused(post("a-reader", bob), 403, "forbidden")
    assert post("a-user", bob).status_code == 202
    said = {"role": "user", "content": "x"}
    refused(gateway.ask("POST", "/sessions/a-user/messages", bob, json=said), 403, "forbidden")
    refused(post("a-key", bob), 404, "session-not-found")
    listed = gateway.ask("GET", f"/sessions/a-link/inputs?share={token}")
    assert [one["request_id"] for one in listed.json()["inputs"]] == [keys["a-link"]]
    waited = gateway.ask(
        "POST",
        f"/sessions/a-link/inputs?share={token}",
        {"Prefer": "wait=60"},
        json={"answers": {keys["a-link"]: YES}},
    )
    assert waited.status_code == 200
    cancel = gateway.ask("POST", f"/sessions/a-link/cancel?share={token}")
    refused(cancel, 403, "forbidden")
