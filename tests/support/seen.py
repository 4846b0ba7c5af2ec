"""What people see of sessions, by every way there is to look at them, held against one another.

The log is the truth, and people read what is derived from it: pages, exports and their imports,
forks, runs, statistics, lists. The check shares no code with the program.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from tests.processes import REPOSITORY, environment
from tests.support import prefork

Event = dict[str, Any]
Writers = Sequence[Sequence[str]]

PAGE = 1000
_STATUS_OF = {"complete": "completed", "cancelled": "cancelled", "error": "failed"}
_DOCTOR_SECONDS = 100


def check_what_people_see(
    http: httpx.Client,
    acknowledged: Mapping[str, Writers],
    *,
    copies: bool = True,
) -> None:
    """Check sessions that nobody writes to at the moment.

    Args:
        http: A client for paths below `/api/v1`.
        acknowledged: The sessions that have to be there. Of each the texts of the messages that it
            has acknowledged, those of each writer in the order in which it was told.
        copies: Whether the sessions are exported, imported again and forked. The copies are
            deleted; the forks stand in the logs.
    """
    listed = sessions_of(http)
    for session_id, writers in acknowledged.items():
        assert session_id in listed, f"{session_id} is not listed"
        said = check_session(http, session_id, writers)
        session = call(http, "GET", f"/sessions/{session_id}")
        differs = {
            name: (value, session.get(name))
            for name, value in listed[session_id].items()
            if name not in {"state", "last_activity_at"} and value != session.get(name)
        }
        # A stream that was open until now is activity.
        assert listed[session_id]["last_activity_at"] <= session["last_activity_at"]
        assert not differs, f"{session_id} in the list and by itself: {differs}"
        if copies:
            check_copies(http, session_id, said)


def check_session(http: httpx.Client, session_id: str, writers: Writers = ()) -> list[Event]:
    """Check one session; return its messages."""
    path = f"/sessions/{session_id}"
    log = events_of(http, session_id)
    assert all(one["seq"] < next_one["seq"] for one, next_one in pairwise(log))
    said = messages_in(log)
    ids = [event["message_id"] for event in log if event["type"] == "message"]
    if any(event.get("replaces") for event in log):
        ids = [message["id"] for message in said]
    assert not (Counter(ids) - Counter(set(ids))), f"twice in the log of {session_id}"
    session = call(http, "GET", path, params={"include_messages": "true"})
    assert session["messages"] == said
    assert session["message_count"] == len(said)
    assert int(session["position"].split("-")[1]) == log[-1]["seq"]
    for limit in (PAGE, len(said) // 7 + 1):
        assert pages_of(http, session_id, limit, "asc") == said
        assert pages_of(http, session_id, limit, "desc") == said[::-1]
    check_branches(http, session_id, log)
    check_runs(http, session_id, log)
    check_statistics(http, session_id, log, said)
    check_kept(said, writers)
    return said


def check_kept(said: list[Event], writers: Writers) -> None:
    """Check that each acknowledged message is there once, and each writer's in their order."""
    places: dict[str, list[int]] = {}
    for place, message in enumerate(said):
        if isinstance(message["content"], str):
            places.setdefault(message["content"], []).append(place)
    for texts in writers:
        found = [places.get(text, []) for text in texts]
        lost = [text for text, place in zip(texts, found, strict=True) if not place]
        assert not lost, f"acknowledged and lost: {lost[:5]} of {len(lost)}"
        assert all(len(place) == 1 for place in found), "acknowledged once and there twice"
        assert found == sorted(found)


def check_branches(http: httpx.Client, session_id: str, log: list[Event]) -> None:
    """Check each branch against the log."""
    tree = Tree(log)
    listed = call(http, "GET", f"/sessions/{session_id}/branches")["branches"]
    assert {one["branch_id"]: one["tip_message_id"] for one in listed} == tree.tips
    assert [one["branch_id"] for one in listed if one["current"]] == [tree.current]
    for branch in listed:
        path = tree.path(branch["branch_id"])
        assert branch["message_count"] == len(path)
        if len(listed) > 1:
            asked = {"branch": branch["branch_id"], "limit": str(PAGE)}
            page = call(http, "GET", f"/sessions/{session_id}/messages", params=asked)
            assert page["messages"] == path[:PAGE]


