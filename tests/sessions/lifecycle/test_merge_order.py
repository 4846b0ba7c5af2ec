"""A merge that walks both sessions in pages says what one that held both would say."""

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.errors import Refused, TooLarge
from bamboo_gateway.domain.events import Draft
from bamboo_gateway.domain.message_assembler import message_draft
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.tool_order import settled
from bamboo_gateway.sessions import history as pages
from bamboo_gateway.sessions.commands import NewSession
from bamboo_gateway.sessions.lifecycle import merge_plan
from bamboo_gateway.sessions.lifecycle.bulk_creation import History
from bamboo_gateway.sessions.lifecycle.merge_plan import Merge
from bamboo_gateway.sessions.runs.factory import created_draft
from tests.sessions.lifecycle.talk import talk, texts
from tests.support.gateways import ME, Gateway

STRATEGIES = ("append", "interleave", "replace")


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PAGE", 2)


def history(chance: random.Random, mark: str, shared: list[Message]) -> list[Message]:
    """Make a conversation: it shares its beginning, its clock steps back, calls are passed over.

    Some of its ids stand twice, or in both with other words.
    """
    said = shared[: chance.randint(0, len(shared))]
    now = 1_000
    for number in range(chance.randint(0, 9)):
        now += chance.choice([0, 0, 5, 10, -7])
        name = chance.choice([f"{mark}{number}", f"{mark}{number}", "both", f"{mark}0"])
        one = Message(name, "user", chance.choice(["x", "y", mark]), format_ms(now))
        if chance.random() < 0.3:
            calls: list[dict[str, Any]] = [
                {"id": f"c{n}", "name": "f", "arguments": {}} for n in range(2)
            ]
            one = Message(name, "assistant", "", format_ms(now), tool_calls=calls)
            said.append(one)
            for call in chance.sample(calls, chance.randint(0, 2)):
                now += chance.choice([0, 3])
                result = Message(
                    f"{name}-{call['id']}", "tool", "r", format_ms(now), tool_call_id=call["id"]
                )
                said.append(result)
            continue
        said.append(one)
    return said


async def store(gate: Gateway, session_id: str, messages: list[Message]) -> None:
    async def pages(_: int) -> AsyncIterator[list[Draft]]:
        yield [created_draft(NewSession(session_id), None)]
        yield [message_draft(message) for message in messages]

    made = History(pages, lambda head: {"id": head.id})
    await gate.create_whole(ME, session_id, made)


def expected(ours: list[Message], source: list[Message], strategy: str) -> list[Message]:
    """Return the target's messages after the merge, the simple way."""
    theirs, _ = settled(without_open_calls(source), at_end=False)
    if strategy == "replace" and ours:
        return theirs
    known = {said_as(name, one) for one in ours for name in (one.id, one.origin_id)}
    new: list[Message] = []
    for message in theirs:
        if said_as(message.id, message) in known or said_as(message.origin_id, message) in known:
            continue
        known.add(said_as(message.origin_id, message))
        new.append(message)
    if strategy == "interleave" and new:
        return in_time_order(ours, new)
    return [*ours, *new]


def said_as(name: str, message: Message) -> str:
    """Return what makes a message the same one: where it comes from, and what it says."""
    said = (name, message.role, message.content, message.tool_calls, message.tool_call_id)
    return repr(said)


def without_open_calls(messages: list[Message]) -> list[Message]:
    answered: set[str | None] = set()
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if message.role == "tool":
            answered.add(message.tool_call_id)
            continue
        calls = {call["id"] for call in message.tool_calls or ()}
        return messages if calls <= answered else messages[:index]
    return messages


def in_time_order(ours: list[Message], theirs: list[Message]) -> list[Message]:
    timed: list[tuple[str, int, int, Message]] = []
    for side, messages in enumerate((ours, theirs)):
        latest = ""
        for number, message in enumerate(messages):
            if message.role != "tool" or not number:
                latest = max(latest, message.created_at)
            timed.append((latest, side, number, message))
    return [message for *_, message in sorted(timed, key=lambda one: one[:3])]


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_any_two_histories_are_merged_as_if_they_were_held_in_memory(
    gate: Gateway, strategy: Any
) -> None:
    chance = random.Random(strategy)
    for number in range(60):
        shared = history(chance, "s", [])
        ours, theirs = history(chance, "o", shared), history(chance, "t", shared)
        target, source = f"target-{number}", f"source-{number}"
        await store(gate, target, ours)
        await store(gate, source, theirs)
        for _ in range(2):
            said = expected(ours, theirs, strategy)
            try:
                await gate.manager.merge(ME, target, Merge(source, strategy))
            except Refused:
                said = ours  # calls of the target wait: nothing has changed
            before = ours
            ours = [Message.of(shape) for shape in await gate.messages(target)]
            assert [said_as(one.origin_id, one) for one in ours] == [
                said_as(one.origin_id, one) for one in said
            ]
            assert [one.created_at for one in ours] == [one.created_at for one in said]
            if strategy == "append":
                assert ours[: len(before)] == before


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_r11_more_messages_than_are_compared_are_refused(
    gate: Gateway, strategy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_plan, "MERGE_MESSAGES_MAX", 5)
    await talk(gate, "t", "a", "b", "c")
    await talk(gate, "s", "d", "e", "f")
    with pytest.raises(TooLarge, match="at most 5 messages"):
        await gate.manager.merge(ME, "t", Merge("s", strategy))
    assert await texts(gate, "t") == ["a", "b", "c"]
    await talk(gate, "u", "d", "e")
    await gate.manager.merge(ME, "t", Merge("u", strategy))
    assert (await texts(gate, "t"))[-2:] == ["d", "e"]
