"""A credential that may only write gets from no wire what others have said before."""

from collections.abc import Iterator
from typing import Any

import pytest

from bamboo_gateway.wires.openai.ids import response_id
from tests.api.keyed import Keyed, bearer, keyed

SECRET = "what was said before"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    agents = {"default": "demo:?delay_ms=0&tool=false&thinking=false&text=new"}
    agents["ask"] = "demo:?delay_ms=0&ask=true"
    with keyed(tmp_path_factory.mktemp("keys"), agents=agents) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def writer(gateway: Keyed) -> dict[str, str]:
    return bearer(gateway.make("alice", "write")[1])


@pytest.fixture
def run_id(gateway: Keyed, free_id: str) -> str:
    """A run of a session with a secret in its messages."""
    body = {"session_id": free_id, "message": {"role": "user", "content": SECRET, "id": "u-1"}}
    body["options"] = {"text": SECRET}
    headers = bearer(gateway.make("alice")[1], Prefer="wait=60")
    made = gateway.ask("POST", "/chat", headers, json=body)
    assert made.status_code == 200
    found: str = made.json()["run_id"]
    return found


def test_ag_ui_shows_a_writer_the_new_run_alone(
    gateway: Keyed, writer: dict[str, str], free_id: str, run_id: str
) -> None:
    def sent(name: str, *ids: str) -> Any:
        messages = [{"id": one, "role": "user", "content": "x"} for one in ids]
        body = {"threadId": free_id, "runId": name, "messages": messages}
        return gateway.ask("POST", "/ag-ui/default", writer, json=body)

    begun = sent("run-2", "u-1", "u-2")
    assert begun.status_code == 200
    assert "new" in begun.text
    assert SECRET not in begun.text
    for name in (run_id, "run-2"):
        again = sent(name, "u-1", "u-2")
        assert (again.status_code, again.json()["code"]) == (403, "forbidden")


def test_ai_sdk_shows_a_writer_the_new_run_alone(
    gateway: Keyed, writer: dict[str, str], free_id: str, run_id: str
) -> None:
    def sent(name: str) -> Any:
        message = {"id": name, "role": "user", "parts": [{"type": "text", "text": "x"}]}
        return gateway.ask("POST", "/ai-sdk/chat", writer, json={"id": free_id, "message": message})

    assert run_id
    assert "new" in sent("u-2").text
    again = sent("u-1")
    assert (again.status_code, again.json()["code"]) == (403, "forbidden")


def test_openai_cancels_for_a_writer_without_the_output(
    gateway: Keyed, writer: dict[str, str], free_id: str, run_id: str
) -> None:
    path = f"/openai/v1/responses/{response_id(free_id, run_id)}"
    cancelled = gateway.ask("POST", f"{path}/cancel", writer)
    assert (cancelled.status_code, cancelled.json()["output"]) == (200, [])
    assert gateway.ask("GET", path, writer).status_code == 403


@pytest.mark.parametrize("wire", ["ag-ui", "ai-sdk", "openai"])
def test_whoever_may_answer_answers_over_any_wire_and_says_nothing_else(
    gateway: Keyed, free_id: str, wire: str
) -> None:
    alice, bob = bearer(gateway.make("alice")[1]), bearer(gateway.make("bob")[1])
    body: dict[str, Any] = {"session_id": free_id, "message": "hi", "agent": "ask"}
    gateway.ask("POST", "/chat", alice | {"Prefer": "wait=60"}, json=body)
    share = {"user_id": "bob", "scope": "answer"}
    assert gateway.ask("POST", f"/sessions/{free_id}/shares", alice, json=share).status_code == 201
    [asked] = gateway.get(f"/sessions/{free_id}", bob).json()["open_requests"]
    name = asked["request_id"]
    match wire:
        case "ag-ui":
            path = "/ag-ui/ask"
            body = {"threadId": free_id, "runId": "run-2", "messages": []}
            said: dict[str, Any] = {"messages": [{"id": "u-9", "role": "user", "content": "x"}]}
            entry: Any = {
                "interruptId": name,
                "status": "resolved",
                "payload": {"approved": True},
            }
            answer: dict[str, Any] = {"resume": [entry]}
        case "ai-sdk":
            path = "/ai-sdk/v6/chat"
            body = {"id": free_id}
            text = {"type": "text", "text": "x"}
            said = {"messages": [{"id": "u-9", "role": "user", "parts": [text]}]}
            ui = gateway.get(f"{path}/{free_id}/messages", bob).json()[-1]
            for part in ui["parts"]:
                if "approval" in part:
                    part["approval"] |= {"approved": True}
            answer = {"messages": [ui]}
        case _:
            path = "/openai/v1/responses"
            body = {"model": "ask", "conversation": f"conv_{free_id}"}
            said = {"input": [{"role": "user", "content": "x"}]}
            entry = {"type": "mcp_approval_response", "approve": True}
            answer = {"input": [{**entry, "approval_request_id": f"mcpr_{name}"}]}
    assert gateway.ask("POST", path, bob, json=body | said).status_code == 403
    answered = gateway.ask("POST", path, bob, json=body | answer)
    assert answered.status_code == 200, answered.text
    assert gateway.get(f"/sessions/{free_id}", bob).json()["open_requests"] == []
