"""Guessed or modified ids, cursors and positions, and those of other users."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.api.serving import Served, serving

KEY = {"Authorization": "Bearer operator"}
USERS = ("alice", "bob")


def as_user(user: str) -> dict[str, str]:
    return KEY | {"X-User-Id": user}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(api_keys=("operator",)) as running:
        for user in USERS:
            with running.client(headers=as_user(user)) as api:
                for number in range(6):
                    made = {"id": f"{user}-{number}", "title": f"{user} {number}"}
                    assert api.post("/sessions", json=made).status_code == 201
                turn: dict[str, Any] = {
                    "session_id": f"{user}-0",
                    "run_id": f"{user}-run",
                    "message": user,
                }
                turn |= {"options": {"delay_ms": 0}}
                assert api.post("/chat", json=turn, headers={"Prefer": "wait=30"}).is_success
                for number in (4, 5):
                    assert api.post(f"/sessions/{user}-{number}/archive").is_success
        yield running


@pytest.fixture
def bob(served: Served) -> Iterator[httpx.Client]:
    with served.client(headers=as_user("bob")) as api:
        yield api


def shown(answer: httpx.Response) -> set[str]:
    """Return the ids of a list, whichever it is."""
    document = answer.json()
    sessions = document.get("sessions") or [one["session"] for one in document.get("archives", [])]
    return {session["id"] for session in sessions}


@pytest.mark.parametrize("path", ["/sessions", "/archive"])
@pytest.mark.parametrize("sort_by", ["title", "created_at", "message_count"])
def test_another_users_cursor_shows_only_the_callers_own_sessions(
    served: Served, bob: httpx.Client, path: str, sort_by: str
) -> None:
    query = {"limit": "1", "sort_by": sort_by, "sort_order": "asc"}
    with served.client(headers=as_user("alice")) as alice:
        cursor = alice.get(path, params=query).json()["next_cursor"]
    answer = bob.get(path, params=query | {"cursor": cursor, "limit": "100"})
    assert answer.status_code == 200
    assert all(name.startswith("bob-") for name in shown(answer))
    assert answer.json().get("total") in {None, 4, 2}


@pytest.mark.parametrize("path", ["/sessions", "/archive"])
def test_a_modified_cursor_shows_nothing_more_and_causes_no_error(
    bob: httpx.Client, path: str
) -> None:
    query = {"limit": "1", "sort_by": "title", "sort_order": "asc"}
    cursor = bob.get(path, params=query).json()["next_cursor"]
    decoded = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    parts = json.loads(decoded)
    changed = [
        *(cursor[:at] + "A" + cursor[at + 1 :] for at in range(len(cursor))),
        *(cursor[:at] for at in range(len(cursor))),
        cursor + "=",
        cursor + "AAAA",
        cursor * 2,
    ]
    values: list[Any] = [None, True, 0, -1, 2**63, 1e300, [], {}, "", "alice", "\uffff", "\x00"]
    for value in values:
        for place in range(len(parts)):
            forged = json.dumps([*parts[:place], value, *parts[place + 1 :]]).encode()
            changed.append(base64.urlsafe_b64encode(forged).decode().rstrip("="))
    for one in changed:
        answer = bob.get(path, params=query | {"cursor": one, "limit": "100"})
        assert answer.status_code in {200, 422}, one
        if answer.status_code == 200:
            assert all(name.startswith("bob-") for name in shown(answer)), one


def test_sessions_of_other_users_are_404_in_every_route(bob: httpx.Client) -> None:
    """The same answer to the byte, but for the name that was asked for."""
    paths = (
        "/sessions/{}",
        "/sessions/{}/messages",
        "/sessions/{}/events?after=0",
        "/sessions/{}/runs",
        "/sessions/{}/runs/alice-run",
        "/sessions/{}/connections",
        "/sessions/{}/export",
        "/sessions/{}/tree",
        "/sessions/{}/statistics",
        "/sessions/{}/diagnostics",
        "/sessions/{}/extensions",
        "/stream/{}?after=0",
        "/stream/{}?from=start",
        "/reconnect/{}?connection_id=c_1",
        "/archive/{}",
    )
    for path in paths:
        answers = [bob.get(path.format(name)) for name in ("alice-0", "alice-4", "nobody0")]
        assert [answer.status_code for answer in answers] == [404] * 3, path
        texts = {
            answer.text.replace(name, "ID")
            for answer, name in zip(answers, ("alice-0", "alice-4", "nobody0"), strict=True)
        }
        assert len(texts) == 1, texts
        assert len({tuple(sorted(set(answer.headers))) for answer in answers}) == 1


def test_positions_and_message_ids_of_another_session_reveal_nothing_of_it(
    served: Served, bob: httpx.Client
) -> None:
    with served.client(headers=as_user("alice")) as alice:
        position = alice.get("/sessions/alice-0").json()["position"]
        message = alice.get("/sessions/alice-0/messages").json()["messages"][0]["id"]
    epoch, _, _ = position.partition("-")
    own = bob.get("/sessions/bob-0").json()["position"]
    for after in (position, f"{epoch}-1", f"{own.partition('-')[0]}-999999", f"{2**62}-1"):
        answer = bob.get("/sessions/bob-0/events", params={"after": after})
        # Two sessions made in one millisecond have one epoch, but never one log.
        assert answer.status_code in {200, 410, 422}
        assert "alice" not in answer.text
    for name in ("before", "after"):
        answer = bob.get("/sessions/bob-0/messages", params={name: message})
        assert answer.status_code in {404, 422}
        assert "alice" not in answer.text
    fork = bob.post("/sessions/bob-0/fork", json={"from_message_id": message})
    assert fork.status_code == 404
    merge = bob.post("/sessions/bob-0/merge", json={"source_id": "alice-0"})
    assert merge.status_code == 404
