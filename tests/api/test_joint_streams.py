"""Several sessions over one connection, and changes, over a real socket."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from jsonschema_rs import Draft202012Validator
from typing_extensions import override

from tests.api.serving import CONTRACT, SECONDS, Served, refused, serving
from tests.api.test_streams import Watcher, custom
from tests.api.users import serving_users, user
from tests.support.frames import parse_frames

_CHANGE = Draft202012Validator(
    {
        "$ref": "#/components/schemas/ChangeEvent",
        "components": CONTRACT.document["components"],
    }
)


class JointWatcher(Watcher):
    """Reads a stream of several sessions, and checks each frame."""

    @property
    @override
    def frames(self) -> list[tuple[str | None, dict[str, Any]]]:
        return checked(self.text)


class ChangesWatcher(Watcher):
    """Reads a stream of changes, and checks each frame."""

    @property
    @override
    def frames(self) -> list[tuple[str | None, dict[str, Any]]]:
        frames = parse_frames(whole(self.text))[0]
        for frame in frames:
            _CHANGE.validate(frame.data)
        return [(frame.id, frame.data) for frame in frames]


def checked(text: str) -> list[tuple[str | None, dict[str, Any]]]:
    """Return the frames of a joint stream, each of which is as the document says."""
    frames = parse_frames(whole(text))[0]
    for frame in frames:
        event = {**frame.data}
        if event["type"] not in {"open", "heartbeat"}:
            del event["session_id"]  # beside the event's own members
        CONTRACT.check_event(event)
    return [(frame.id, frame.data) for frame in frames]


def whole(text: str) -> bytes:
    return text[: text.rfind("\n\n") + 2].encode()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(heartbeat_interval_seconds=0.2) as running:
        yield running


def make(api: httpx.Client, *names: str) -> None:
    for name in names:
        assert api.post("/sessions", json={"id": name}).status_code == 201


def test_a_browsers_reconnect_goes_on_after_its_last_id(served: Served):
    """R2: EventSource repeats its URL and adds the header."""
    with served.client() as api:
        make(api, "ja", "jb")
        path = "/stream?session_id=ja&session_id=jb&from=start&heartbeat=event"
        watcher = JointWatcher(served, path)
        custom(api, "ja", "one")
        watcher.until_frame('"one"')
        cursor = next(i for i, event in watcher.frames if event.get("name") == "one")
        custom(api, "jb", "two")
        watcher.until_frame('"two"')
        assert cursor is not None
        again = JointWatcher(served, path, {"Last-Event-ID": cursor})
        again.until_frame('"two"')
        kinds = [event["type"] for event in again.events if event["type"] != "heartbeat"]
        assert kinds == ["open", "open", "custom"]
        again.until_frame("heartbeat")
        assert again.headers["content-type"].startswith("text/event-stream")
        assert again.headers["connection-id"] == again.events[0]["connection_id"]
        api.delete("/sessions/ja")
        api.delete("/sessions/jb")
        watcher.ended()
        again.ended()
        ends = [event for event in watcher.events if event["type"] == "goodbye"]
        assert {event["session_id"] for event in ends} == {"ja", "jb"}


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("session_id=a&session_id=a", "invalid"),
        ("session_id=a&until=complete", "invalid"),
        ("session_id=a&run_id=r", "invalid"),
        ("", "invalid"),
        ("&".join(f"session_id=s{number}" for number in range(33)), "invalid"),
        ("session_id=a@nonsense", "invalid-position"),
        ("session_id=a&after=nonsense", "invalid-position"),
        ("session_id=a%20b", "invalid-id"),
        ("session_id=a&connection_id=%20", "invalid-id"),
    ],
)
def test_what_a_joint_stream_cannot_do_is_refused(served: Served, query: str, code: str):
    with served.client() as api:
        refused(api.get(f"/stream?{query}"), 422, code)


def test_a_ticket_opens_its_own_session_in_a_joint_stream():
    with (
        serving_users() as served,
        user(served, "alice") as alice,
        user(served, "alice", only_session="mine") as ticket,
    ):
        make(alice, "mine", "other")
        with ticket.stream("GET", "/stream?session_id=other&session_id=mine") as response:
            assert response.status_code == 200
            text = next(response.iter_text())
        told = {event["session_id"]: event["type"] for _, event in checked(text)}
        assert told == {"mine": "open", "other": "goodbye"}


@contextmanager
def reading_nothing(served: Served, path: str) -> Iterator[socket.socket]:
    """Ask for a stream, and read none of it."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=SECONDS) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(f"GET /api/v1{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        yield client


def test_a_client_that_reads_nothing_of_many_sessions_is_closed_and_delays_nobody():
    """R7, R11: 32 sessions with bursts beside a stalled reader."""
    with serving(send_timeout_seconds=1) as served, served.client() as api:
        names = [f"s{number}" for number in range(32)]
        make(api, *names)
        query = "&".join(f"session_id={name}" for name in names)
        with reading_nothing(served, f"/stream?{query}"):
            watcher = JointWatcher(served, f"/stream?{query}")
            watcher.until('"s31"')
            big: list[dict[str, Any]] = [
                {"type": "custom", "name": "n", "value": "x" * 20_000}
            ] * 10
            for name in names:
                assert api.post(f"/sessions/{name}/events", json=big).status_code == 201
                custom(api, name, f"last-{name}")
            for name in names:
                watcher.until_frame(f'"last-{name}"')
            for _ in range(100):
                metrics = api.get("/metrics").text
                if "bamboo_streams_slow_total 1" in metrics:
                    break
                for name in names[:4]:
                    api.post(f"/sessions/{name}/events", json=big)
            else:
                raise AssertionError("the stalled client was not closed")
        for name in names:
            api.delete(f"/sessions/{name}")
        watcher.ended()


# -- changes --------------------------------------------------------------------------------------


def test_changes_in_pages_as_a_long_poll_and_as_a_stream(served: Served):
    with served.client() as api:
        start = api.get("/changes").json()
        assert (start["changes"], start["has_more"]) == ([], False)
        make(api, "ca", "cb", "cc")
        page = api.get("/changes", params={"after": start["next"], "limit": 2}).json()
        assert [one["session_id"] for one in page["changes"]] == ["ca", "cb"]
        assert page["has_more"]
        waited = api.get("/changes", params={"after": page["next"], "wait": 30}).json()
        assert [one["session_id"] for one in waited["changes"]] == ["cc"]
        stream = {"Accept": "text/event-stream"}
        watcher = ChangesWatcher(served, f"/changes?after={page['next']}", stream)
        watcher.until_frame('"cc"')
        api.delete("/sessions/ca")
        watcher.until_frame("session_gone")
        resumed = ChangesWatcher(
            served, "/changes", {**stream, "Last-Event-ID": watcher.frames[1][0] or ""}
        )
        resumed.until_frame("session_gone")
        assert [event["type"] for event in resumed.events][:2] == ["open", "session_gone"]
        for each in (watcher, resumed):
            assert each.events[0].keys() == {"type", "connection_id"}


def test_a_cursor_of_changes_that_cannot_be_served(served: Served):
    """R4: 422 for what is none, `reset` for one of another store."""
    with served.client() as api, serving() as other, other.client() as foreign:
        refused(api.get("/changes?after=nonsense"), 422, "invalid-cursor")
        cursor = foreign.get("/changes").json()["next"]
        page = api.get("/changes", params={"after": cursor}).json()
        assert page["changes"] == [{"type": "reset", "reason": "unknown_position"}]
        make(api, "after-reset")
        told = api.get("/changes", params={"after": page["next"]}).json()["changes"]
        assert [one["session_id"] for one in told] == ["after-reset"]
        stream = {"Accept": "text/event-stream"}
        for last in (cursor, "nonsense"):
            watcher = ChangesWatcher(served, "/changes", {**stream, "Last-Event-ID": last})
            watcher.until_frame("reset")
            assert json.dumps(watcher.events[1]) == json.dumps(page["changes"][0])


def test_streams_of_changes_end_with_the_gateway():
    with serving() as served:
        watcher = ChangesWatcher(served, "/changes", {"Accept": "text/event-stream"})
        watcher.until_frame("open")
    watcher.ended()
    assert watcher.events[-1] == {"type": "goodbye", "reason": "shutdown", "retry": True}
