"""The gateway answers 404 for sessions that belong to another user, on every route.

The routes are those of the OpenAPI document; one that has no plan here fails the test.
"""

import io
import itertools
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from bamboo_gateway.wires.openai.ids import conversation_id, response_id
from tests.api.serving import CONTRACT, SECONDS, Served, refused
from tests.api.users import serving_users, user
from tests.support.clients import local_client

DOCUMENT = CONTRACT.document
OPERATIONS = [
    (method.upper(), path)
    for path, operations in DOCUMENT["paths"].items()
    for method in operations
]
ABOUT_ONE = [(method, path) for method, path in OPERATIONS if "{session_id}" in path]
OTHERS = [(method, path) for method, path in OPERATIONS if "{session_id}" not in path]
QUIET = {f"/api/v1/ai-sdk/{version}chat/{{session_id}}/stream" for version in ("", "v6/", "v7/")}
"""These say of any session without a run that nothing is streamed, also of one that is not there:
pages of this protocol ask before they have sent the first message, and 404 is an error to them."""
STATES = ("live", "busy", "closed", "archived", "expiring")
_OF_THE_REQUEST = ("x-request-id", "date", "server")

_numbers = itertools.count(1)


@dataclass(frozen=True)
class World:
    """Sessions of alice's in every state, and one of bob's."""

    served: Served
    alice: httpx.Client
    bob: httpx.Client
    operator: httpx.Client
    looking: httpx.Client
    sessions: dict[str, str]
    bobs: str
    run_id: str

    def unknown(self) -> str:
        """An id of which there is no session, as long as those of the sessions."""
        return f"none-{next(_numbers):04d}"

    def seen_by_alice(self) -> dict[str, Any]:
        """Everything of alice's sessions that could have changed."""
        return {
            state: [
                self.looking.get(f"/sessions/{session_id}").json(),
                self.looking.get(f"/sessions/{session_id}/events?limit=1000").json(),
            ]
            for state, session_id in self.sessions.items()
        }


@pytest.fixture(scope="module")
def inhabited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One for all tests here: each holds it to have changed nothing of alice's."""
    with (
        serving_users(
            export_dir=tmp_path_factory.mktemp("exports"),
            external_run_timeout_seconds=86_400,  # the busy session stays busy
        ) as served,
        user(served, "alice") as alice,
        user(served, "bob") as bob,
        served.client() as operator,
        local_client(base_url=operator.base_url, timeout=SECONDS) as looking,
    ):
        sessions = {state: f"alice-{number:03d}" for number, state in enumerate(STATES)}
        for session_id in sessions.values():
            _talk(alice, session_id)
        run = alice.post(f"/sessions/{sessions['busy']}/runs", json={"agent": "external"})
        assert run.status_code == 201
        alice.patch(f"/sessions/{sessions['expiring']}", json={"ttl_seconds": 3600})
        alice.post(f"/sessions/{sessions['closed']}/close")
        alice.post(f"/sessions/{sessions['archived']}/archive")
        yield World(served, alice, bob, operator, looking, sessions, "", run.json()["run_id"])


@pytest.fixture
def world(inhabited: World) -> Iterator[World]:
    bobs = f"bobs-{next(_numbers):04d}"
    assert inhabited.bob.post("/sessions", json={"id": bobs}).status_code == 201
    yield replace(inhabited, bobs=bobs)
    inhabited.bob.post("/cleanup", json={"before": "2099-01-01T00:00:00Z"})


def _talk(alice: httpx.Client, session_id: str) -> None:
    """Give a session everything that can be asked for: messages, a run, a summary, data."""
    made = alice.post("/sessions", json={"id": session_id, "title": "secret plans"})
    assert made.json()["user_id"] == "alice"
    run_id = alice.post(f"/sessions/{session_id}/runs", json={"agent": "external"}).json()["run_id"]
    events = [
        {"type": "token", "content": "secret", "run_id": run_id},
        {"type": "complete", "run_id": run_id},
    ]
    assert alice.post(f"/sessions/{session_id}/events", json=events).status_code == 201
    alice.put(f"/sessions/{session_id}/summary", json={"summary": "plans"})
    alice.put(f"/sessions/{session_id}/todo", json={"content": "hide"})
    alice.put(f"/sessions/{session_id}/extensions/x", json={"config": {}, "enabled": True})


