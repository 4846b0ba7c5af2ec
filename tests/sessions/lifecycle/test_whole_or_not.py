"""R9: every verb is whole or not at all, whichever call of the store fails; and at once."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.events import Complete, Token
from bamboo_gateway.sessions.commands import NewMessage
from bamboo_gateway.sessions.lifecycle.export import ExportOptions
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.sessions.lifecycle.merge_plan import Merge
from bamboo_gateway.storage.factory import make_store
from tests.sessions.lifecycle.faults import NthFault
from tests.sessions.lifecycle.talk import exchange, ids, say, talk
from tests.support.clocks import FakeClock
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, gateway, settings_of

DOCUMENT = json.dumps(
    {
        "bamboo_export": 1,
        "session": {"id": "new", "created_at": "2026-01-01T00:00:00.000Z"},
        "summary": {"summary": "x", "turn_count": 1},
        "messages": [
            {
                "id": f"msg_{number}",
                "role": "user",
                "content": "x",
                "status": "complete",
                "created_at": "2026-01-01T00:00:00.000Z",
                "metadata": {},
            }
            for number in range(3)
        ],
    }
).encode()

Verb = Callable[[Gateway], Awaitable[Any]]
VERBS: dict[str, Verb] = {
    "archive": lambda gate: gate.manager.archive(ME, "s"),
    "restore": lambda gate: gate.manager.restore(ME, "kept"),
    "delete_archived": lambda gate: gate.manager.delete_archived(ME, "kept"),
    "fork": lambda gate: gate.manager.fork(ME, "s", Fork(new_id="new")),
    "import": lambda gate: gate.manager.import_document(ME, DOCUMENT, keep_id=True),
    "append": lambda gate: gate.manager.merge(ME, "s", Merge("other")),
    "interleave": lambda gate: gate.manager.merge(ME, "s", Merge("other", "interleave")),
    "replace": lambda gate: gate.manager.merge(ME, "s", Merge("other", "replace")),
    "summary": lambda gate: gate.manager.save_summary(ME, "s", "x"),
    "clean": lambda gate: gate.manager.clean(ME, before_ms=gate.clock.now_ms() + 1),
}


async def picture(gate: Gateway) -> dict[str, Any]:
    """Return all sessions as they are stored, by the store's own path."""
    found: dict[str, Any] = {}
    for name in ("s", "other", "kept", "new"):
        head = await gate.store.inner.inner.load(name)  # type: ignore[attr-defined]
        if head is not None:
            records = await gate.store.inner.inner.read(  # type: ignore[attr-defined]
                name, head.epoch, 0, limit=1000, max_bytes=1 << 20
            )
            events = [json.loads(record.body) for record in records]
            assert [event["seq"] for event in events] == list(range(1, head.seq + 1))
            # That a parent hears of its fork is news, and no part of the fork.
            kinds = [event["type"] for event in events if event["type"] != "session_forked"]
            messages = [event["message_id"] for event in events if event["type"] == "message"]
            found[name] = (kinds, messages, head.logged_state, head.message_count)
    return found


@pytest.mark.parametrize("kind", ["memory:", "jsonl:"])
@pytest.mark.parametrize("verb", VERBS)
async def test_a_command_takes_effect_whole_or_not_at_all_whichever_store_call_fails(
    verb: str, kind: str, tmp_path: Path
) -> None:
    outcomes: set[str] = set()
    for nth in range(1, 40):
        clock = FakeClock()
        changed: dict[str, Any] = {"storage_url": kind, "data_dir": tmp_path / str(nth)}
        inner = make_store(settings_of(**changed), clock)
        await inner.open()
        faults = NthFault(inner)  # type: ignore[abstract]
        try:
            with anyio.fail_after(DEADLINE_SECONDS):
                async with gateway(faults, clock=clock, **changed) as gate:
                    await talk(gate, "s", "a", "b")
                    await say(gate, "s", *exchange("x"))
                    clock.advance(1)
                    await talk(gate, "other", "c")
                    await talk(gate, "kept", "d")
                    await gate.manager.archive(ME, "kept")
                    before = await picture(gate)
                    faults.arm(nth)
                    failed = False
                    try:
                        await VERBS[verb](gate)
                    except BambooError:
                        failed = True
                    fired = faults.fired
                    faults.arm(None)
                    after = await picture(gate)
                    if verb == "clean":
                        # Each session by itself; those that are there are there whole.
                        assert after.items() <= before.items()
                    elif failed:
                        assert after == before, nth
                    else:
                        assert after != before or verb == "summary", nth
                    outcomes.add("failed" if failed else "done")
                    # And whatever happened, the same can be asked again.
                    if failed:
                        await VERBS[verb](gate)
                    if not fired:
                        break
        finally:
            await inner.aclose()
    else:
        pytest.fail("the verb makes more calls than were tried")
    assert "done" in outcomes


