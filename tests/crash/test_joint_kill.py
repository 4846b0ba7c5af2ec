"""R2, R3, R4: a stream of several sessions and one of changes, through a gateway that is killed."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import Gateway
from tests.support.frames import CONTROL_TYPES, Frame, parse_frames
from tests.support.waiting import until

STORES = ["jsonl:", "sqlite:"]
SESSIONS = ("a", "b", "c")


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


@pytest.mark.parametrize("storage_url", STORES)
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


@pytest.mark.parametrize("storage_url", STORES)
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