def _body(method: str, path: str) -> dict[str, Any]:
    """The first example that the document gives for the operation's body."""
    operation = DOCUMENT["paths"][path][method.lower()]
    content = operation.get("requestBody", {}).get("content", {})
    examples = content.get("application/json", {}).get("examples") or {}
    bodies = [example["value"] for example in examples.values()]
    return {"json": bodies[0]} if bodies else {}


def _ask(client: httpx.Client, world: World, method: str, path: str, of: str) -> httpx.Response:
    filled = path.removeprefix("/api/v1").format(
        session_id=of,
        run_id=world.run_id,
        connection_id="c-1",
        name="x",
        share_id="share-1",
        branch_id="main",
    )
    body = _body(method, path)
    if path.endswith("/merge"):
        body["json"] = body["json"] | {"source_id": world.bobs}
    return client.request(method, filled, **body)


def _bare(response: httpx.Response, session_id: str) -> tuple[int, dict[str, str], bytes]:
    """An answer without what is of its request alone."""
    headers = {k: v for k, v in response.headers.items() if k not in _OF_THE_REQUEST}
    return response.status_code, headers, response.content.replace(session_id.encode(), b"<id>")


@pytest.mark.parametrize(("method", "path"), ABOUT_ONE, ids=lambda part: str(part))
def test_a_session_of_another_user_is_404_as_one_that_does_not_exist(
    world: World, method: str, path: str
):
    before = world.seen_by_alice()
    unknown = world.unknown()
    expected = _bare(_ask(world.bob, world, method, path, unknown), unknown)
    for state, session_id in world.sessions.items():
        answer = _ask(world.bob, world, method, path, session_id)
        assert answer.status_code == (204 if path in QUIET else 404), (state, answer.text)
        assert _bare(answer, session_id) == expected, state
    assert world.seen_by_alice() == before


@pytest.mark.parametrize(("method", "path"), ABOUT_ONE, ids=lambda part: str(part))
def test_a_session_credential_opens_no_other_session_and_changes_nothing(
    world: World, method: str, path: str
):
    before = world.seen_by_alice()
    unknown, busy = world.unknown(), world.sessions["busy"]
    with user(world.served, "alice", only_session=world.sessions["live"]) as ticket:
        expected = _bare(_ask(ticket, world, method, path, unknown), unknown)
        # 403 where the right to do it at all is lacking: that is asked before anything else.
        assert expected[0] in {403, 404}
        assert _bare(_ask(ticket, world, method, path, busy), busy) == expected
        if method != "GET":
            own = _ask(ticket, world, method, path, world.sessions["live"])
            assert own.status_code in {403, 404}, own.text
    with user(world.served, "bob", only_session=world.sessions["live"]) as foreign:
        answer = _ask(foreign, world, method, path, world.sessions["live"])
        assert answer.status_code == expected[0]
    assert world.seen_by_alice() == before


def test_an_idempotency_key_never_replays_another_users_answer(world: World):
    key = {"Idempotency-Key": "one-key"}
    live = world.sessions["live"]
    url = f"/sessions/{live}/messages"
    message = {"role": "user", "content": "mine"}
    assert world.alice.post(url, json=message, headers=key).status_code == 201
    refused(world.bob.post(url, json=message, headers=key), 404, "session-not-found")
    made = [
        client.post("/sessions", json={}, headers=key).json()["id"]
        for client in (world.alice, world.bob, world.alice)
    ]
    assert made[0] == made[2] != made[1]


# -- the routes that are about no one session ------------------------------------------------

Plan = Callable[[World], None]


def _chat(world: World) -> None:
    for state, session_id in world.sessions.items():
        said = world.bob.post("/chat", json={"session_id": session_id, "message": "hi"})
        problem = refused(said, 404, "session-not-found")
        assert problem["detail"] == f"No session {session_id!r}.", state
        stream = {"Accept": "text/event-stream"}
        said = world.bob.post(
            "/chat", json={"session_id": session_id, "message": 1}, headers=stream
        )
        assert said.status_code == 422
        said = world.bob.post(
            "/chat", json={"session_id": session_id, "message": "hi"}, headers=stream
        )
        refused(said, 404, "session-not-found")
    named = {"session_id": world.unknown(), "message": "hi", "user_id": "alice"}
    refused(world.bob.post("/chat", json=named), 403, "forbidden")
    refused(world.bob.get(f"/sessions/{named['session_id']}"), 404, "session-not-found")


