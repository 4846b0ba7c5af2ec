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
