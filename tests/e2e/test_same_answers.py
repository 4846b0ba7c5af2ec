"""A client cannot tell from the answers which store a gateway has.

One script goes along the routes, with a kill in the middle of a chat, over files, SQLite and
PostgreSQL. Its answers are the same, but for ids, times, epochs and what only one store has.
"""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import Gateway
from tests.support.frames import parse_frames
from tests.support.waiting import until

_SETTINGS = {
    # Without delays and joins, so that every word is an event, and each seq is the same.
    "BAMBOO_AGENTS": json.dumps({"default": "demo:?delay_ms=0&coalesce=false"}),
    "BAMBOO_CHECKPOINT_INTERVAL_SECONDS": "0.1",
    "BAMBOO_LOG_LEVEL": "warning",
}
_ID = re.compile(r"\b[a-z]{1,6}[_-][0-9a-hjkmnp-tv-z]{26}\b")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+]00:00)?")
_TOKEN = re.compile(r"\beyJ[\w.-]+|\b[0-9a-f]{64}\b")
_EPOCH = re.compile(r"\b1[6-9]\d{11}\b")
_OF_THE_MACHINE = re.compile(r"duration|_seconds\b|_ms\b|\btoken\b|ticket|per_second")
_OF_ONE_STORE = re.compile(r"bytes|next_cursor|\bstores?\b|gone")
# How many messages say it before the kill; the user and the agent say it once more each.
_SEVENS = 9
_LOOKS = [
    "/sessions",
    "/sessions?count=false",
    "/sessions?user_id=alice",
    "/sessions?user_id=nobody",
    "/sessions?state=closed",
    "/sessions?state=idle,active",
    "/sessions?session_type=user",
    "/sessions?session_type=system",
    "/sessions?created_after=2020-01-01T00:00:00Z",
    "/sessions?created_before=2020-01-01T00:00:00Z",
    "/sessions?active_after=2020-01-01T00:00:00Z",
    "/sessions?title_contains=GRO%C3%9F",
    "/sessions?title_contains=%25",
    "/sessions?id_prefix=a",
    "/sessions?parent_id=a",
    "/sessions?q=seven",
    "/sessions?sort_by=title&sort_order=asc",
    "/sessions?sort_by=created_at&sort_order=asc",
    "/sessions?sort_by=message_count&sort_order=desc",
    "/sessions?limit=2&offset=1",
    "/sessions?cursor=wrong",
    "/sessions?limit=0",
    "/sessions?state=unknown",
    "/archive",
    "/archive/c",
    "/summaries",
    "/statistics",
    "/search?q=seven",
    "/search?q=SEVEN&role=user",
    "/search?q=z",
    "/search?q=%22seven%20eight%22&session_id=a",
    "/search?q=",
    "/search?q=seven&cursor=wrong",
    "/health/ready",
    "/sessions/none",
    "/sessions/none/events",
    "/archive/none",
]
_LOOKS_AT_ONE = [
    "",
    "?include_messages=true",
    "/events?limit=1000",
    "/events?limit=3&order=desc",
    "/events?type=message",
    "/events?after=wrong",
    "/events?after=1-1",
    "/runs",
    "/runs?limit=1&order=asc",
    "/messages",
    "/messages?order=desc&limit=2",
    "/messages?branch=all",
    "/branches",
    "/export?format=json",
    "/export?format=yaml",
    "/export?format=markdown",
    "/export?format=none",
    "/statistics",
    "/report",
    "/tree",
    "/summary",
    "/resume",
    "/extensions",
    "/todo",
    "/shares",
    "/connections",
]


Answer = tuple[str, int, Any]