def _ai_sdk(path: str) -> Plan:
    def plan(world: World) -> None:
        said = {"id": "u-1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
        for state, session_id in world.sessions.items():
            for more in (
                {"messages": [said]},
                {"message": said, "messageId": "u-1"},
                {"messages": [said, said | {"id": "a-1", "role": "assistant"}]},
                {"messages": [said | {"role": "system"}, said]},
                {"trigger": "regenerate-message"},
            ):
                answer = world.bob.post(path, json={"id": session_id, **more})
                problem = refused(answer, 404, "session-not-found")
                assert problem["detail"] == f"No session {session_id!r}.", (state, more)

    return plan


def _ag_ui(below: str) -> Plan:
    """A thread of another user is one that does not exist, whatever the client says of it."""

    def plan(world: World) -> None:
        said = {"id": "u-1", "role": "user", "content": "hi"}
        resume = [{"interruptId": "req_1", "status": "cancelled"}]
        unknown = world.unknown()
        for more, status in (
            ({"messages": []}, 404 if below else 422),
            ({"resume": resume}, 404),
            ({"messages": [said], "runId": world.run_id}, 404),
        ):
            answers = set()
            for session_id in (*world.sessions.values(), unknown):
                if session_id == unknown and not below and more.get("messages"):
                    continue  # a new thread, which is Bob's
                body = {"threadId": session_id, "runId": "run-9", "messages": [], **more}
                where = f"/ag-ui/default{below}".format(threadId=session_id)
                answer = world.bob.post(where, json=None if "stop" in below else body)
                assert answer.status_code == status, answer.text
                answers.add(answer.text.replace(session_id, "ID"))
            assert len(answers) == 1, more

    return plan


def _create(world: World) -> None:
    for session_id in world.sessions.values():
        taken = world.bob.post("/sessions", json={"id": session_id, "title": "mine now"})
        problem = refused(taken, 409, "session-exists")
        own = refused(world.bob.post("/sessions", json={"id": world.bobs}), 409, "session-exists")
        assert problem["detail"] == own["detail"].replace(world.bobs, session_id)
    unknown = world.unknown()
    named = world.bob.post("/sessions", json={"id": unknown, "user_id": "alice"})
    refused(named, 403, "forbidden")
    refused(world.operator.get(f"/sessions/{unknown}"), 404, "session-not-found")
    acting = world.operator.post("/sessions", json={"id": unknown, "user_id": "bob"})
    assert acting.status_code == 201
    assert world.bob.get(f"/sessions/{unknown}").status_code == 200


def _list(path: str, entries: str) -> Plan:
    def plan(world: World) -> None:
        for query in (
            "",
            "?user_id=bob",
            f"?parent_id={world.sessions['live']}",
            "?title_contains=secret",
            "?sort_by=title&limit=1",
        ):
            page = world.bob.get(path + query).json()
            ids = {entry.get("id") or entry.get("session_id") for entry in page[entries]}
            assert ids <= {world.bobs}, query
            assert page.get("total", 0) <= 1
            assert not page["has_more"]
        # Also with what is no cursor: nothing of another user's list is looked at.
        for query in ("", "&cursor=nonsense", "&offset=1"):
            page = world.bob.get(f"{path}?user_id=alice{query}").json()
            assert page[entries] == []
            assert page.get("total", 0) == 0
        shown = world.alice.get(f"{path}?limit=1000").json()[entries]
        assert shown, "alice has some of these, or the test sees nothing"

    return plan


def _bulk(path: str, done: str) -> Plan:
    def plan(world: World) -> None:
        unknown = world.unknown()
        asked = [*world.sessions.values(), unknown, "not an id"]
        answer = world.bob.post(path, json={"session_ids": asked}).json()
        assert answer[done] == []
        *foreign, missing, invalid = answer["failed"]
        assert [entry["session_id"] for entry in foreign] == list(world.sessions.values())
        for entry in foreign:
            assert json.dumps(entry).replace(entry["session_id"], unknown) == json.dumps(missing)
        assert (missing["code"], invalid["code"]) == ("session-not-found", "invalid-id")

    return plan


def _export(world: World) -> None:
    unknown = world.unknown()
    asked = {"session_ids": [*world.sessions.values(), unknown], "format": "json"}
    answer = world.bob.post("/export", json=asked)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["errors.txt"]
        lines = archive.read("errors.txt").decode().splitlines()
    ids = asked["session_ids"]
    assert {line.replace(i, "<id>") for line, i in zip(lines, ids, strict=True)} == {
        "<id>: No session '<id>'. (session-not-found)"
    }


def _import(world: World) -> None:
    exported = world.alice.get(f"/sessions/{world.sessions['live']}/export?format=json").json()
    for session_id in world.sessions.values():
        document = exported | {"session": exported["session"] | {"id": session_id}}
        taken = world.bob.post("/import?id=keep", json=document)
        refused(taken, 409, "session-exists")
    assert exported["session"]["user_id"] == "alice"
    copy = world.bob.post("/import", json=exported).json()
    assert copy["user_id"] == "bob"
    refused(world.alice.get(f"/sessions/{copy['id']}"), 404, "session-not-found")
    as_it_says = world.operator.post("/import", json=exported).json()
    assert as_it_says["user_id"] == "alice"
    assert world.alice.delete(f"/sessions/{as_it_says['id']}").status_code == 204
    assert world.bob.delete(f"/sessions/{copy['id']}").status_code == 204


def _statistics(world: World) -> None:
    overview = world.bob.get("/statistics").json()
    assert overview["sessions"] == 1
    assert overview["oldest"]["session_id"] == world.bobs
    assert world.alice.get("/statistics").json()["sessions"] >= len(STATES)


def _search(world: World) -> None:
    text = {"role": "user", "content": "plans of bob's"}
    assert world.bob.post(f"/sessions/{world.bobs}/messages", json=text).status_code == 201
    for role in ("user", "assistant", "tool"):
        for query in ({}, {"user_id": "alice"}, {"session_id": world.sessions["live"]}):
            asked = {"q": "s", "role": role, "archived": "include", **query}
            found = world.bob.get("/search", params=asked).json()
            mine = [world.bobs] if role == "user" and not query else []
            assert [one["session_id"] for one in found["results"]] == mine
            assert (found["has_more"], found["next_cursor"]) == (False, None)
    first = {"q": "secret", "archived": "include", "limit": "1"}
    assert world.alice.get("/search", params=first).json()["results"]


def _follow(world: World) -> None:
    """Her sessions end as one that is not there, at any position."""
    unknown = world.unknown()
    told: list[str] = []
    for asked in (*world.sessions.values(), unknown):
        for name in (asked, f"{asked}@0"):
            answer = world.bob.get("/stream", params={"session_id": name})
            assert answer.status_code == 200
            data = [line for line in answer.text.splitlines() if line.startswith("data: ")]
            told.append("".join(data).replace(asked, "<id>"))
            cursor = answer.text.splitlines()[0].removeprefix("id: ")
            again = world.bob.get("/stream", params={"session_id": asked, "after": cursor})
            assert (again.status_code, again.content) == (204, b"")
    assert set(told) == {
        'data: {"type":"goodbye","session_id":"<id>","reason":"deleted","retry":false}'
    }


def _changes(world: World) -> None:
    cursor = world.bob.get("/changes").json()["next"]
    hers = world.alice.get("/changes").json()["next"]
    gone = world.unknown()
    assert world.alice.post("/sessions", json={"id": gone}).status_code == 201
    assert world.alice.delete(f"/sessions/{gone}").status_code == 204
    world.bob.patch(f"/sessions/{world.bobs}", json={"title": "mine"})
    for query in ({}, {"user_id": "alice"}, {"parent_id": world.sessions["live"]}):
        page = world.bob.get("/changes", params={"after": cursor, **query}).json()
        told = [change["session_id"] for change in page["changes"]]
        assert told == ([] if query else [world.bobs])
    # A cursor is a place in the changes of all, and no right.
    page = world.bob.get("/changes", params={"after": hers}).json()
    assert [change["session_id"] for change in page["changes"]] == [world.bobs]
    page = world.alice.get("/changes", params={"after": cursor}).json()
    assert page["changes"] == [{"type": "session_gone", "session_id": gone}]


def _cleanup(world: World) -> None:
    for dry_run in (True, False):
        wanted = {"before": "2099-01-01T00:00:00Z", "dry_run": dry_run}
        cleaned = world.bob.post("/cleanup", json=wanted).json()
        assert cleaned["session_ids"] == [world.bobs]


def _process_wide(path: str) -> Plan:
    def plan(world: World) -> None:
        answer = world.bob.get(f"{world.served.url}{path}")
        assert answer.status_code in {200, 403}
        for session_id in (*world.sessions.values(), "alice"):
            assert session_id not in answer.text

    return plan


def _cookie(path: str) -> Plan:
    def plan(world: World) -> None:
        answer = world.bob.post(path)
        assert (answer.status_code, answer.content) == (204, b"")

    return plan


def _upload(world: World) -> None:
    refused(world.bob.post("/files", params={"user_id": "alice"}, content=b"x"), 403, "forbidden")
    assert "alice" not in world.bob.post("/files", content=b"x").text


def _foreign_file(method: str) -> Plan:
    def plan(world: World) -> None:
        theirs = world.alice.post("/files", content=b"alice's").json()["file_id"]
        foreign = refused(world.bob.request(method, f"/files/{theirs}"), 404, "file-not-found")
        missing = refused(world.bob.request(method, "/files/file_none"), 404, "file-not-found")
        assert json.dumps(foreign).replace(theirs, "file_none") == json.dumps(missing)
        listed = world.bob.get("/files", params={"limit": 1000}).json()["files"]
        assert theirs not in {one["file_id"] for one in listed}
        assert world.alice.get(f"/files/{theirs}").content == b"alice's"

    return plan


def _erase(world: World) -> None:
    for whose in ("alice", "bob"):
        for client in (world.alice, world.bob):
            refused(client.delete(f"/users/{whose}"), 403, "forbidden")


_NEW_WEBHOOK = {"url": "https://hooks.example.com/", "events": ["run.ended"]}


def _webhooks(world: World) -> None:
    """A user makes and sees webhooks of its own, which are about its own sessions."""
    refused(
        world.bob.post("/webhooks", json={**_NEW_WEBHOOK, "user_id": "alice"}), 403, "forbidden"
    )
    made = world.alice.post("/webhooks", json=_NEW_WEBHOOK).json()
    try:
        assert made["user_id"] == "alice"
        assert world.bob.get("/webhooks").json()["webhooks"] == []
    finally:
        assert world.alice.delete(f"/webhooks/{made['id']}").status_code == 204


def _one_webhook(method: str, path: str) -> Plan:
    def plan(world: World) -> None:
        made = world.alice.post("/webhooks", json=_NEW_WEBHOOK).json()["id"]
        sent: dict[str, str] | None = {} if method in {"PATCH", "POST"} else None
        try:
            for webhook_id in (made, "wh_none"):
                where = path.removeprefix("/api/v1").format(webhook_id=webhook_id)
                refused(world.bob.request(method, where, json=sent), 404, "webhook-not-found")
        finally:
            assert world.alice.delete(f"/webhooks/{made}").status_code == 204

    return plan


def _openai(method: str, path: str) -> Plan:
    """OpenAI's routes: the id of another user's response is answered as if there were none."""
    below = path.removeprefix("/api/v1")

    def plan(world: World) -> None:
        body = _body(method, path)
        unknown = world.unknown()
        answers = []
        for session_id in (*world.sessions.values(), unknown):
            run_id = world.run_id if session_id == world.sessions["busy"] else "run_1"
            messages = world.alice.get(f"/sessions/{session_id}/messages").json()
            item = messages["messages"][0]["id"] if "messages" in messages else "msg_1"
            names = {
                "response_id": response_id(session_id, run_id),
                "conversation_id": conversation_id(session_id),
                "item_id": item,
            }
            answer = world.bob.request(method, below.format(**names), **body)
            assert answer.status_code == 404, answer.text
            answers.append(_bare(answer, session_id))
        assert all(answer == answers[-1] for answer in answers)

    return plan


def _openai_creates(world: World) -> None:
    """Nothing of another's is gone on with."""
    url, unknown = "/openai/v1/responses", world.unknown()
    for session_id in (*world.sessions.values(), unknown):
        body = {"model": "default", "input": "hi", "conversation": conversation_id(session_id)}
        answer = world.bob.post(url, json=body)
        assert answer.status_code == (200 if session_id == unknown else 404), answer.text
    before = response_id(world.sessions["busy"], world.run_id)
    body = {"model": "default", "input": "hi", "previous_response_id": before}
    answer = world.bob.post(url, json=body)
    refused(answer, 400, "invalid-value")
    body["previous_response_id"] = response_id(unknown, "run_1")
    assert answer.json() == world.bob.post(url, json=body).json()


def _openai_conversation(world: World) -> None:
    made = world.bob.post("/openai/v1/conversations", json={}).json()
    session_id = made["id"].removeprefix("conv_")
    assert world.bob.get(f"/sessions/{session_id}").json()["user_id"] == "bob"


def _openai_models(world: World) -> None:
    """Agents are the gateway's: everybody who may read sees the same."""
    seen = [one.get("/openai/v1/models").json() for one in (world.alice, world.bob)]
    assert seen[0] == seen[1]


PLANS: dict[tuple[str, str], Plan] = {
    **{
        (method, path): _openai(method, path)
        for method, path in OTHERS
        if path.startswith(
            (
                "/api/v1/openai/v1/responses/",
                "/api/v1/openai/v1/conversations/",
            )
        )
    },
    ("POST", "/api/v1/openai/v1/responses"): _openai_creates,
    ("POST", "/api/v1/openai/v1/conversations"): _openai_conversation,
    ("GET", "/api/v1/openai/v1/models"): _openai_models,
    ("GET", "/api/v1/openai/v1/models/{model}"): _openai_models,
    **{
        (method, path): _one_webhook(method, path)
        for method, path in OTHERS
        if path.startswith("/api/v1/webhooks/{webhook_id}")
    },
    ("POST", "/api/v1/webhooks"): _webhooks,
    ("GET", "/api/v1/webhooks"): _webhooks,
    ("POST", "/api/v1/login"): _cookie("/login"),
    ("POST", "/api/v1/logout"): _cookie("/logout"),
    **{
        ("POST", f"/api/v1/ai-sdk/{version}chat"): _ai_sdk(f"/ai-sdk/{version}chat")
        for version in ("", "v6/", "v7/")
    },
    ("POST", "/api/v1/ag-ui/{agent}"): _ag_ui(""),
    ("POST", "/api/v1/ag-ui/{agent}/connect"): _ag_ui("/connect"),
    ("POST", "/api/v1/ag-ui/{agent}/stop/{threadId}"): _ag_ui("/stop/{threadId}"),
    ("POST", "/api/v1/chat"): _chat,
    ("POST", "/api/v1/sessions"): _create,
    ("GET", "/api/v1/sessions"): _list("/sessions", "sessions"),
    ("GET", "/api/v1/summaries"): _list("/summaries", "summaries"),
    ("GET", "/api/v1/archive"): _list("/archive", "archives"),
    ("POST", "/api/v1/archive"): _bulk("/archive", "archived"),
    ("POST", "/api/v1/archive/restore"): _bulk("/archive/restore", "restored"),
    ("POST", "/api/v1/export"): _export,
    ("POST", "/api/v1/import"): _import,
    ("GET", "/api/v1/statistics"): _statistics,
    ("GET", "/api/v1/search"): _search,
    ("GET", "/api/v1/stream"): _follow,
    ("GET", "/api/v1/changes"): _changes,
    ("POST", "/api/v1/files"): _upload,
    ("GET", "/api/v1/files"): _foreign_file("GET"),
    ("GET", "/api/v1/files/{file_id}"): _foreign_file("GET"),
    ("DELETE", "/api/v1/files/{file_id}"): _foreign_file("DELETE"),
    ("POST", "/api/v1/cleanup"): _cleanup,
    ("DELETE", "/api/v1/users/{user_id}"): _erase,
    **{
        ("GET", path): _process_wide(path)
        for path in (
            "/",
            "/api/v1/openapi.json",
            "/api/v1/agents",
            "/api/v1/diagnostics",
            "/api/v1/metrics",
            "/metrics",
            "/api/v1/health/live",
            "/health/live",
            "/api/v1/health/ready",
            "/health/ready",
        )
    },
}


@pytest.mark.parametrize(("method", "path"), OTHERS, ids=lambda part: str(part))
def test_routes_over_many_sessions_exclude_those_of_other_users(
    world: World, method: str, path: str
):
    plan = PLANS.get((method, path))
    assert plan is not None, f"say here what {method} {path} may show to another user"
    before = world.seen_by_alice()
    plan(world)
    assert world.seen_by_alice() == before


def test_a_session_credential_lists_and_creates_nothing(world: World):
    with user(world.served, "alice", only_session=world.sessions["live"]) as ticket:
        for path in (
            "/sessions",
            "/archive",
            "/summaries",
            "/statistics",
            "/search?q=a",
            "/changes",
        ):
            refused(ticket.get(path), 403, "forbidden")
        new = world.unknown()
        refused(ticket.post("/sessions", json={"id": new}), 403, "forbidden")
        refused(ticket.post("/chat", json={"message": "hi"}), 403, "forbidden")
        refused(ticket.post("/cleanup", json={}), 403, "forbidden")
        refused(world.alice.get(f"/sessions/{new}"), 404, "session-not-found")


# -- bodies that name sessions ---------------------------------------------------------------


def test_a_merge_from_a_session_of_another_user_is_404(world: World):
    before = world.seen_by_alice()
    unknown = world.unknown()
    missing = world.bob.post(f"/sessions/{world.bobs}/merge", json={"source_id": unknown})
    for session_id in world.sessions.values():
        answer = world.bob.post(f"/sessions/{world.bobs}/merge", json={"source_id": session_id})
        refused(answer, 404, "session-not-found")
        assert _bare(answer, session_id) == _bare(missing, unknown)
    assert world.bob.get(f"/sessions/{world.bobs}").json()["message_count"] == 0
    assert world.seen_by_alice() == before


def test_a_fork_does_not_take_the_id_of_another_users_session(world: World):
    for session_id in world.sessions.values():
        for key in ({}, {"Idempotency-Key": f"fork-{session_id}"}):
            taken = world.bob.post(
                f"/sessions/{world.bobs}/fork", json={"new_id": session_id}, headers=key
            )
            refused(taken, 409, "session-exists")


def test_the_tree_shows_no_fork_of_another_user(world: World):
    """Also when the operator has mixed them: ids are all that lineage tells of another's."""
    live = world.sessions["live"]
    exported = world.alice.get(f"/sessions/{live}/export?format=json").json()
    exported["lineage"]["ancestors"] = [{"session_id": live, "title": None, "forked_at": None}]
    exported["session"]["parent"] = {"session_id": live, "message_id": None, "position": None}
    bobs = world.bob.post("/import", json=exported).json()["id"]
    tree = world.bob.get(f"/sessions/{bobs}/tree").json()
    assert (tree["session_id"], tree["title"], tree["state"]) == (live, None, "deleted")
    assert [branch["session_id"] for branch in tree["branches"]] == [bobs]
    assert world.alice.get(f"/sessions/{live}/tree").json()["branches"] == []
    whole = world.operator.get(f"/sessions/{live}/tree").json()
    assert whole["title"] == "secret plans"
    assert [branch["session_id"] for branch in whole["branches"]] == [bobs]
    assert world.bob.get(f"/sessions?parent_id={live}").json()["total"] == 1


def test_users_do_not_write_over_each_others_exports(world: World):
    settings = world.served.app.state.settings
    wanted = {"path": "a.md", "format": "markdown"}
    mine = world.bob.post(f"/sessions/{world.bobs}/export", json=wanted)
    assert mine.json()["path"] == "a.md"
    theirs = world.alice.post(f"/sessions/{world.sessions['live']}/export", json=wanted)
    assert theirs.status_code == 200
    world.operator.post(f"/sessions/{world.bobs}/export", json=wanted)
    written = sorted(settings.export_dir.rglob("a.md"))
    assert len({path.parent for path in written}) == 3
    assert all(path.is_relative_to(settings.export_dir) for path in written)


def test_an_operators_merge_across_users_shows_only_the_source_id(world: World):
    live = world.sessions["live"]
    merged = world.operator.post(f"/sessions/{world.bobs}/merge", json={"source_id": live})
    assert merged.status_code == 200
    report = world.bob.get(f"/sessions/{world.bobs}/report").json()
    (source,) = report["merged_from"]
    assert (source["session_id"], source["title"]) == (live, None)
    events = world.bob.get(f"/sessions/{world.bobs}/events").text
    assert "secret plans" not in events


def test_the_operator_reads_and_changes_the_sessions_of_all_users(world: World):
    ids = {entry["id"] for entry in world.operator.get("/sessions?limit=1000").json()["sessions"]}
    assert {world.bobs, world.sessions["live"]} <= ids
    assert world.operator.get("/sessions?user_id=alice").json()["total"] >= 3
    made = world.unknown()
    assert world.operator.post("/sessions", json={"id": made}).json()["user_id"] is None
    refused(world.alice.get(f"/sessions/{made}"), 404, "session-not-found")
    assert world.operator.delete(f"/sessions/{made}").status_code == 204
