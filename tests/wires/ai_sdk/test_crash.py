"""The gateway is killed in the middle of an answer (R2, R5): what a page shows before and after."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import Gateway
from tests.support.seen import check_session
from tests.support.waiting import until
from tests.wires.ai_sdk.reader import Reader

USER = {"id": "u-1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
DEMO = {"BAMBOO_AGENTS": '{"default": "demo:?delay_ms=0"}'}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with Gateway(tmp_path, DEMO) as running:
        yield running


def messages(gateway: Gateway, version: str = "v7/") -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = gateway.call("GET", f"/ai-sdk/{version}chat/c/messages")
    return shown


def test_a_run_that_kill_9_has_cut_is_shown_as_far_as_it_came_and_answered_again(
    gateway: Gateway,
) -> None:
    shown = Reader(7)
    body = {"id": "c", "messages": [USER], "options": {"hold": "middle"}}

    def read() -> None:
        try:
            with gateway.http.stream("POST", "/ai-sdk/v7/chat", json=body) as answer:
                for text in answer.iter_text():
                    shown.read(text)
        except httpx.TransportError:
            return

    page = threading.Thread(target=read)
    page.start()
    until(
        lambda: any(part["type"] == "text" for part in shown.message["parts"]),
        "the page shows a text",
    )
    assert messages(gateway) == [USER]
    gateway.kill()
    page.join()
    assert not shown.is_done

    gateway.start()
    loaded = messages(gateway)
    assert [one["role"] for one in loaded] == ["user", "assistant"]
    assert loaded[1]["id"] == shown.message["id"]
    # What the page has seen was durable (R1), so all of it is there.
    for part, later in zip(shown.message["parts"], loaded[1]["parts"], strict=True):
        assert later["type"] == part["type"]
        assert str(later.get("text", "")).startswith(part.get("text", ""))
    assert gateway.http.get("/ai-sdk/v7/chat/c/stream").status_code == 204
    check_session(gateway.http, "c")

    # The same submit comes again: its run has ended, and no other one begins.
    again = gateway.http.post("/ai-sdk/v7/chat", json={"id": "c", "messages": [USER]})
    reader = Reader(7).read(again.text)
    assert (reader.message, reader.ended_with) == (loaded[1], "error")
    assert len(gateway.call("GET", "/sessions/c/runs")["runs"]) == 1

    asked = {"id": "c", "messages": [USER], "trigger": "regenerate-message"}
    whole = Reader(7).read(gateway.http.post("/ai-sdk/v7/chat", json=asked).text)
    assert whole.ended_with == "finish"
    assert messages(gateway) == [USER, whole.message]


def test_messages_and_edits_are_the_same_after_archive_and_restore_and_an_import(
    gateway: Gateway,
) -> None:
    said = {**USER, "parts": [{"type": "text", "text": "two"}]}
    edit = {"id": "c", "messages": [said], "messageId": "u-1"}
    for body in ({"id": "c", "messages": [USER]}, edit):
        assert gateway.http.post("/ai-sdk/chat", json=body).status_code == 200
    before = messages(gateway)
    gateway.call("POST", "/sessions/c/archive")
    gateway.call("POST", "/sessions/c/restore")
    assert messages(gateway) == before
    document = gateway.call("GET", "/sessions/c/export?format=json")
    copy = gateway.call("POST", "/import?id=new", json=document)["id"]
    assert gateway.call("GET", f"/ai-sdk/v7/chat/{copy}/messages") == before
    again = gateway.http.post("/ai-sdk/v7/chat", json=edit)
    assert len(gateway.call("GET", "/sessions/c/runs")["runs"]) == 2
    assert Reader(7).read(again.text).message == before[1]
