"""Import: many conversations of one document, and tool calls that nobody has answered."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from bamboo_gateway.domain.events import Draft
from bamboo_gateway.domain.message_assembler import message_draft
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.domain.tool_order import UNANSWERED
from bamboo_gateway.sessions.commands import NewMessage
from bamboo_gateway.sessions.lifecycle.bulk_creation import HistoryWriter
from bamboo_gateway.sessions.lifecycle.export import ExportOptions
from bamboo_gateway.sessions.lifecycle.merge_plan import Merge
from tests.api.serving import refused
from tests.sessions.lifecycle.talk import exchange, ids, resumed_message, said, say, talk
from tests.support.gateways import ME, Gateway, eventually

CHATGPT = (Path(__file__).parents[2] / "exporters" / "samples" / "chatgpt.json").read_bytes()
TIME = "2026-01-01T00:00:00.000Z"


def told(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.content.splitlines()]


def test_all_conversations_of_a_document_become_sessions(api: httpx.Client) -> None:
    refused(api.post("/import", content=CHATGPT), 422, "several-conversations")
    lines = told(api.post("/import", params={"conversation": "all"}, content=CHATGPT))
    assert [(line["conversation"], line["of"]) for line in lines] == [(1, 2), (2, 2)]
    assert any("no message" in note["what"] for note in lines[0]["notes"])
    for number, line in enumerate(lines, 1):
        params = {"conversation": number}
        alone = api.post("/import", params=params, content=CHATGPT).json()
        assert said(api, line["session"]["id"]) == said(api, alone["id"])
        assert line["session"]["title"] == alone["title"]


def test_a_repeat_with_the_key_makes_only_what_is_missing(api: httpx.Client) -> None:
    params, key = {"conversation": "all"}, {"Idempotency-Key": "import-all"}
    first = told(api.post("/import", params=params, content=CHATGPT, headers=key))
    made = [line["session"]["id"] for line in first]
    assert api.delete(f"/sessions/{made[1]}").status_code == 204
    count = api.get("/sessions").json()["total"]
    again = told(api.post("/import", params=params, content=CHATGPT, headers=key))
    assert [line["session"]["id"] for line in again] == made
    assert api.get("/sessions").json()["total"] == count + 1


def test_one_that_fails_is_said_and_the_others_are_made(api: httpx.Client) -> None:
    params = {"conversation": "all", "id": "keep"}
    first = told(api.post("/import", params=params, content=CHATGPT))
    kept = [line["session"]["id"] for line in first if "session" in line]
    assert kept
    api.delete(f"/sessions/{kept[0]}")
    again = told(api.post("/import", params=params, content=CHATGPT))
    assert [line["session"]["id"] for line in again if "session" in line] == kept[:1]
    failed = [line["code"] for line in again if "session" not in line]
    assert failed == ["session-exists"] * (len(kept) - 1) + ["invalid"] * (2 - len(kept))
    for wrong in ("some", "0", "-1", "1\n", "9999999"):
        refused(
            api.post("/import", params={"conversation": wrong}, content=CHATGPT), 422, "invalid"
        )
    refused(api.post("/import", params={"conversation": "all"}, content=b"{"), 422, "invalid")


def claude_code(*contents: tuple[str, Any]) -> bytes:
    lines = []
    for number, (role, content) in enumerate(contents):
        lines.append(
            {
                "type": role,
                "uuid": f"u-{number}",
                "parentUuid": f"u-{number - 1}" if number else None,
                "sessionId": "5e55",
                "isSidechain": False,
                "cwd": "/x",
                "version": "2.0.0",
                "timestamp": TIME,
                "message": {"role": role, "content": content},
            }
        )
    return b"\n".join(json.dumps(line).encode() for line in lines)


def calling(*call_ids: str) -> list[dict[str, Any]]:
    return [{"type": "tool_use", "id": one, "name": "look", "input": {}} for one in call_ids]


async def test_calls_that_another_tool_left_without_a_result_are_closed(gate: Gateway) -> None:
    """No server goes on from a history in which a call has no result."""
    result = [{"type": "tool_result", "tool_use_id": "a", "content": "found"}]
    document = claude_code(
        ("user", "look twice"),
        ("assistant", calling("a", "b")),
        ("user", result),
        ("user", "never mind"),
        ("assistant", calling("c")),
    )
    made = (await gate.manager.import_document(ME, document)).answer
    messages = await gate.messages(made["id"])
    shape = [(message["role"], message.get("tool_call_id")) for message in messages]
    assert shape == [
        ("user", None),
        ("assistant", None),
        ("tool", "a"),
        ("tool", "b"),
        ("user", None),
        ("assistant", None),
        ("tool", "c"),
    ]
    assert messages[3]["content"] == messages[6]["content"] == UNANSWERED
    assert messages[3]["metadata"] == {"closed": True}
    assert any("b, c" in note["what"] for note in made["notes"])
    # The same again: so a merge of the two recognises every message.
    again = (await gate.manager.import_document(ME, document)).answer
    assert await ids(gate, again["id"]) == await ids(gate, made["id"])


async def test_calls_that_wait_in_our_own_export_wait_after_the_import(gate: Gateway) -> None:
    await talk(gate, "s", "hi")
    calls = [{"id": "x", "name": "look", "arguments": {}}]
    await say(gate, "s", NewMessage("assistant", "", tool_calls=calls))
    export = await gate.manager.export(ME, "s", ExportOptions("json"))
    document = b"".join([chunk async for chunk in export.chunks])
    made = (await gate.manager.import_document(ME, document)).answer
    assert made["notes"] == []
    assert await ids(gate, made["id"]) == await ids(gate, "s")
    await say(gate, made["id"], NewMessage("tool", "found", tool_call_id="x"))


def own(*messages: dict[str, Any], covers: int | None = None) -> bytes:
    made = [
        {"id": f"msg_{n}", "status": "complete", "created_at": TIME, "metadata": {}, **message}
        for n, message in enumerate(messages)
    ]
    summary = {"summary": "short", "turn_count": 1, "covers_messages": covers}
    document: dict[str, Any] = {
        "bamboo_export": 1,
        "session": {"created_at": TIME},
        "summary": summary if covers is not None else None,
        "messages": made,
    }
    return json.dumps(document).encode()


CALL = [{"id": "x", "name": "look", "arguments": {}}]
PASSED_OVER: list[dict[str, Any]] = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "", "tool_calls": CALL},
    {"role": "user", "content": "b"},
    {"role": "user", "content": "c"},
]


async def test_a_summary_covers_the_same_messages_when_calls_are_closed(gate: Gateway) -> None:
    document = own(*PASSED_OVER, covers=3)
    made = (await gate.manager.import_document(ME, document)).answer
    assert len(await ids(gate, made["id"])) == 5
    resumed = (await resumed_message(gate, made["id"]))["content"]
    assert "[user]\nc" in resumed
    assert "[user]\nb" not in resumed


@pytest.mark.parametrize("strategy", ["append", "interleave", "replace"])
async def test_what_a_merge_brings_has_a_result_for_each_call(gate: Gateway, strategy: str) -> None:
    await talk(gate, "t", "ours")
    await passed_over(gate, "src")
    wanted = Merge("src", strategy)  # type: ignore[arg-type]
    merged = (await gate.manager.merge(ME, "t", wanted)).answer
    assert [note["place"] for note in merged["notes"]] == ["tool calls"]
    waiting: list[str] = []
    for message in await gate.messages("t"):
        if message["role"] == "tool":
            waiting.remove(message["tool_call_id"])
        else:
            assert not waiting
            waiting = [call["id"] for call in message.get("tool_calls", ())]
    assert not waiting
    assert merged["message_count"] == 5 + (strategy != "replace")
    again = (await gate.manager.merge(ME, "t", wanted)).answer
    assert again["message_count"] == merged["message_count"]
    assert "notes" not in again


async def passed_over(gate: Gateway, session_id: str) -> None:
    """Make a session with a call that was passed over, as older logs may hold."""
    epoch = gate.store.next_epoch()
    writer = HistoryWriter(SessionHead(session_id, epoch), gate.clock.now_ms(), 1 << 20)
    shapes = json.loads(own(*PASSED_OVER))["messages"]
    drafts = [Draft("session_created", {}), *(message_draft(Message.of(one)) for one in shapes)]
    async with gate.store.creation(session_id, epoch) as creation:
        await creation.write(writer.events(drafts))
        await creation.publish(writer.head)


async def test_agents_get_the_results_that_come_after_a_summary_with_their_calls(
    gate: Gateway,
) -> None:
    life = gate.manager
    await talk(gate, "s", "old")
    call, *results = exchange("x", "y")
    await say(gate, "s", call, results[0])
    await life.save_summary(ME, "s", "They looked.")
    await say(gate, "s", results[1])
    await gate.chat("s", "and now?", run_id="r")
    await eventually(lambda: gate.agent.script("r").turn)
    turn = gate.agent.script("r").turn
    assert turn is not None
    assert [message.role for message in turn.messages] == [
        "system",
        "assistant",
        "tool",
        "tool",
        "user",
    ]
    resumed = (await resumed_message(gate, "s"))["content"]
    assert "result y" in resumed
    assert "old" not in resumed