async def test_everything_at_once_against_running_chats(gate: Gateway) -> None:
    is_memory = gate.settings.storage_url == "memory:"
    await everything_at_once(gate, with_archiving=is_memory)


@pytest.mark.slow
async def test_archiving_and_restoring_at_once_with_all_the_rest(gate: Gateway) -> None:
    await everything_at_once(gate, with_archiving=True)


async def everything_at_once(gate: Gateway, *, with_archiving: bool) -> None:
    life = gate.manager
    await talk(gate, "s", "a", "b")
    await say(gate, "s", *exchange("x"))
    base = await ids(gate, "s")
    refusals: list[str] = []

    async def quietly(call: Awaitable[Any]) -> None:
        try:
            await call
        except BambooError as error:
            refusals.append(error.code)

    async def chat(number: int) -> None:
        gate.agent.do(f"r{number}", Token("ok"), Complete())
        await gate.chat("s", f"chat {number}", run_id=f"r{number}")
        await gate.ended(f"r{number}")

    with anyio.fail_after(2 * DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(quietly, chat(number))
                child = f"f{number}"
                tasks.start_soon(quietly, life.fork(ME, "s", Fork(new_id=child)))
                tasks.start_soon(quietly, life.merge(ME, "s", Merge(child)))
                tasks.start_soon(quietly, life.merge(ME, child, Merge("s", "interleave")))
                if with_archiving:
                    tasks.start_soon(quietly, life.archive(ME, "s"))
                    tasks.start_soon(quietly, life.restore(ME, "s"))
                tasks.start_soon(quietly, life.clean(ME, before_ms=1))
                tasks.start_soon(quietly, life.tree(ME, "s"))
    assert set(refusals) <= {
        "run-active",
        "session-archived",
        "not-archived",
        "session-not-found",
        "open-tool-calls",
        "session-closed",
    }
    with anyio.fail_after(2 * DEADLINE_SECONDS):
        head = await gate.store.load("s")
        if head is not None and head.logged_state == "archived":
            await life.restore(ME, "s")
        children = [f"f{number}" for number in range(6)]
        children = [name for name in children if await gate.store.load(name) is not None]
        assert children, refusals
        for name in children:
            await life.merge(ME, "s", Merge(name))
    for name in ["s", *children]:
        named = await ids(gate, name)
        assert len(set(named)) == len(named)
        assert [one for one in named if one in base] == base
        log = await gate.log(name)
        assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
        head = await gate.store.load(name)
        assert head is not None
        assert head.message_count == len(named)


@pytest.mark.parametrize("strategy", ["append", "interleave"])
async def test_forking_and_merging_keeps_each_message_once(gate: Gateway, strategy: str) -> None:
    import random

    chance = random.Random(7)
    life = gate.manager
    said: set[str] = set(await talk(gate, "s", "start"))
    names = ["s"]
    for step in range(60):
        gate.clock.advance(chance.random())
        name = chance.choice(names)
        match chance.randrange(3):
            case 0 if len(names) < 8:
                child = f"n{step}"
                index = chance.randrange(len(await ids(gate, name)))
                await life.fork(ME, name, Fork(message_index=index, new_id=child))
                names.append(child)
            case 1 if name != "s":
                await life.merge(ME, "s", Merge(name, strategy))  # type: ignore[arg-type]
            case _:
                told = [NewMessage("user", "x")] if chance.random() < 0.5 else exchange(f"c{step}")
                said |= set(await say(gate, name, *told))
    for name in names[1:]:
        await life.merge(ME, "s", Merge(name, strategy))  # type: ignore[arg-type]
    # Interleaving makes copies, which name what they are copied from.
    final = [one.get("copied_from", one["id"]) for one in await gate.messages("s")]
    assert sorted(final) == sorted(said)
    waiting: set[str] = set()
    for message in await gate.messages("s"):
        if message["role"] == "tool":
            waiting.remove(message["tool_call_id"])
        else:
            assert not waiting
            waiting = {call["id"] for call in message.get("tool_calls", ())}


async def test_an_export_is_of_one_moment(gate: Gateway) -> None:
    await talk(gate, "s", *(f"m{number}" for number in range(600)))
    export = await gate.manager.export(ME, "s", ExportOptions("json"))
    await say(gate, "s", NewMessage("user", "later"))
    document = json.loads(b"".join([chunk async for chunk in export.chunks]))
    assert len(document["messages"]) == document["message_count"] == 600