def check_runs(http: httpx.Client, session_id: str, log: list[Event]) -> None:
    """Check the list of runs, from either end, against the log."""
    runs = runs_in(log)
    for order in ("asc", "desc"):
        listed: list[Event] = []
        cursor: dict[str, str] = {}
        while True:
            asked = {"limit": str(len(runs) // 3 + 1), "order": order} | cursor
            page = call(http, "GET", f"/sessions/{session_id}/runs", params=asked)
            listed += page["runs"]
            if not page["has_more"]:
                break
            cursor = {"cursor": page["next_cursor"]}
        seen = {run["run_id"]: (run["status"], run["message_ids"]) for run in listed}
        assert len(seen) == len(listed)
        assert list(seen.items()) == list(runs.items())[:: 1 if order == "asc" else -1]


def check_statistics(
    http: httpx.Client, session_id: str, log: list[Event], said: list[Event]
) -> None:
    """Check what is counted against what is there."""
    counted = call(http, "GET", f"/sessions/{session_id}/statistics")
    roles = Counter(message["role"] for message in said)
    assert counted["total_messages"] == len(said)
    for role in ("user", "assistant", "tool"):
        assert counted[f"{role}_messages"] == roles[role]
    assert counted["tool_calls"] == sum(len(one.get("tool_calls") or ()) for one in said)
    runs = Counter(status for status, _ in runs_in(log).values())
    assert {status: n for status, n in counted["runs"].items() if n} == dict(runs)


def check_copies(http: httpx.Client, session_id: str, said: list[Event]) -> None:
    """Check that an export, its import and a fork say the same; the copies are deleted again."""
    exported = http.get(f"/sessions/{session_id}/export", params={"format": "json"})
    assert exported.is_success, exported.text
    document = json.loads(exported.content)
    if "branches" not in document:
        assert bare(document["messages"]) == bare(said)
    imported = http.post("/import", params={"id": "new"}, content=exported.content)
    assert imported.status_code == 201, imported.text
    assert imported.json()["notes"] == []
    forked = call(http, "POST", f"/sessions/{session_id}/fork", json={})
    assert not forked.get("cut_moved"), forked
    for copy in (imported.json()["id"], forked["id"]):
        assert bare(check_session(http, copy)) == bare(said)
        assert http.delete(f"/sessions/{copy}").status_code == 204


def check_files(data_dir: Path, storage_url: str = "jsonl:") -> None:
    """Check, while no gateway runs, that `bamboo doctor` finds nothing wrong."""
    if storage_url.startswith("postgresql"):
        return  # there is no file, and PostgreSQL has programs of its own to check its tables
    settings = environment(BAMBOO_STORAGE_URL=storage_url)
    arguments = ["doctor", "--json", "--data-dir", str(data_dir)]
    done = prefork.run(arguments, settings, REPOSITORY, timeout=_DOCTOR_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr


def messages_in(log: list[Event]) -> list[Event]:
    """Fold the messages of the current branch out of a log."""
    tree = Tree(log)
    return tree.path(tree.current)


class Tree:
    """The messages of a log with their places, folded by themselves."""

    def __init__(self, log: list[Event]) -> None:
        self._parents: dict[str, str | None] = {}
        self._messages: dict[str, Event] = {}
        self.tips: dict[str, str | None] = {"main": None}
        self.current = "main"
        for event in log:
            self._take(event)

    def _take(self, event: Event) -> None:
        match event["type"]:
            case "message":
                message, parent = event["message"], self.tips[self.current]
                place = {"parent_id": parent, "branch_id": self.current}
                assert {**message, **place} == {**place, **message}
                self._messages[message["id"]] = {**message, **place}
                self._parents[message["id"]] = parent
                self.tips[self.current] = message["id"]
            case "branch_started":
                self.current = event["branch_id"]
                self.tips[self.current] = event["from_message_id"]
            case "branch_selected":
                self.current = event["branch_id"]
            case "session_merged" if event.get("replaces"):
                self.tips, self.current = {"main": None}, "main"
            case _:
                pass

    def path(self, branch_id: str) -> list[Event]:
        """Return the messages of a branch's path, as readers see them."""
        path: list[Event] = []
        at = self.tips[branch_id]
        while at is not None:
            path.append(self._shown(at))
            at = self._parents[at]
        return path[::-1]

    def _shown(self, message_id: str) -> Event:
        parent = self._parents[message_id]
        siblings = [one for one, above in self._parents.items() if above == parent]
        message = self._messages[message_id]
        return message if len(siblings) == 1 else message | {"siblings": siblings}


def bare(messages: list[Event]) -> list[Event]:
    """Return messages without their places in the tree."""
    place = ("parent_id", "branch_id", "siblings")
    return [{name: one[name] for name in one if name not in place} for one in messages]


def runs_in(log: list[Event]) -> dict[str, tuple[str, list[str]]]:
    """Fold the runs out of a log: of each how it stands, and its input, as they were asked for."""
    runs: dict[str, tuple[str, list[str]]] = {}
    for event in log:
        run_id: str = event.get("run_id", "")
        match event["type"]:
            case "run_queued":
                said = [message["id"] for message in event["messages"]]
                again = event.get("branch_from", {}).get("message_id")
                runs[run_id] = ("queued", said or [again])
            case "run_start":
                assert runs.get(run_id, ("queued",))[0] == "queued"
                runs[run_id] = ("running", event["message_ids"])
            case "complete" | "cancelled" | "error" as kind:
                assert runs[run_id][0] in {"queued", "running"}, f"{run_id} ends twice"
                status = _STATUS_OF[kind]
                if event.get("code") == "interrupted":
                    status = "interrupted"
                runs[run_id] = (status, runs[run_id][1])
            case _:
                pass
    return runs


def call(http: httpx.Client, method: str, path: str, **request: Any) -> Any:
    """Return the JSON of an answer that must be a good one."""
    response = http.request(method, path, **request)
    assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
    return response.json()


def events_of(http: httpx.Client, session_id: str) -> list[Event]:
    """Read a session's whole log."""
    found: list[Event] = []
    after = "0"
    while True:
        asked = {"after": after, "limit": str(PAGE)}
        page = call(http, "GET", f"/sessions/{session_id}/events", params=asked)
        found += page["events"]
        if not page["has_more"]:
            return found
        after = page["next"]


def pages_of(http: httpx.Client, session_id: str, limit: int, order: str) -> list[Event]:
    """Read a session's messages page by page, to an end that has to come."""
    return list(_messages(http, session_id, limit, order))


def _messages(http: httpx.Client, session_id: str, limit: int, order: str) -> Iterator[Event]:
    cursor: dict[str, str] = {}
    cursors: set[str] = set()
    while True:
        asked = {"limit": str(limit), "order": order} | cursor
        page = call(http, "GET", f"/sessions/{session_id}/messages", params=asked)
        yield from page["messages"]
        if not page["has_more"]:
            return
        assert page["next_cursor"] not in cursors, "the pages go in a circle"
        cursors.add(page["next_cursor"])
        cursor = {"after" if order == "asc" else "before": page["next_cursor"]}


def sessions_of(http: httpx.Client) -> dict[str, Event]:
    """List all sessions that are not archived, each of which has to be there once."""
    listed: dict[str, Event] = {}
    cursor: dict[str, str] = {}
    while True:
        asked = {"limit": "100", "sort_by": "created_at", "sort_order": "asc"} | cursor
        page = call(http, "GET", "/sessions", params=asked)
        for session in page["sessions"]:
            assert session["id"] not in listed, f"{session['id']} is listed twice"
            listed[session["id"]] = session
        if not page["has_more"]:
            assert len(listed) == page["total"]
            return listed
        cursor = {"cursor": page["next_cursor"]}
