"""Answers kept for idempotency keys: they cost no memory, and a kill costs none of them (R11)."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import FreshGateway
from tests.support.held import resident_bytes

MB = 1_000_000
SESSIONS, KEYS = 4, 10


def messages(session: int, number: int) -> list[dict[str, Any]]:
    """Return messages of 1.5 MB, so that all answers of a session are just kept."""
    return [
        {"role": "user", "content": f"{session} {number} {n} " + "x" * 15_000} for n in range(100)
    ]


@pytest.mark.timeout(300)
def test_kept_answers_cost_no_memory_and_are_given_again_after_a_kill(tmp_path: Path) -> None:
    with FreshGateway(tmp_path, {"BAMBOO_LOG_LEVEL": "warning"}) as gateway:

        def post(session: int, number: int) -> httpx.Response:
            answer = gateway.http.post(
                f"/sessions/s{session}/messages",
                json=messages(session, number),
                headers={"Idempotency-Key": f"k{number}"},
            )
            assert answer.status_code == 201
            return answer

        assert gateway.process is not None
        pid, resident = gateway.process.pid, 0
        first: dict[tuple[int, int], Any] = {}
        for session in range(SESSIONS):
            gateway.call("POST", "/sessions", json={"id": f"s{session}"})
            if session == 1:  # from here on the process has what it needs to work at all
                resident = resident_bytes(pid)
            for number in range(KEYS):
                first[session, number] = post(session, number).json()
        kept = (SESSIONS - 1) * KEYS * 1.5 * MB
        assert resident_bytes(pid) - resident < kept / 2
        gateway.kill()
        gateway.start()
        for session, number in [(0, KEYS - 1), (2, 1), (SESSIONS - 1, 0)]:
            again = post(session, number)
            assert again.headers["Idempotency-Replayed"] == "true"
            assert again.json() == first[session, number]
        for session in range(SESSIONS):
            count = gateway.call("GET", f"/sessions/s{session}")["message_count"]
            assert count == KEYS * 100
