"""A server that lacks the last commits takes over: what people see of it (R3)."""

import json
from pathlib import Path
from typing import Any

from tests.processes import Gateway
from tests.support.frames import parse_frames
from tests.support.postgres import PostgresServer, own_standby
from tests.support.postgres_proxy import PostgresProxy
from tests.support.waiting import until


def test_clients_of_a_gateway_whose_standby_lacks_commits_load_again(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    """R3, R5: also who has a stream open, and a run that was going on."""
    with own_postgres.database() as name, PostgresProxy(own_postgres.port) as proxy:
        url = own_postgres.url(name, proxy.port)
        with Gateway(tmp_path, flags=["--storage-url", url]) as gateway:
            chat(gateway, "s1", "kept")
            kept = gateway.call("GET", "/sessions/s1/messages")["messages"]
            run_id = gateway.call("POST", "/chat", json=body("s2", "long", delay_ms=5000))["run_id"]
            with (
                own_standby(own_postgres) as standby,
                gateway.http.stream("GET", "/stream/s1", timeout=120) as open_stream,
            ):
                chat(gateway, "s1", "lost")
                seen = position(gateway, "s1")
                standby.promote()
                proxy.lead_to(standby.port)
                # Its stream ends by itself: nobody writes to the session.
                frames, _ = parse_frames(b"".join(open_stream.iter_raw()))
                assert frames[-1].type == "goodbye"
                until(
                    lambda: gateway.http.get("/sessions/s1").status_code == 200,
                    "the gateway goes on by itself",
                )
                assert position(gateway, "s1").partition("-")[0] > seen.partition("-")[0]
                assert gateway.call("GET", "/sessions/s1/messages")["messages"] == kept
                with gateway.http.stream(
                    "GET", "/stream/s1", headers={"Last-Event-ID": seen}
                ) as again:
                    lines = (line for line in again.iter_lines() if line.startswith("data:"))
                    types = [json.loads(next(lines)[5:])["type"] for _ in range(2)]
                    assert types == ["open", "reset"]
                until(
                    lambda: status_of(gateway, "s2", run_id) == "interrupted", "the run has ended"
                )
                chat(gateway, "s1", "after")
                assert gateway.stop() == 0


def chat(gateway: Gateway, session_id: str, text: str) -> None:
    gateway.call("POST", "/chat", json=body(session_id, text), headers={"Prefer": "wait=60"})


def body(session_id: str, text: str, delay_ms: int = 0) -> dict[str, Any]:
    return {"message": text, "session_id": session_id, "options": {"delay_ms": delay_ms}}


def position(gateway: Gateway, session_id: str) -> str:
    found: str = gateway.call("GET", f"/sessions/{session_id}")["position"]
    return found


def status_of(gateway: Gateway, session_id: str, run_id: str) -> str:
    runs = gateway.call("GET", f"/sessions/{session_id}/runs")["runs"]
    [status] = [run["status"] for run in runs if run["run_id"] == run_id]
    return str(status)
