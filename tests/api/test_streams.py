"""Streams over a real socket: their bytes, their headers, their ends."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from bamboo_gateway.domain.errors import Unavailable
from bamboo_gateway.sessions.streaming.subscription import Subscription
from tests.api.keyed import LateClock
from tests.api.serving import SECONDS, Served, frames_of, raw, refused, serving
from tests.faults.wire import rest_of, unchunked
from tests.support.logs import captured_logs
from tests.support.waiting import until


class Watcher:
    """Reads a stream in a thread until it ends."""

    def __init__(self, served: Served, path: str, headers: dict[str, str] | None = None) -> None:
        self.text = ""
        self.headers: httpx.Headers = httpx.Headers()
        self.opened = threading.Event()
        self.changed = threading.Condition()
        self._served = served
        self._request = (path, headers or {})
        self._response: httpx.Response | None = None
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        assert self.opened.wait(SECONDS)

    def _read(self) -> None:
        path, headers = self._request
        with (
            self._served.client() as client,
            client.stream("GET", path, headers=headers) as response,
        ):
            self.headers = response.headers
            for chunk in response.iter_text():
                with self.changed:
                    self.text += chunk
                    self.changed.notify_all()
                self.opened.set()
        self.opened.set()

    @property
    def frames(self) -> list[tuple[str | None, dict[str, Any]]]:
        return frames_of(self.text)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for _, event in self.frames]

    def until(self, what: str) -> None:
        """Wait until this has come."""
        with self.changed:
            assert self.changed.wait_for(lambda: what in self.text, SECONDS), self.text

    def until_frame(self, what: str) -> None:
        """Wait until the frame that has this has come whole."""
        self.until(what)
        with self.changed:
            at = self.text.index(what)
            whole = self.changed.wait_for(lambda: self.text.find("\n\n", at) >= 0, SECONDS)
            assert whole, self.text[at:]

    def ended(self) -> None:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), "the stream did not end"


def custom(api: httpx.Client, session_id: str, name: str, value: Any = None) -> dict[str, Any]:
    event = {"type": "custom", "name": name, "value": value}
    answer = api.post(f"/sessions/{session_id}/events", json=event)
    assert answer.status_code == 201
    appended: dict[str, Any] = answer.json()
    return appended


def connections(api: httpx.Client, session_id: str) -> set[str]:
    """Return the ids of the open connections."""
    found = api.get(f"/sessions/{session_id}/connections").json()["connections"]
    return {one["connection_id"] for one in found}


@contextmanager
def watching(served: Served, session_id: str, query: str = "") -> Iterator[Watcher]:
    """Watches a session; deletes it at the end, which ends the stream."""
    watcher = Watcher(served, f"/stream/{session_id}{query}")
    try:
        yield watcher
    finally:
        with served.client() as client:
            client.delete(f"/sessions/{session_id}")
        watcher.ended()


@pytest.mark.parametrize("asked", ["HTTP/1.0", "HTTP/1.1\r\nConnection: close"])
def test_a_stream_over_http_1_0_has_no_chunks_and_ends_with_its_connection(
    served: Served, asked: str
) -> None:
    """nginx speaks HTTP/1.0 to what is behind it if nobody tells it otherwise."""
    body = b'{"message": "hi", "options": {"delay_ms": 0}}'
    head = (
        f"POST /api/v1/chat {asked}\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    received = raw(served.port, head.encode() + body)
    answered, _, content = received.partition(b"\r\n\r\n")
    lines = answered.decode().lower().split("\r\n")
    assert lines[0] == "http/1.1 200 ok"
    assert [line for line in lines if line.startswith("connection:")] == ["connection: close"]
    is_chunked = "transfer-encoding: chunked" in lines
    assert is_chunked == ("1.1" in asked)
    assert content.startswith(b"id: ") != is_chunked
    text = (unchunked(content) if is_chunked else content).decode()
    kinds = [event["type"] for _, event in frames_of(text)]
    assert (kinds[0], kinds[-1]) == ("open", "complete")
    assert text.endswith("\n\n")


def test_an_answer_over_http_1_0_keeps_its_content_length(served: Served, session_id: str) -> None:
    """And what has none, like an export, is whole nevertheless."""
    for path in (f"/sessions/{session_id}", f"/sessions/{session_id}/export"):
        target = f"GET /api/v1{path} HTTP/1.0\r\nHost: localhost\r\n\r\n"
        head, _, body = raw(served.port, target.encode()).partition(b"\r\n\r\n")
        with served.client() as api:
            answer = api.get(path)
        assert body == answer.content
        length = f"content-length: {len(body)}".encode() in head.lower()
        assert length == ("content-length" in answer.headers)
        assert b"transfer-encoding" not in head.lower()


def test_a_stream_begins_with_open_and_then_shows_new_events(
    served: Served, api: httpx.Client, session_id: str
) -> None:
    with watching(served, session_id) as watcher:
        assert watcher.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert watcher.headers["cache-control"] == "no-cache, no-transform"
        assert watcher.headers["x-accel-buffering"] == "no"
        place = custom(api, session_id, "now")["last"]
        watcher.until_frame('"now"')
        first, second = watcher.frames
        assert first[1]["type"] == "open"
        assert first[1]["connection_id"] == watcher.headers["connection-id"]
        assert first[0] == first[1]["position"]
        assert second[0] == place
        assert watcher.text.startswith(f"id: {first[0]}\nretry: 1000\ndata: ")
        assert "\r" not in watcher.text
    assert watcher.events[-1] == {"type": "goodbye", "reason": "deleted", "retry": False}


def test_a_stream_begins_after_the_latest_position_of_the_request(
    served: Served, api: httpx.Client, session_id: str
) -> None:
    places = [custom(api, session_id, f"n{number}")["last"] for number in range(4)]
    api.post(f"/sessions/{session_id}/close")

    def seen(query: str, last_id: str | None = None) -> list[str]:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        text = api.get(f"/stream/{session_id}{query}", headers=headers).text
        return [event["name"] for _, event in frames_of(text) if event["type"] == "custom"]

    assert seen("?from=start") == ["n0", "n1", "n2", "n3"]
    assert seen(f"?after={places[1]}") == ["n2", "n3"]
    assert seen("?after=2") == ["n1", "n2", "n3"]
    assert seen(f"?after={places[0]}", places[2]) == ["n3"]
    assert seen(f"?after={places[2]}", places[0]) == ["n3"]
    assert seen("", places[1]) == ["n2", "n3"]
    assert seen("?from=start", places[2]) == ["n3"]
    # The header's stand-in in the URL; where both came the header is the newer one.
    assert seen(f"?from=start&lastEventId={places[2]}") == ["n3"]
    assert seen(f"?lastEventId={places[0]}", places[1]) == ["n2", "n3"]


@pytest.mark.parametrize(
    ("last_id", "reason"),
    [
        ("nonsense", "unknown_position"),
        ("1-", "unknown_position"),
        ("x" * 5000, "unknown_position"),
        ("ü", "unknown_position"),
        ("1-1", "epoch_changed"),
    ],
)
def test_a_last_event_id_that_cannot_be_served_is_answered_with_reset(
    api: httpx.Client, session_id: str, last_id: str, reason: str
) -> None:
    custom(api, session_id, "x")
    api.post(f"/sessions/{session_id}/close")
    headers = {b"Last-Event-ID": last_id.encode()}
    frames = frames_of(api.get(f"/stream/{session_id}", headers=headers).text)
    assert [event["type"] for _, event in frames] == ["open", "reset", "goodbye"]
    assert frames[1][1]["reason"] == reason
    assert frames[1][0] == frames[1][1]["position"]


def test_a_position_beyond_the_end_is_answered_with_reset(
    api: httpx.Client, session_id: str
) -> None:
    api.post(f"/sessions/{session_id}/close")
    frames = frames_of(api.get(f"/stream/{session_id}?after=9999").text)
    assert frames[1][1]["type"] == "reset"


def test_a_stream_without_anything_to_wait_for_is_204(api: httpx.Client, session_id: str) -> None:
    answer = api.get(f"/stream/{session_id}?until=complete")
    assert (answer.status_code, answer.content) == (204, b"")
    position = api.post(f"/sessions/{session_id}/close").json()["position"]
    assert api.get(f"/stream/{session_id}?after={position}").status_code == 204


def test_until_complete_ends_with_the_terminal_event(api: httpx.Client, free_id: str) -> None:
    body = {"message": "x", "session_id": free_id, "options": {"delay_ms": 0}}
    turn = api.post("/chat", json=body).json()
    url = turn["stream_url"].removeprefix("/api/v1") + "&until=complete"
    frames = frames_of(api.get(url).text)
    for _ in range(2):
        assert frames_of(api.get(url).text)[1:] == frames[1:]
        assert frames[-1][1]["type"] == "complete"
        assert frames[-1][1]["run_id"] == turn["run_id"]
    last = frames[-1][0]
    assert last is not None
    assert api.get(url, headers={"Last-Event-ID": last}).status_code == 204


def test_opening_a_stream_starts_no_run(served: Served, api: httpx.Client, session_id: str) -> None:
    for _ in range(3):
        api.get(f"/stream/{session_id}?until=complete")
    assert api.get(f"/sessions/{session_id}/runs").json()["runs"] == []


def test_connections_are_listed_and_can_be_ended_one_by_one(
    served: Served, api: httpx.Client, session_id: str
) -> None:
    with (
        watching(served, session_id, "?connection_id=tab-1") as first,
        watching(served, session_id, "?connection_id=tab-2"),
    ):
        found = api.get(f"/sessions/{session_id}/connections").json()["connections"]
        assert {one["connection_id"] for one in found} == {"tab-1", "tab-2"}
        assert found[0]["remote_address"].startswith("127.0.0.1:")
        assert found[0]["lag_events"] == 0
        path = f"/sessions/{session_id}/connections"
        assert api.delete(f"{path}/tab-1").status_code == 204
        first.ended()
        assert first.events[-1]["type"] == "goodbye"
        # It may be on its way out.
        until(lambda: api.delete(f"{path}/tab-1").status_code != 204, "it is out")
        refused(api.delete(f"{path}/tab-1"), 404, "connection-not-found")
        left = api.get(path).json()["connections"]
        assert [one["connection_id"] for one in left] == ["tab-2"]


def test_a_newer_connection_with_the_same_id_supersedes_the_older_one(
    served: Served, api: httpx.Client, session_id: str
) -> None:
    old = Watcher(served, f"/stream/{session_id}?connection_id=tab")
    with watching(served, session_id, "?connection_id=tab") as new:
        old.ended()
        assert old.events[-1] == {"type": "goodbye", "reason": "superseded", "retry": False}
        found = api.get(f"/sessions/{session_id}/connections").json()["connections"]
        assert len(found) == 1
        custom(api, session_id, "still-there")
        new.until("still-there")


def test_connections_are_listed_in_pages(
    served: Served, api: httpx.Client, session_id: str
) -> None:
    path = f"/sessions/{session_id}/connections"
    with ExitStack() as open_streams:
        for name in "abc":
            query = f"?connection_id={name}"
            open_streams.enter_context(watching(served, session_id, query)).until("open")
        heard: list[str] = []
        page: dict[str, Any] = {"next_cursor": None, "has_more": True}
        while page["has_more"]:
            after = {"cursor": page["next_cursor"]} if page["next_cursor"] else {}
            page = api.get(path, params={"limit": 1} | after).json()
            heard += [one["connection_id"] for one in page["connections"]]
        assert heard == ["a", "b", "c"]
        for limit in ("0", "1001", "x"):
            refused(api.get(path, params={"limit": limit}), 422, "invalid")
        refused(api.get(path, params={"cursor": "x"}), 422, "invalid-cursor")


def test_a_disconnected_client_is_no_longer_listed(
    served: Served, api: httpx.Client, session_id: str
) -> None:
    with api.stream("GET", f"/stream/{session_id}") as answer:
        chunks = answer.iter_raw()
        assert next(chunks)
        assert connections(api, session_id)
    until(lambda: not connections(api, session_id), "it is forgotten")
    assert api.get(f"/sessions/{session_id}").json()["state"] == "disconnected"


def test_reconnect_shows_the_whole_run_that_was_active_at_the_disconnect(
    served: Served, api: httpx.Client, free_id: str
) -> None:
    body = {"message": "x", "session_id": free_id, "options": {"delay_ms": 0, "hold": "middle"}}
    api.post("/chat", json=body)
    with api.stream("GET", f"/stream/{free_id}?from=start&connection_id=tab") as answer:
        text = ""
        for chunk in answer.iter_text():
            text += chunk
            if '"token"' in text:
                break
    again = Watcher(served, f"/reconnect/{free_id}?connection_id=tab")
    again.until_frame('"token"')
    types = [event["type"] for event in again.events]
    assert types[0] == "open"
    assert "run_start" in types
    api.post(f"/stop/{free_id}")
    api.post(f"/sessions/{free_id}/close")
    again.ended()
    unknown = api.get(f"/reconnect/{free_id}?connection_id=never-seen&from=start")
    assert unknown.status_code == 200


def test_heartbeats_keep_a_silent_stream_alive_without_a_blank_line() -> None:
    with serving(heartbeat_interval_seconds=0.15) as served, served.client() as api:
        api.post("/sessions", json={"id": "s"})
        with watching(served, "s") as watcher:
            watcher.until(": ping\n: ping\n")
            assert len(watcher.frames) == 1
        api.post("/sessions", json={"id": "t"})
        with watching(served, "t", "?heartbeat=event") as watcher:
            watcher.until_frame('"heartbeat"')
            place, event = watcher.frames[1]
            assert event == {"type": "heartbeat"}
            assert place == watcher.frames[0][0]


def test_a_shutdown_says_goodbye() -> None:
    with serving() as served, served.client() as api:
        api.post("/sessions", json={"id": "s"})
        watcher = Watcher(served, "/stream/s")
        served.server.begin_exit()
        watcher.ended()
    assert watcher.events[-1] == {"type": "goodbye", "reason": "shutdown", "retry": True}


def test_a_client_that_reads_nothing_is_cut_and_delays_no_other() -> None:
    # Nothing but this clock makes a reader late: on a machine that stands still all of them are.
    clock = LateClock()
    with (
        serving(clock=clock, send_timeout_seconds=600, heartbeat_interval_seconds=1.5) as served,
        served.client() as api,
    ):
        api.post("/sessions", json={"id": "s"})
        with socket.socket() as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stuck.settimeout(SECONDS)
            stuck.connect(("127.0.0.1", served.port))
            path = b"/api/v1/stream/s?connection_id=stuck"
            stuck.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
            stuck.recv(100)
            watcher = Watcher(served, "/stream/s?connection_id=fast")
            for number in range(40):
                custom(api, "s", f"n{number}", "v" * 250_000)
            watcher.until('"n39"')
            assert connections(api, "s") == {"stuck", "fast"}
            channel = served.app.state.manager._channels.get("s")
            both = list(channel.connections.values())
            until(
                lambda: [one.id for one in both if one.sending_since is not None] == ["stuck"],
                "one takes nothing, the other has taken all",
            )
            clock.ahead_ms = 601_000
            until(lambda: connections(api, "s") == {"fast"}, "it is cut")
            assert b'"n39"' not in rest_of(stuck)
        api.delete("/sessions/s")
        watcher.ended()


def test_the_number_of_streams_is_bounded() -> None:
    with serving(max_connections=1) as served, served.client() as api:
        api.post("/sessions", json={"id": "s"})
        with watching(served, "s"):
            refused(api.get("/stream/s"), 503, "too-many-connections")


@pytest.mark.parametrize(
    ("error", "level", "line"),
    [
        (RuntimeError("no disk"), "error", "a stream failed"),
        (Unavailable("The database is away."), "warning", "a stream cannot go on here"),
    ],
)
def test_an_error_in_a_stream_is_a_goodbye_and_a_log_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, level: str, line: str
) -> None:
    real_next = Subscription.next

    async def broken(_: Subscription) -> bytes:
        monkeypatch.setattr(Subscription, "next", real_next)
        raise error

    with serving(heartbeat_interval_seconds=0.15) as served, served.client() as api:
        api.post("/sessions", json={"id": "s"})
        with watching(served, "s") as watcher, captured_logs() as logs:
            custom(api, "s", "seen")
            watcher.until_frame('"seen"')
            # What it asks for after its next heartbeat.
            monkeypatch.setattr(Subscription, "next", broken)
            watcher.ended()
    assert [event["type"] for event in watcher.events] == ["open", "custom", "goodbye"]
    assert watcher.events[-1]["retry"]
    failures = [entry["event"] for entry in logs if entry["log_level"] in {"error", level}]
    assert failures == [line]


def test_a_stream_sends_the_stored_bytes(
    served: Served, api: httpx.Client, session_id: str
) -> None:
    value = {"text": "line\nbreak \u2028 \u0000 🎋", "list": [1, 2.5, None, True]}
    custom(api, session_id, "x", value)
    api.post(f"/sessions/{session_id}/close")
    text = api.get(f"/stream/{session_id}?from=start").text
    page = api.get(f"/sessions/{session_id}/events").text
    events = [event for _, event in frames_of(text) if "seq" in event]
    assert events[1]["value"] == value
    assert json.loads(page)["events"] == events
    for line in text.split("\n"):
        if line.startswith("data: ") and '"seq"' in line:
            assert line[6:] in page
