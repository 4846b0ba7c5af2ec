"""Runs that wait with much to say: they cost no memory, and a kill costs none of them (R5, R11)."""

from pathlib import Path

import pytest

from tests.processes import FreshGateway
from tests.support.held import resident_bytes
from tests.support.waiting import until

MB = 1_000_000
SHORT = {"delay_ms": 0, "tokens": 1, "thinking": False, "tool": False}
BEFORE, WAITING = 5, 30


@pytest.mark.timeout(300)
def test_runs_that_wait_cost_no_memory_and_a_killed_gateway_answers_them_in_order(
    tmp_path: Path,
) -> None:
    with FreshGateway(tmp_path, {"BAMBOO_LOG_LEVEL": "warning"}) as gateway:
        held = {"session_id": "s", "message": "first", "options": {"hold": "start"}}
        gateway.call("POST", "/chat", json=held)
        said = [f"{number} " + "x" * MB for number in range(BEFORE + WAITING)]
        asked = []
        assert gateway.process is not None
        pid, resident = gateway.process.pid, 0
        for number, text in enumerate(said):
            if number == BEFORE:  # from here on the process has what it needs to work at all
                assert gateway.call("GET", "/search?q=first")["results"]
                resident = resident_bytes(pid)
            answer = gateway.call(
                "POST", "/chat", json={"session_id": "s", "message": text, "options": SHORT}
            )
            assert answer["status"] == "queued"
            asked.append((answer["run_id"], answer["message_ids"][0]))
        assert resident_bytes(pid) - resident < WAITING * MB / 2
        gateway.kill()
        gateway.start()

        def all_have_ended() -> bool:
            status: str = gateway.call("GET", f"/sessions/s/runs/{asked[-1][0]}")["status"]
            return status == "completed"

        until(all_have_ended, "the last run has been answered", 200)
        log = gateway.events("s")
        started = [event["run_id"] for event in log if event["type"] == "run_start"]
        assert started[1:] == [run_id for run_id, _ in asked]
        messages = [event["message"] for event in log if event["type"] == "message"]
        own = [m for m in messages if m["role"] == "user"]
        assert [m["id"] for m in own[1:]] == [message_id for _, message_id in asked]
        assert [m["content"] for m in own] == ["first", *said]
