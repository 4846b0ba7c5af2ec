"""Readers of real processes that end: they go on at another one, and miss nothing."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import pytest

from tests.cluster import counting_agent
from tests.processes import Gateway
from tests.support.clients import local_client

FLAGS = ("--agent", f"default={counting_agent.ADDRESS}")
AN_HOUR_MS = 3_600_000


@contextmanager
def frames(
    gate: Gateway, session_id: str, last_id: str | None = None
) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
    """Read a stream: the id and the data of each frame."""
    headers = {"Last-Event-ID": last_id} if last_id else {}
    query = {} if last_id else {"from": "start"}
    with local_client(base_url=f"{gate.url}/api/v1", timeout=60) as http:
        path = f"/stream/{session_id}"
        with httpx_sse.connect_sse(http, "GET", path, params=query, headers=headers) as source:
            yield ((one.id, json.loads(one.data)) for one in source.iter_sse())


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_reader_of_another_process_s_run_goes_on_elsewhere_when_its_own_process_ends(
    postgres_url: str, tmp_path: Path, how: signal.Signals
):
    """At SIGTERM it is told so at once, although the run goes on for an hour."""
    settings = {
        "BAMBOO_STORAGE_URL": postgres_url,
        "BAMBOO_DRAIN_TIMEOUT_SECONDS": "1",
        counting_agent.VARIABLE: str(tmp_path / "agents"),
    }
    for name in "ab":
        (tmp_path / name).mkdir()
    with (
        Gateway(tmp_path / "a", settings, FLAGS) as a,
        Gateway(tmp_path / "b", settings, FLAGS) as b,
    ):
        chat = {
            "session_id": "s",
            "message": "hi",
            "options": {"tokens": 2, "delay_ms": AN_HOUR_MS},
        }
        run_id = a.call("POST", "/chat", json=chat)["run_id"]
        seen: list[dict[str, Any]] = []
        reason = last_id = None
        with frames(b, "s") as stream:
            try:
                for position, data in stream:
                    last_id = position or last_id
                    if "seq" in data:
                        seen.append(data)
                    if data["type"] == "token":
                        assert b.process is not None
                        b.process.send_signal(how)
                    if data["type"] == "goodbye":
                        reason = data["reason"]
            except httpx.TransportError:
                assert how is signal.SIGKILL
        assert reason == ("shutdown" if how is signal.SIGTERM else None)
        assert b.exit_code() == (0 if how is signal.SIGTERM else -signal.SIGKILL)
        with frames(a, "s", last_id) as stream:
            for _, data in stream:
                if data["type"] == "open":
                    a.call("POST", f"/sessions/s/runs/{run_id}/cancel")
                if "seq" in data:
                    seen.append(data)
                if data["type"] == "cancelled":
                    break
        assert seen == a.events("s")
