"""R3, R9: a command that is cancelled at any await is whole or nothing, and can be repeated.

An operation is run again and again, and its caller cancelled the first time it waits, the second,
the third … until it comes through. What is found after each is held against what an undisturbed
operation leaves.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from bamboo_gateway.domain.events import Complete, Token
from bamboo_gateway.sessions.commands import Idempotency, NewMessage, NewSession
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.sessions.lifecycle.merge_plan import Merge
from bamboo_gateway.storage.factory import make_store
from tests.sessions.lifecycle.talk import exchange, say, talk
from tests.support.clocks import FakeClock
from tests.support.gateways import (
    DEADLINE_SECONDS,
    ME,
    Gateway,
    Reader,
    eventually,
    gateway,
    quiet,
    settings_of,
)

STEPS_MAX = 200
KEY = Idempotency("k", "POST /x", "b")
SAID = [NewMessage("user", "new one"), NewMessage("user", "new two")]
EVENTS = [{"type": "custom", "name": "n", "value": number} for number in range(3)]


async def lines() -> AsyncIterator[list[bytes]]:
    yield [b'{"type":"custom","name":"n","value":1}', b'{"type":"custom","name":"n","value":2}']


Act = Callable[[Gateway], Coroutine[Any, Any, Any]]
ACTS: dict[str, Act] = {
    "create": lambda g: g.manager.create_session(ME, NewSession(id="new"), KEY),
    "create without an id": lambda g: g.manager.create_session(ME, NewSession(), KEY),
    "add messages": lambda g: g.manager.add_messages(ME, "s", SAID, KEY),
    "append events": lambda g: g.manager.append_events(ME, "s", EVENTS, KEY),
    "append lines": lambda g: g.manager.append_event_lines(ME, "s", lines(), KEY),
    "chat": lambda g: g.chat("s", "asked", "r", key="k"),
    "chat in a new session": lambda g: g.chat("new", "asked", "r", key="k"),
    "open a run": lambda g: g.manager.open_run(ME, "s", "r", KEY),
    "close": lambda g: g.manager.close_session(ME, "s", KEY),
    "fork": lambda g: g.manager.fork(ME, "s", Fork(new_id="new"), KEY),
    "merge": lambda g: g.manager.merge(ME, "s", Merge("other"), KEY),
    "interleave": lambda g: g.manager.merge(ME, "s", Merge("other", "interleave"), KEY),
    "replace": lambda g: g.manager.merge(ME, "s", Merge("other", "replace"), KEY),
    "archive": lambda g: g.manager.archive(ME, "s", KEY),
    "restore": lambda g: g.manager.restore(ME, "kept", KEY),
}


class Interrupted:
    """Awaits something, and calls back just before it waits for the nth time."""

    def __init__(self, work: Coroutine[Any, Any, Any], nth: int, call: Callable[[], None]) -> None:
        self._work = work
        self._left = nth
        self._call = call

    def __await__(self) -> Generator[Any, Any, Any]:
        resume: Callable[[], Any] = lambda: self._work.send(None)  # noqa: E731
        while True:
            try:
                waited_for = resume()
            except StopIteration as end:
                return end.value
            self._left -= 1
            if self._left == 0:
                self._call()
            try:
                yield waited_for
            except BaseException as error:  # noqa: BLE001 - handed on, as `await` does
                resume = lambda error=error: self._work.throw(error)  # type: ignore[misc] # noqa: E731
            else:
                resume = lambda: self._work.send(None)  # noqa: E731


async def cancelled_at(nth: int, work: Coroutine[Any, Any, Any]) -> tuple[bool, bool]:
    """Run something and cancel it where it waits for the nth time.

    Returns:
        Whether it waited so often, and whether the cancellation ended it.
    """
    reached = False

    with anyio.CancelScope() as scope:

        def cancel() -> None:
            nonlocal reached
            reached = True
            scope.cancel()

        await Interrupted(work, nth, cancel)
    return reached, scope.cancelled_caught


async def at_rest(gate: Gateway) -> None:
    """Wait until everything decided is durable and nothing hangs on a session."""
    await quiet()
    for live in list(gate.manager._registry.sessions):
        await live.settled()
    await eventually(lambda: not gate.leftovers(), "nothing is left over")


async def picture(gate: Gateway) -> dict[str, Any]:
    """Return every session as the store has it, without what a parent is told of its forks."""
    found: dict[str, Any] = {"sessions": (await gate.store.usage()).sessions}
    for name in ("s", "other", "kept", "new"):
        head = await gate.store.inner.load(name)
        if head is None:
            continue
        events = await gate.log(name)
        assert [event["seq"] for event in events] == list(range(1, head.seq + 1))
        named = [event["message_id"] for event in events if event["type"] == "message"]
        kinds = [event["type"] for event in events]
        assert kinds.count("session_forked") <= 1
        found[name] = (
            [kind for kind in kinds if kind != "session_forked"],
            [
                event.get("content", event.get("value"))
                for event in events
                if event["type"] in {"message", "custom"} and "run_id" not in event
            ],
            len(named),
            head.logged_state,
            head.message_count,
        )
    return found


async def picture_in(gate: Gateway, *allowed: dict[str, Any]) -> dict[str, Any]:
    """Return the picture once it is one of these: a thread may still be publishing."""
    with anyio.move_on_after(DEADLINE_SECONDS):
        while (found := await picture(gate)) not in allowed:
            await checkpoint()
    assert found in allowed
    return found


async def take(reader: Reader, events: int) -> None:
    """Take until so many events have come."""
    while len(reader.events) < events:
        assert await reader.take() is not None


async def prepare(gate: Gateway) -> None:
    await talk(gate, "s", "a", "b")
    await say(gate, "s", *exchange("x"))
    gate.clock.advance(1)
    await talk(gate, "other", "c")
    await talk(gate, "kept", "d")
    await gate.manager.archive(ME, "kept")
    gate.agent.do("r", Token("ok"), Complete())


async def finish(gate: Gateway, act: str) -> None:
    """Bring the gateway to rest; an opened external run stays open until it is cancelled."""
    if act == "open a run":
        await gate.manager.cancel_session(ME, "s")
    await at_rest(gate)


async def in_fresh_gateways(
    kind: str, root: Path, do: Callable[[Gateway, int], Awaitable[bool]]
) -> int:
    """Call `do` with a prepared gateway and 1, 2, 3 … until it says that it is done."""
    for nth in range(STEPS_MAX):
        clock = FakeClock()
        changed: dict[str, Any] = {"storage_url": kind, "data_dir": root / str(nth)}
        store = make_store(settings_of(**changed), clock)
        await store.open()
        try:
            with anyio.fail_after(DEADLINE_SECONDS):
                async with gateway(store, clock=clock, **changed) as gate:
                    await prepare(gate)
                    await at_rest(gate)
                    if await do(gate, nth):
                        return nth
        finally:
            await store.aclose()
    pytest.fail("it waits more often than was tried")


@pytest.mark.parametrize("kind", ["memory:", "jsonl:"])
@pytest.mark.parametrize("act", ACTS)
async def test_r3_r9_a_command_cancelled_at_any_await_is_whole_or_nothing_and_repeats_once(
    act: str, kind: str, tmp_path: Path
) -> None:
    before: dict[str, Any] = {}
    whole: dict[str, Any] = {}
    seen: set[str] = set()

    async def try_once(gate: Gateway, nth: int) -> bool:
        nonlocal before, whole
        if nth == 0:
            before = await picture(gate)
            await ACTS[act](gate)
            await finish(gate, act)
            whole = await picture(gate)
            assert whole != before
            return False
        reached, was_cancelled = await cancelled_at(nth, ACTS[act](gate))
        await finish(gate, act)
        found = await picture_in(gate, before, whole)
        assert was_cancelled or found == whole
        seen.add("nothing" if found == before else "whole")
        await ACTS[act](gate)
        await finish(gate, act)
        assert await picture(gate) == whole, nth
        assert gate.agent.asked == (["r"] if act.startswith("chat") else [])
        # And whoever comes next is served.
        if whole.get("s", before["s"])[3] is None:
            await say(gate, "s", NewMessage("user", "later"))
        await at_rest(gate)
        return not reached

    waits = await in_fresh_gateways(kind, tmp_path, try_once)
    assert waits > 1, "it never waited"
    assert "whole" in seen


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"from_start": True},
        {"until_complete": True, "run_id": "done"},
        {"until_complete": True, "from_start": True},
        {"reconnect": True, "connection_id": "tab"},
    ],
    ids=str,
)
@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize("kind", ["memory:", "jsonl:"])
async def test_r6_r7_a_stream_cancelled_while_it_opens_leaves_no_connection(
    kind: str, cold: bool, request_: dict[str, Any], tmp_path: Path
) -> None:
    async def try_once(gate: Gateway, nth: int) -> bool:
        gate.agent.do("done", Token("ok"), Complete())
        await gate.chat("s", "asked", "done")
        await gate.ended("done")
        await at_rest(gate)
        log = await gate.log("s")
        if cold:
            gate.clock.advance(gate.settings.idle_timeout_seconds + 1)
            gate.manager._registry.evict_idle()
        reader = None

        async def open_it() -> None:
            nonlocal reader
            reader = await gate.connect("s", **request_)

        reached, was_cancelled = await cancelled_at(nth + 1, open_it())
        if reader is not None:
            assert not was_cancelled
            reader.close()
        await at_rest(gate)
        assert (await gate.manager.stats())["streams_open"] == 0
        assert await gate.manager.connections(ME, "s") == []
        assert await gate.log("s") == log
        async with await gate.reader("s", from_start=True) as again:
            await take(again, len(log))
            assert [frame.seq for frame in again.events] == [event["seq"] for event in log]
        return not reached

    await in_fresh_gateways(kind, tmp_path, try_once)


@pytest.mark.parametrize("kind", ["memory:", "jsonl:"])
async def test_r2_a_reader_cancelled_at_any_await_misses_nothing_when_it_comes_back(
    kind: str, tmp_path: Path
) -> None:
    async def try_once(gate: Gateway, nth: int) -> bool:
        await gate.manager.append_events(ME, "s", EVENTS)
        expected = [event["seq"] for event in await gate.log("s")]
        gate.clock.advance(gate.settings.idle_timeout_seconds + 1)
        gate.manager._registry.evict_idle()
        reader = await gate.reader("s", from_start=True)

        reached, _ = await cancelled_at(nth + 1, take(reader, len(expected)))
        last_id = reader.last_id if reader.frames else None
        reader.close()
        async with await gate.reader("s", from_start=True, last_event_id=last_id) as again:
            await take(again, len(expected) - len(reader.events))
            assert [frame.seq for frame in reader.events + again.events] == expected
        await at_rest(gate)
        return not reached

    await in_fresh_gateways(kind, tmp_path, try_once)
