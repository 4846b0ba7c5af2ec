"""The gateway is killed between every two steps of asking people (R1, R2, R5).

Each question has at most one accepted answer, and an approved call is made once, which is counted
outside of the gateway. What people see afterwards is held against the log.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from typing_extensions import override

from tests.processes import Gateway
from tests.support.clients import local_client
from tests.support.postgres import PostgresServer
from tests.support.seen import call, check_files, check_session
from tests.support.waiting import until

AGENT = ("--agent", "default=python:tests.crash.paying_agent:pay")
STORES = ["jsonl:", "sqlite:", "postgresql:"]
STEPS = ["asked", "answered in part", "answered", "ended"]
YES = {"approved": True}


@pytest.fixture
def storage(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param != "postgresql:":
        yield request.param
        return
    server: PostgresServer = request.getfixturevalue("own_postgres")
    with server.database() as database:
        yield server.url(database)


@contextmanager
def paying(directory: Path, storage_url: str) -> Iterator[tuple[Gateway, Callable[[], list[str]]]]:
    file = directory / "payments"
    settings = {
        "BAMBOO_STORAGE_URL": storage_url,
        "BAMBOO_LOG_LEVEL": "warning",
        "PAYMENTS_FILE": str(file),
    }

    def payments() -> list[str]:
        return file.read_text().split() if file.exists() else []

    with Gateway(directory, settings, AGENT) as gateway:
        yield gateway, payments


def asked(gateway: Gateway, session: str) -> tuple[str, str]:
    """Chat, and wait until the session waits; return the ids of its two requests."""
    gateway.call("POST", "/chat", json={"session_id": session, "message": "Pay!"})
    until(lambda: waits(gateway, session), "the session waits for people")
    one, two = gateway.call("GET", f"/sessions/{session}/inputs")["inputs"]
    assert one["kind"] == "approval"
    return one["request_id"], two["request_id"]


def waits(gateway: Gateway, session: str) -> bool:
    return bool(gateway.call("GET", f"/sessions/{session}")["state"] == "needs_input")


def answer(gateway: Gateway, session: str, answers: dict[str, Any]) -> dict[str, Any]:
    taken: dict[str, Any] = gateway.call(
        "POST", f"/sessions/{session}/inputs", json={"answers": answers}
    )
    return taken


def ended(gateway: Gateway, session: str, run_id: str) -> str:
    def status() -> str:
        return str(gateway.call("GET", f"/sessions/{session}/runs/{run_id}")["status"])

    until(lambda: status() not in {"queued", "running"}, "the run has ended")
    return status()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("storage", STORES, indirect=True)
def test_a_kill_between_every_two_steps_costs_no_answer_and_doubles_no_call(
    tmp_path: Path, storage: str
) -> None:
    with paying(tmp_path, storage) as (gateway, payments):
        for number, killed_after in enumerate(STEPS):
            session = f"s-{number}"

            def step(name: str, killed_after: str = killed_after) -> None:
                if name == killed_after:
                    gateway.kill()
                    gateway.start()

            approval, colour = asked(gateway, session)
            step("asked")
            assert waits(gateway, session)
            first = answer(gateway, session, {colour: "blue"})
            assert first["run_id"] is None
            step("answered in part")
            assert answer(gateway, session, {colour: "blue"}) == first
            taken = answer(gateway, session, {approval: YES})
            step("answered")
            assert answer(gateway, session, {approval: YES}) == taken
            status = ended(gateway, session, taken["run_id"])
            step("ended")
            assert answer(gateway, session, {approval: YES, colour: "blue"}) == taken
            check_outcome(gateway, session, payments(), approval, status)
            if killed_after != "answered":
                assert status == "completed"
        gateway.stop()
    check_files(gateway.data_dir, storage)


def check_outcome(
    gateway: Gateway, session: str, payments: list[str], approval: str, status: str
) -> None:
    log = gateway.events(session)
    kinds = Counter(event["type"] for event in log)
    assert kinds["input_required"] == kinds["input_given"] == 2
    [request] = [
        event for event in log if event.get("request_id") == approval and "prompt" in event
    ]
    count = payments.count(request["tool_call_id"])
    assert count <= 1
    messages = check_session(gateway.http, session)
    result = messages[2]
    assert (result["role"], result["tool_call_id"]) == ("tool", request["tool_call_id"])
    if status == "completed":
        assert count == 1
        assert result["content"] == "paid"
        assert messages[-1]["content"].endswith("Done.")
    else:
        assert status == "interrupted"
    seen = call(gateway.http, "GET", f"/sessions/{session}")
    assert (seen["state"], seen["open_requests"]) in [("idle", []), ("disconnected", [])]
    resumed = call(gateway.http, "GET", f"/sessions/{session}/resume")
    assert "Pay!" in resumed["message"]["content"]


class Insistent(threading.Thread):
    """A client that sends one answer until it is told what became of it, whatever happens."""

    def __init__(self, url: str, session: str, request_id: str, value: Any) -> None:
        super().__init__(name=f"answers {value}")
        self.outcome: tuple[int, dict[str, Any]] | None = None
        self._url, self._path = url, f"/sessions/{session}/inputs"
        self._body = {"answers": {request_id: value}}
        self.begun = threading.Event()

    @override
    def run(self) -> None:
        with local_client(base_url=f"{self._url}/api/v1", timeout=60) as http:
            while self.outcome is None:
                try:
                    self.begun.set()
                    response = http.post(self._path, json=self._body)
                except httpx.TransportError:
                    continue
                if response.status_code in {202, 409}:
                    self.outcome = response.status_code, response.json()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("storage", ["jsonl:", "sqlite:"], indirect=True)
def test_of_answers_that_race_a_kill_exactly_one_counts(tmp_path: Path, storage: str) -> None:
    with paying(tmp_path, storage) as (gateway, payments):
        for number in range(4):
            session = f"s-{number}"
            approval, colour = asked(gateway, session)
            answer(gateway, session, {colour: "red"})
            clients = [
                Insistent(gateway.url, session, approval, value)
                for value in (YES, {"approved": False}, {"approved": False, "reason": "no"})
            ]
            for client in clients:
                client.start()
            for client in clients:
                client.begun.wait(60)
            gateway.kill()
            gateway.start()
            for client in clients:
                client.join(60)
            outcomes = [client.outcome for client in clients if client.outcome is not None]
            taken = [body for status, body in outcomes if status == 202]
            assert len(taken) == 1
            refused = [body["code"] for status, body in outcomes if status == 409]
            assert refused == ["already-answered"] * 2
            ended(gateway, session, taken[0]["run_id"])
            log = gateway.events(session)
            given = [event for event in log if event["type"] == "input_given"]
            assert [event["request_id"] for event in given] == [colour, approval]
            [asking] = [one for one in log if one["type"] == "tool_start"]
            approved = given[1]["answer"] == YES
            assert payments().count(asking["tool_call_id"]) <= int(approved)
            check_session(gateway.http, session)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("storage", STORES, indirect=True)
def test_a_request_that_expires_while_the_gateway_is_away_begins_the_next_run(
    tmp_path: Path, storage: str
) -> None:
    with paying(tmp_path, storage) as (gateway, _):
        gateway.call("POST", "/sessions", json={"id": "s"})
        run_id = gateway.call("POST", "/sessions/s/runs", json={"agent": "external"})["run_id"]
        soon = datetime.now(UTC) + timedelta(seconds=1)
        posted = [
            {
                "type": "input_required",
                "run_id": run_id,
                "request_id": "q",
                "prompt": "Colour?",
                "expires_at": soon.isoformat(),
            },
            {"type": "complete", "run_id": run_id},
        ]
        gateway.call("POST", "/sessions/s/events", json=posted)
        gateway.kill()
        gateway.start()

        def begun() -> bool:
            return gateway.call("GET", "/sessions/s")["active_run_id"] not in {None, run_id}

        until(begun, "the next run has begun by itself")
        log = gateway.events("s")
        assert [event["type"] for event in log[-2:]] == ["input_closed", "run_start"]
        assert log[-2]["reason"] == "expired"
        assert log[-1]["request_ids"] == ["q"]
        late = gateway.http.post("/sessions/s/inputs", json={"answers": {"q": "blue"}})
        assert late.json()["code"] == "input-expired"
