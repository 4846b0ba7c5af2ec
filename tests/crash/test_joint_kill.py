"""R2, R3, R4: a stream of several sessions and one of changes, through a gateway that is killed."""

import json
import signal
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from tests.processes import Gateway
from tests.support.frames import CONTROL_TYPES, Frame, parse_frames
from tests.support.joint import events_of
from tests.support.pgbouncer import pgbouncer
from tests.support.postgres import PostgresServer
from tests.support.waiting import until

STORES = ["jsonl:", "sqlite:", "postgresql:"]
SESSIONS = ("a", "b", "c")


@pytest.fixture(params=STORES)
def storage_url(request: pytest.FixtureRequest) -> str:
    if request.param != "postgresql:":
        return str(request.param)
    # Asked for here, so that tests of other stores start no server.
    return str(request.getfixturevalue("postgres_url"))


def note(gateway: Gateway, session: str, name: str) -> None:
    event = {"type": "custom", "name": name, "value": name * 50}
    gateway.call("POST", f"/sessions/{session}/events", json=event)


def log_of(gateway: Gateway, session: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = gateway.events(session)
    return events


def read(gateway: Gateway, path: str, params: Any, enough: int) -> list[Frame]:
    """Read a stream until it has shown so many frames; then cut it off, in the middle of one."""
    got = b""
    with gateway.http.stream(
        "GET", path, params=params, headers={"Accept": "text/event-stream"}, timeout=60
    ) as response:
        assert response.status_code == 200
        for chunk in response.iter_raw():
            got += chunk
            whole = got[: got.rfind(b"\n\n") + 2]
            frames = parse_frames(whole)[0] if whole.strip() else []
            if len(frames) >= enough:
                return frames[:enough]
    raise AssertionError("the stream ended")


def test_each_event_comes_once_through_kills_and_cuts(tmp_path: Path, storage_url: str) -> None:
    with Gateway(tmp_path, {"BAMBOO_STORAGE_URL": storage_url}) as gateway:
        for session in SESSIONS:
            gateway.call("POST", "/sessions", json={"id": session})
        seen: list[Frame] = []
        cursor: str | None = None
        wanted: list[tuple[str, str]] = [("session_id", session) for session in SESSIONS]
        for life in range(3):
            for number in range(4):
                for session in SESSIONS:
                    note(gateway, session, f"{session}-{life}-{number}")
            for _ in range(3):
                begin = ("after", cursor) if cursor else ("from", "start")
                frames = read(gateway, "/stream", [*wanted, begin], 3 + 3)
                seen += frames
                cursor = frames[-1].id
            gateway.kill()
            gateway.start()
        total = sum(len(log_of(gateway, session)) for session in SESSIONS)
        had = [frame for frame in seen if frame.type not in CONTROL_TYPES]
        rest = read(gateway, "/stream", [*wanted, ("after", cursor)], 3 + total - len(had))
        had += [frame for frame in rest if frame.type not in CONTROL_TYPES]
        assert all(frame.type == "open" for frame in rest[:3])
        for session in SESSIONS:
            shown = [f.data for f in had if f.data["session_id"] == session]
            assert [{k: v for k, v in one.items() if k != "session_id"} for one in shown] == log_of(
                gateway, session
            )


def test_every_change_is_told_through_kills(tmp_path: Path, storage_url: str) -> None:
    """Also what happened, and what ended by itself, while nobody asked."""
    with Gateway(tmp_path, {"BAMBOO_STORAGE_URL": storage_url}) as gateway:
        cursor = gateway.call("GET", "/changes")["next"]
        known: dict[str, dict[str, Any]] = {}

        def ask(wait: float = 0) -> None:
            nonlocal cursor
            while True:
                params = {"after": cursor, "limit": 2, "wait": wait}
                page = gateway.call("GET", "/changes", params=params)
                for change in page["changes"]:
                    assert change["type"] != "reset"
                    known[change["session_id"]] = change
                cursor = page["next"]
                if not page["has_more"]:
                    return

        for life in range(3):
            for number in range(3):
                gateway.call("POST", "/sessions", json={"id": f"s-{life}-{number}"})
            note(gateway, f"s-{life}-0", "noted")
            gateway.call("DELETE", f"/sessions/s-{life}-1")
            gateway.call("POST", "/sessions", json={"id": f"ends-{life}", "ttl_seconds": 1})
            if life != 1:
                ask()
            gateway.kill()
            gateway.start()

        def all_have_ended() -> bool:
            ask(1)
            return all(known[f"ends-{life}"]["state"] == "expired" for life in range(3))

        until(all_have_ended, "what ended by itself is told")
        listed = {one["id"]: one for one in gateway.call("GET", "/sessions")["sessions"]}
        for life in range(3):
            assert known[f"s-{life}-1"]["type"] == "session_gone"
            for number in (0, 2):
                told = known[f"s-{life}-{number}"]
                assert told["position"] == listed[f"s-{life}-{number}"]["position"]
        assert json.dumps(known)


def test_a_stream_of_changes_goes_on_after_a_kill(tmp_path: Path) -> None:
    with Gateway(tmp_path) as gateway:
        (first,) = read(gateway, "/changes", {}, 1)
        gateway.call("POST", "/sessions", json={"id": "a"})
        gateway.kill()
        gateway.start()
        gateway.call("POST", "/sessions", json={"id": "b"})
        frames = read(gateway, "/changes", {"after": first.id}, 3)
        assert [frame.data.get("session_id") for frame in frames] == [None, "a", "b"]
        again = httpx.get(
            f"{gateway.url}/api/v1/changes", params={"after": frames[1].id}, trust_env=False
        ).json()
        assert [change["session_id"] for change in again["changes"]] == ["b"]


@pytest.mark.parametrize("is_pooled", [False, True], ids=["direct", "pgbouncer"])
def test_streams_live_through_an_outage_of_postgresql(
    tmp_path: Path, own_postgres: PostgresServer, is_pooled: bool
) -> None:
    """R2, R4: streams that are open meanwhile go on, or their clients come back and go on."""
    with ExitStack() as stack:
        port = stack.enter_context(pgbouncer(own_postgres)) if is_pooled else None
        url = own_postgres.url(stack.enter_context(own_postgres.database()), port)
        gateway = stack.enter_context(Gateway(tmp_path, {"BAMBOO_STORAGE_URL": url}))
        for session in SESSIONS:
            gateway.call("POST", "/sessions", json={"id": session})
        joint = Follower(gateway, "/stream", [("session_id", one) for one in SESSIONS])
        changes = Follower(gateway, "/changes", [])
        followers = [stack.enter_context(one) for one in (joint, changes)]
        until(lambda: all(one.frames for one in followers), "the streams are open")
        for life in range(2):
            for session in SESSIONS:
                note(gateway, session, f"{session}-{life}")
            own_postgres.stop(signal.SIGKILL)
            until(lambda: _status(gateway) == 503, "the gateway says that the database is away")
            own_postgres.start()
            until(lambda: _status(gateway) == 200, "the gateway answers again by itself")
        for session in SESSIONS:
            note(gateway, session, f"{session}-last")
        logs = {session: log_of(gateway, session) for session in SESSIONS}
        until(lambda: joint.shown == logs, "each event has come")
        ends = {session: log[-1]["seq"] for session, log in logs.items()}
        until(lambda: changes.last_seqs == ends, "each change has come")
        for follower in followers:
            assert not any(frame.type == "reset" for frame in follower.frames)


def _status(gateway: Gateway) -> int:
    return gateway.http.get("/sessions", params={"limit": 1}).status_code


class Follower:
    """A client that reads a stream in a thread, and comes back with its last id."""

    def __init__(self, gateway: Gateway, path: str, params: list[tuple[str, str]]) -> None:
        self.frames: list[Frame] = []
        self._url = f"{gateway.url}/api/v1{path}"
        self._params = params
        self._is_open = True
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_open = False

    @property
    def shown(self) -> dict[str, list[dict[str, Any]]]:
        """The events of each session, as its log has them, behind its creation."""
        return {session: events_of(list(self.frames), session) for session in SESSIONS}

    @property
    def last_seqs(self) -> dict[str, int]:
        """The last position that each session was told with."""
        told = [frame.data for frame in list(self.frames) if frame.type == "session_changed"]
        return {one["session_id"]: int(one["position"].split("-")[1]) for one in told}

    def _follow(self) -> None:
        begin = [("from", "start")] if self._params else []
        headers = {"Accept": "text/event-stream"}
        while self._is_open:
            with (
                suppress(httpx.HTTPError),
                httpx.stream(
                    "GET",
                    self._url,
                    params=[*self._params, *begin],
                    headers=headers,
                    trust_env=False,
                ) as response,
            ):
                got = b""
                for chunk in response.iter_raw() if response.status_code == 200 else ():
                    if not self._is_open:
                        return
                    got += chunk
                    end = got.rfind(b"\n\n") + 2
                    if end > 1:
                        self.frames += parse_frames(got[:end])[0]
                        got = got[end:]
                        ids = [frame.id for frame in self.frames if frame.id is not None]
                        headers["Last-Event-ID"] = ids[-1]