class Script:
    """Calls a gateway and keeps what it answers, with placeholders for what differs each time."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._names: dict[str, str] = {}
        self.answers: list[Answer] = []

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Call a route, and keep the answer under the call."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) else None
        data = None if content is not None else body
        http = self._gateway.http
        answer = http.request(method, path, json=data, content=content, headers=named)
        shown = (self._plain(f"{method} {path}"), answer.status_code, self._shown(answer))
        self.answers.append(shown)
        return answer.json() if "json" in answer.headers.get("content-type", "") else answer.content

    def stream(self, path: str, **headers: str) -> list[str | None]:
        """Read a stream to its end, and keep its frames; return their ids."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self._gateway.http.get(path, headers=named)
        frames = parse_frames(answer.content)[0]
        shown = [[self._plain(frame.id or ""), self._plain(frame.data)] for frame in frames]
        self.answers.append((f"STREAM {path}", answer.status_code, shown))
        return [frame.id for frame in frames if frame.id]

    def look(self, sessions: list[str]) -> None:
        """Look at everything, and at each of these sessions in every way."""
        for path in _LOOKS:
            self.call("GET", path)
        for session_id in sessions:
            for path in _LOOKS_AT_ONE:
                self.call("GET", f"/sessions/{session_id}{path}")

    def _shown(self, answer: httpx.Response) -> Any:
        if "json" in answer.headers.get("content-type", ""):
            return self._plain(answer.json())
        return self._plain(answer.text)

    def _plain(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {
                self._plain(key): self._plain(inner)
                for key, inner in value.items()
                if not _OF_THE_MACHINE.search(key) and not _OF_ONE_STORE.search(key)
            }
        if isinstance(value, list):
            return [self._plain(inner) for inner in value]
        if not isinstance(value, str):
            return value
        text = value.replace(self._gateway.url, "<url>")
        text = _TOKEN.sub("<token>", _TIME.sub("<time>", text))
        text = _ID.sub(lambda found: self._named(found[0], "id"), text)
        return _EPOCH.sub(lambda found: self._named(found[0], "epoch"), text)

    def _named(self, text: str, what: str) -> str:
        return self._names.setdefault(text, f"<{what} {len(self._names)}>")


def go_along_the_routes(gateway: Gateway) -> list[Answer]:
    script = Script(gateway)
    _talk(script)
    _change(script)
    _copy(script)
    _branch(script)
    until(lambda: _found(gateway, "seven") == _SEVENS, "what was said is found")
    script.look(["a", "b", "f"])
    _die_in_a_chat(script, gateway)
    until(lambda: _found(gateway, "seven") == _SEVENS + 2, "what was said is found again")
    script.look(["a", "b", "f", "t", "killed"])
    _leave(script)
    script.look(["a"])
    return script.answers


def _talk(script: Script) -> None:
    call = script.call
    new = {"id": "a", "title": "Große 100% A", "user_id": "alice", "metadata": {"k": [1, None]}}
    call("POST", "/sessions", new, Idempotency_Key="create-a")
    call("POST", "/sessions", new, Idempotency_Key="create-a")
    call("POST", "/sessions", new)
    call("POST", "/sessions", {"id": "../x"})
    chat = {"session_id": "a", "message": "seven eight", "run_id": "r1"}
    call("POST", "/chat", chat, Prefer="wait=60")
    call("POST", "/chat", chat)
    ids = script.stream("/stream/a?from=start&until=complete&run_id=r1")
    script.stream("/stream/a?until=complete&run_id=r1", Last_Event_ID=str(ids[3]))
    script.stream("/reconnect/a?until=complete&run_id=r1", Last_Event_ID=str(ids[-2]))
    held = {"session_id": "b", "user_id": "bob", "message": "held", "options": {"hold": "start"}}
    call("POST", "/chat", {**held, "run_id": "h1"})
    call("POST", "/chat", {**held, "run_id": "h2", "message": "seven waits"})
    call("POST", "/chat", {**held, "run_id": "h3", "on_busy": "reject"})
    call("POST", "/sessions/b/runs/h2/cancel")
    call("POST", "/sessions/b/cancel")
    call("POST", "/stop/b")
    call("GET", "/sessions/b/runs/h1")
    message = [{"role": "user", "id": "m1", "content": "seven \U0001f600 \u0130 100%_'\"\\"}]
    call("POST", "/sessions/b/messages", message, Idempotency_Key="m")
    call("POST", "/sessions/b/messages", message, Idempotency_Key="m")
    call("POST", "/sessions/b/messages", message)
    call("POST", "/sessions/b/events", [{"type": "custom", "name": "n", "value": {"x": 1.5}}])
    call("POST", "/sessions/b/runs", {"agent": "external", "run_id": "e1"})
    posted = [{"type": "token", "content": "out"}, {"type": "complete"}]
    call("POST", "/sessions/b/events", [{**event, "run_id": "e1"} for event in posted])


def _change(script: Script) -> None:
    call = script.call
    call("PATCH", "/sessions/b", {"title": "tab\tand \u0000 nul", "metadata": {"a": "\u0000"}})
    call("PATCH", "/sessions/a", {"unknown": 1})
    call("POST", "/sessions/b/close")
    call("POST", "/chat", {"session_id": "b", "message": "closed"})
    call("POST", "/sessions/b/reopen")
    call("PUT", "/sessions/a/summary", {"summary": "In short", "turn_count": 1})
    call("PUT", "/sessions/a/todo", {"content": "- one"})
    call("PUT", "/sessions/a/extensions/notes", {"config": {"x": "\u0000"}, "enabled": False})
    call("PATCH", "/sessions/a/extensions", {"custom": {"y": 2}})
    call("DELETE", "/sessions/a/extensions/none")
    call("POST", "/sessions/a/shares", {"user_id": "carol", "expires_in": 3600})
    share = call("POST", "/sessions/a/shares", {"link": True})
    call("DELETE", f"/sessions/a/shares/{share['id']}")
    call("POST", "/sessions/a/ticket", {})


def _copy(script: Script) -> None:
    call = script.call
    call("POST", "/sessions/a/fork", {"new_id": "f", "new_name": "Fork"})
    call("POST", "/sessions/a/fork", {"new_id": "f"})
    call("POST", "/sessions/a/fork", {"new_id": "g", "from_message_index": 0})
    call("POST", "/sessions/g/merge", {"source_id": "b", "strategy": "interleave"})
    call("POST", "/sessions/g/merge", {"source_id": "g"})
    exported = script.call("GET", "/sessions/a/export?format=json")
    call("POST", "/import?id=new", json.dumps(exported).encode())
    call("POST", "/import?id=keep", json.dumps(exported).encode())
    call("POST", "/import", b"nothing that is known")
    call("POST", "/sessions", {"id": "c", "title": "To archive"})
    call("POST", "/sessions/c/messages", {"role": "user", "content": "old"})
    call("POST", "/sessions/c/archive")
    call("POST", "/sessions/c/messages", {"role": "user", "content": "too late"})


def _branch(script: Script) -> None:
    call = script.call
    chat = {"session_id": "t", "message": "one", "run_id": "t1"}
    first = call("POST", "/chat", chat, Prefer="wait=60")
    asked = first["message_ids"][0]
    again = {"run_id": "t2"}
    call("POST", "/sessions/t/regenerate", again, Prefer="wait=60", Idempotency_Key="again")
    call("POST", "/sessions/t/regenerate", again, Prefer="wait=60", Idempotency_Key="again")
    more = {"session_id": "t", "message": "two", "run_id": "t3"}
    call("POST", "/chat", more, Prefer="wait=60")
    edit = {"session_id": "t", "message": "One", "edit_message_id": asked, "run_id": "t4"}
    call("POST", "/chat", edit, Prefer="wait=60")
    call("POST", "/sessions/t/regenerate", {"message_id": "none"})
    call("PUT", "/sessions/t/summary", {"summary": "Of the edit"})
    call("POST", "/sessions/t/branches/main/select", Idempotency_Key="select")
    call("POST", "/sessions/t/branches/none/select")
    call("PUT", "/sessions/t/summary", {"summary": "Of the first"})
    call("POST", "/sessions", {"id": "w"})
    call("POST", "/sessions/w/messages", {"role": "user", "content": "instead"})
    call("POST", "/sessions/t/merge", {"source_id": "w", "strategy": "replace"})
    branches = call("GET", "/sessions/t/branches")["branches"]
    call("POST", f"/sessions/t/branches/{branches[1]['branch_id']}/select")
    call("POST", "/sessions/t/messages", {"role": "user", "content": "three"})
    for branch in branches:
        call("GET", f"/sessions/t/messages?branch={branch['branch_id']}&limit=2&order=desc")
    exported = script.call("GET", "/sessions/t/export?format=json")
    call("POST", "/import?id=new", json.dumps(exported).encode())
    call("POST", "/sessions/t/fork", {"new_id": "u", "from_message_id": first["message"]["id"]})
    call("GET", "/sessions/u/messages")
    script.stream("/stream/t?from=start&until=complete&run_id=t1")


def _die_in_a_chat(script: Script, gateway: Gateway) -> None:
    options = {"hold": "middle", "tokens": 6, "thinking": False, "tool": False}
    script.call(
        "POST",
        "/chat",
        {"session_id": "killed", "message": "seven", "run_id": "k"},
        Prefer="wait=60",
    )
    script.call("POST", "/chat", {"session_id": "killed", "message": "die", "options": options})
    until(lambda: _tokens(gateway, "killed") == 3, "the agent has said half of it")
    gateway.kill()
    gateway.start()
    until(lambda: _ends(gateway, "killed") == 2, "the run is interrupted")


def _leave(script: Script) -> None:
    call = script.call
    call("POST", "/sessions/c/restore")
    call("POST", "/sessions/c/restore")
    call("POST", "/archive", {"session_ids": ["c", "none"]})
    call("DELETE", "/archive/c")
    call("POST", "/cleanup", {})
    call("DELETE", "/sessions/f")
    call("DELETE", "/sessions/f")
    call("DELETE", "/users/bob?dry_run=true")
    call("DELETE", "/users/bob")


def _tokens(gateway: Gateway, session_id: str) -> int:
    log = gateway.events(session_id)
    last = max(event["seq"] for event in log if event["type"] == "run_start")
    return sum(event["type"] == "token" and event["seq"] > last for event in log)


def _ends(gateway: Gateway, session_id: str) -> int:
    return sum(event["type"] in {"complete", "error"} for event in gateway.events(session_id))


def _found(gateway: Gateway, text: str) -> int:
    return len(gateway.call("GET", "/search", params={"q": text, "limit": 100})["results"])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Answer]:
    with Gateway(tmp_path_factory.mktemp("files"), _SETTINGS) as gateway:
        return go_along_the_routes(gateway)


@pytest.fixture(params=["sqlite", "postgresql"])
def storage_url(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return "sqlite:"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.mark.timeout(300)
def test_a_client_cannot_tell_which_store_a_gateway_has(
    tmp_path: Path, storage_url: str, files: list[Answer]
) -> None:
    with Gateway(tmp_path, _SETTINGS | {"BAMBOO_STORAGE_URL": storage_url}) as gateway:
        given = go_along_the_routes(gateway)
    assert [call for call, _, _ in given] == [call for call, _, _ in files]
    different = [pair for pair in zip(files, given, strict=True) if pair[0] != pair[1]]
    assert not different, f"{len(different)} answers differ, the first: {different[0]}"
