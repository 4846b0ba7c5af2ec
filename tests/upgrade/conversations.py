"""Conversations that a version of the gateway stores, and what its readers see of them.

The same requests go to every version. What a version does not have yet is left out, so that later
data has everything, and earlier data what there was.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from typing_extensions import override

from tests.processes import Gateway, start_program
from tests.support.waiting import until

Seen = dict[str, Any]
"""Session id to its `session`, `messages` and `events`."""

SETTINGS: Mapping[str, str] = {
    # Nothing is removed by its age: data of an earlier version is old.
    "BAMBOO_DELTA_RETENTION_SECONDS": "1e9",
    "BAMBOO_AGENTS": '{"default": "demo:?delay_ms=0"}',
}

ARCHIVED = "archived"
_PAGE = 100


class GatewayOf(Gateway):
    """A gateway of any version, as a fresh process of a given program and environment."""

    def __init__(
        self, directory: Path, program: Sequence[str], settings: Mapping[str, str], where: Path
    ) -> None:
        super().__init__(directory, settings, program=program, working_directory=where)

    @override
    def start(self) -> "GatewayOf":
        """Start it, and return when it is ready."""
        with self._log_path.open("ab") as log, Path(os.devnull).open("rb") as nothing:
            self.process = start_program(
                self.command(),
                self._environment,
                self._working_directory,
                (nothing, log, log),
                fresh=True,
            )
        until(self._is_ready, "the gateway is ready", 120)
        return self


def hold_conversations(gateway: Gateway) -> None:
    """Store conversations; the gateway is ended in both ways meanwhile, and then killed."""
    _first_day(gateway)
    assert gateway.stop() == 0
    gateway.start()
    _second_day(gateway)
    gateway.kill()


def seen(http: httpx.Client) -> Seen:
    """Return what readers see of every session."""
    found: Seen = {}
    listed = _get(http, "/sessions", limit=_PAGE)["sessions"]
    for session in sorted(listed, key=lambda one: str(one["id"])):
        path = f"/sessions/{session['id']}"
        found[session["id"]] = {
            "session": session,
            "messages": _get(http, f"{path}/messages", limit=_PAGE)["messages"],
            "events": _events(http, path),
        }
    return found


def _first_day(gateway: Gateway) -> None:
    _chat(gateway, "plain", "Hello!", user_id="alice", title="A title of its own")
    _chat(gateway, "plain", "What is 6 * 7?", user_id="alice", options={"thinking": True})
    _chat(gateway, "tools", "Use a tool", metadata={"project": "x", "n": 1}, options={"tool": True})
    _chat(gateway, "failed", "Fail", options={"fail": "broken"})
    _chat(gateway, "unicode", "Grüße, 你好, \u2028 and \U0001f600!")
    _post(gateway, "/sessions/plain/fork", {"new_id": "a-fork"})
    _chat(gateway, "a-fork", "And 7 * 8?")
    for name in ("merge-source", "merge-target"):
        _chat(gateway, name, f"I am {name}")
    _post(
        gateway,
        "/sessions/merge-target/merge",
        {"source_id": "merge-source"},
    )
    _chat(gateway, ARCHIVED, "To the shelf")
    _post(gateway, f"/sessions/{ARCHIVED}/archive", {})
    _chat(gateway, "closed", "Goodbye")
    _post(gateway, "/sessions/closed/close", {})
    _chat(gateway, "gone", "Delete me")
    gateway.call("DELETE", "/sessions/gone")
    _put(gateway, "/sessions/plain/todo", {"content": "- [ ] water the flowers"})


def _second_day(gateway: Gateway) -> None:
    _chat(gateway, "plain", "Are you still there?", user_id="alice")
    _chat(gateway, "new", "Begun after a restart")
    if _has(gateway, "/files"):
        picture = {"file": ("a.txt", b"The text of a file.", "text/plain")}
        stored = gateway.call("POST", "/files", files=picture)
        part = [
            {"type": "text", "text": "See this"},
            {"type": "file", "file_id": stored["file_id"]},
        ]
        _chat(gateway, "with-a-file", {"role": "user", "content": part})
    if _has(gateway, "/sessions/{session_id}/inputs"):
        _chat(gateway, "asking", "May I?", options={"ask": True})
    if _has(gateway, "/sessions/{session_id}/regenerate"):
        _chat(gateway, "branches", "One")
        _post(gateway, "/sessions/branches/regenerate", {})
        _chat(gateway, "branches", "Two")


def _chat(gateway: Gateway, session_id: str, message: Any, **further: Any) -> None:
    body = {"session_id": session_id, "message": message, **further}
    gateway.call("POST", "/chat", json=body, headers={"Prefer": "wait=30"})


def _post(gateway: Gateway, path: str, body: Any) -> None:
    answer = gateway.http.post(path, json=body, headers={"Prefer": "wait=30"})
    assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"


def _put(gateway: Gateway, path: str, body: Any) -> None:
    answer = gateway.http.put(path, json=body)
    assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"


def _has(gateway: Gateway, path: str) -> bool:
    answer = gateway.http.get("/openapi.json")
    if not answer.is_success:
        return False
    return f"/api/v1{path}" in answer.json()["paths"]


def _events(http: httpx.Client, path: str) -> list[Any]:
    events: list[Any] = []
    after = "0"
    while True:
        page = _get(http, f"{path}/events", after=after, limit=_PAGE)
        events += page["events"]
        if not page["has_more"]:
            return events
        after = page["next"]


def _get(http: httpx.Client, path: str, **query: Any) -> Any:
    answer = http.get(path, params=query)
    assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
    return answer.json()
