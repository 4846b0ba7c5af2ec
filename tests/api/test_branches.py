"""Branches inside a session over HTTP."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.api.serving import refused, serving
from tests.support.frames import parse_frames


@pytest.fixture(scope="module")
def api() -> Iterator[httpx.Client]:
    with serving() as served, served.client() as client:
        yield client


def turn(api: httpx.Client, session_id: str, text: str, **more: Any) -> dict[str, Any]:
    body = {"session_id": session_id, "message": text, **more}
    answer = api.post("/chat", json=body, headers={"Prefer": "wait=30"})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def said(api: httpx.Client, session_id: str, **query: str) -> list[dict[str, Any]]:
    return list(api.get(f"/sessions/{session_id}/messages", params=query).json()["messages"])


def test_an_answer_is_made_again_in_each_of_the_three_ways_of_chat(api: httpx.Client) -> None:
    first = turn(api, "ways", "Hello")
    path = "/sessions/ways/regenerate"
    waited = api.post(path, headers={"Prefer": "wait=30"})
    assert waited.status_code == 200
    assert waited.json()["message_ids"] == first["message_ids"]
    again = said(api, "ways")
    assert again[1]["parent_id"] == first["message_ids"][0]
    assert again[-1]["id"] == waited.json()["message"]["id"]
    accepted = api.post(path, json={"message_id": first["message"]["id"], "run_id": "mine"})
    assert accepted.status_code == 202
    assert accepted.headers["location"].endswith("/sessions/ways/runs/mine")
    url = accepted.json()["stream_url"].removeprefix("/api/v1") + "&until=complete"
    with api.stream("GET", url) as stream:
        kinds = [frame.type for frame in parse_frames(stream.read())[0]]
    assert kinds[:3] == ["open", "branch_started", "run_start"]
    assert kinds[-1] == "complete"
    streamed = api.post(path, json={}, headers={"Accept": "text/event-stream"})
    assert streamed.status_code == 200
    assert [frame.type for frame in parse_frames(streamed.content)[0]][-1] == "complete"
    answers = said(api, "ways")[1]["siblings"]
    assert len(answers) == 4
    assert answers[0] == said(api, "ways", branch="main")[1]["id"]
    assert "siblings" not in said(api, "ways")[0]


def test_every_message_has_its_place_and_every_branch_can_be_read(api: httpx.Client) -> None:
    first = turn(api, "places", "One")
    asked = first["message_ids"][0]
    edited = turn(api, "places", "Two", edit_message_id=asked)
    branches = api.get("/sessions/places/branches").json()["branches"]
    assert branches[0]["branch_id"] == "main"
    assert [one["current"] for one in branches] == [False, True]
    everything = said(api, "places", branch="all")
    assert [one["branch_id"] for one in everything[:1]] == ["main"]
    by_id = {one["id"]: one for one in everything}
    assert by_id[asked]["parent_id"] is None
    assert by_id[asked]["siblings"] == [asked, edited["message_ids"][0]]
    for branch in branches:
        path = said(api, "places", branch=branch["branch_id"])
        assert path[-1]["id"] == branch["tip_message_id"]
        assert len(path) == branch["message_count"]
    refused(api.get("/sessions/places/messages?branch=none"), 404, "branch-not-found")
    refused(api.get("/sessions/places/messages?branch=../x"), 422, "invalid-id")
    other = said(api, "places", branch="main")[-1]["id"]
    refused(api.get(f"/sessions/places/messages?after={other}"), 404, "message-not-found")


def test_a_branch_is_selected_and_a_repeat_with_the_key_changes_nothing(
    api: httpx.Client,
) -> None:
    turn(api, "select", "One")
    api.post("/sessions/select/regenerate", json={}, headers={"Prefer": "wait=30"})
    path = "/sessions/select/branches/main/select"
    chosen = api.post(path, headers={"Idempotency-Key": "k"})
    assert chosen.status_code == 200
    assert chosen.json()["current"] is True
    again = api.post(path, headers={"Idempotency-Key": "k"})
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == chosen.json()
    session = api.get("/sessions/select").json()
    assert session["position"] == chosen.json()["position"]
    refused(api.post("/sessions/select/branches/no/select"), 404, "branch-not-found")
    refused(api.post("/sessions/none/branches/main/select"), 404, "session-not-found")
    api.post("/sessions/select/close")
    refused(api.post(path), 409, "session-closed")
    refused(api.post("/sessions/select/regenerate", json={}), 409, "session-closed")


def test_what_cannot_be_done_is_refused(api: httpx.Client) -> None:
    body = {"message": "x", "edit_message_id": "msg_1"}
    refused(api.post("/chat", json=body), 422, "invalid")
    refused(api.post("/chat", json={**body, "session_id": "no"}), 404, "session-not-found")
    refused(api.post("/sessions/no/regenerate", json={}), 404, "session-not-found")
    first = turn(api, "refusals", "One")
    answer = first["message"]["id"]
    edit = {"session_id": "refusals", "message": "x", "edit_message_id": answer}
    refused(api.post("/chat", json=edit), 422, "not-a-user-message")
    path = "/sessions/refusals/regenerate"
    refused(api.post(path, json={"message_id": "no"}), 404, "message-not-found")
    refused(api.post(path, json={"agent": "no"}), 422, "unknown-agent")
    refused(api.post(path, json={"message": "no"}), 422, "invalid")
    assert len(api.get("/sessions/refusals/branches").json()["branches"]) == 1


def test_a_queued_run_names_the_message_that_it_answers_again(api: httpx.Client) -> None:
    asked = turn(api, "queued", "One")["message_ids"]
    held = {"session_id": "queued", "message": "x", "options": {"hold": "start"}}
    assert api.post("/chat", json=held).status_code == 202
    queued = api.post(
        "/sessions/queued/regenerate", json={"message_id": asked[0], "run_id": "mine"}
    )
    assert (queued.json()["status"], queued.json()["message_ids"]) == ("queued", asked)
    assert api.get("/sessions/queued/runs/mine").json()["message_ids"] == asked
    api.post("/sessions/queued/cancel")
    assert api.get("/sessions/queued/runs/mine").json()["message_ids"] == asked


def test_markdown_shows_the_current_branch_and_json_all(api: httpx.Client) -> None:
    # A session without a title is called after its first message, in Markdown too.
    turn(api, "export", "first words", title="Export")
    asked = said(api, "export")[0]["id"]
    turn(api, "export", "second words", edit_message_id=asked)
    markdown = api.get("/sessions/export/export?format=markdown").text
    assert "second words" in markdown
    assert "first words" not in markdown
    for form in ("json", "yaml"):
        document = api.get(f"/sessions/export/export?format={form}").content
        copy = api.post("/import?id=new", content=document).json()
        assert copy["notes"] == []
        assert said(api, copy["id"], branch="all") == said(api, "export", branch="all")
        branches = f"/sessions/{copy['id']}/branches"
        assert api.get(branches).json() == api.get("/sessions/export/branches").json()
    bare = api.get("/sessions/export/export?format=json&include_metadata=false").json()
    assert "branches" not in bare
    assert bare["messages"][0]["content"] == "second words"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda branches: branches.update(current="none"),
        lambda branches: branches["branches"].pop(0),
        lambda branches: branches["branches"][1].update(from_message_id="none"),
        lambda branches: branches["branches"][1].update(parent_branch_id="none"),
        lambda branches: branches["branches"][1].update(created_at=5),
        lambda branches: branches.update(summaries=[{"summary": "s", "message_id": "none"}]),
        lambda branches: branches.update(branches={}),
        lambda branches: branches["branches"].append(branches["branches"][1]),
    ],
)
def test_r9_a_document_with_wrong_branches_is_refused_whole(api: httpx.Client, spoil: Any) -> None:
    if api.get("/sessions/spoilt").status_code == 404:
        turn(api, "spoilt", "One")
        api.post("/sessions/spoilt/regenerate", json={}, headers={"Prefer": "wait=30"})
    document = api.get("/sessions/spoilt/export?format=json").json()
    spoil(document["branches"])
    before = api.get("/sessions").json()["total"]
    refused(api.post("/import?id=new", content=json.dumps(document).encode()), 422, "invalid")
    assert api.get("/sessions").json()["total"] == before
