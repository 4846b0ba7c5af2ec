"""Deltas that gather while a commit is in flight: fewer events, and never another text.

The store answers commits when the test says so.
"""

from contextlib import suppress
from typing import Any, Literal

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bamboo_gateway.domain.errors import StorageFailed
from bamboo_gateway.domain.events import (
    DELTA_TYPES,
    AgentEvent,
    Complete,
    Custom,
    Failed,
    MessageSaid,
    Thinking,
    Token,
    ToolComplete,
    ToolDelta,
    ToolError,
    ToolResult,
    ToolStart,
)
from bamboo_gateway.domain.limits import COALESCED_BYTES_MAX
from bamboo_gateway.sessions.runs import executor
from tests.support.agents import RETURN
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, crash, eventually, gateway, quiet


async def begin(gate: Gateway, *, coalesce: bool = True) -> None:
    """Start a run, and hold all its commits from now on."""
    gate.agent.coalesce = coalesce
    await gate.chat(run_id="r")
    await gate.agent.script("r").started.wait()
    await quiet()
    gate.store.hold_appends()


async def say(gate: Gateway, *events: AgentEvent | object) -> None:
    """Let the agent go on, until all of it has arrived."""
    gate.agent.do("r", *events)
    await quiet()


async def answer(gate: Gateway) -> None:
    """Store what is in flight, and hold what follows it."""
    gate.store.release_appends()
    gate.store.hold_appends()
    await quiet()


async def deltas(gate: Gateway) -> list[str]:
    return [event["content"] for event in await gate.log() if event["type"] in DELTA_TYPES]


async def said(gate: Gateway) -> list[str]:
    return [message["content"] for message in await gate.messages()][1:]


async def test_text_gathers_only_while_a_commit_is_in_flight(gate: Gateway) -> None:
    """R1: what is said while nothing is in flight is stored and shown at once."""
    await begin(gate)
    async with await gate.reader() as reader:
        await say(gate, Token("The "))
        assert gate.store.held == 1
        await say(gate, Token("quick "), Token("brown "))
        assert gate.store.held == 1
        await reader.take_what_is_there()
        assert "token" not in reader.types
        await answer(gate)
        assert await deltas(gate) == ["The "]
        await say(gate, Token("fox "))
        await answer(gate)
        await answer(gate)
        assert await deltas(gate) == ["The ", "quick brown ", "fox "]
        gate.store.release_appends()
        await say(gate, Token("jumps. "))
        await say(gate, Token("Twice. "), Complete())
        await gate.ended("r")
        frames = await reader.take_until("complete")
    assert await deltas(gate) == ["The ", "quick brown ", "fox ", "jumps. ", "Twice. "]
    assert await said(gate) == ["The quick brown fox jumps. Twice. "]
    log = await gate.log()
    shown = [frame.data for frame in frames if frame.type == "token"]
    assert shown == [event for event in log if event["type"] == "token"]
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))


async def test_an_agent_with_coalesce_off_keeps_each_of_its_deltas(gate: Gateway) -> None:
    await begin(gate, coalesce=False)
    await say(gate, Token("a"), Token("b"), Token("c"), Thinking("d"), Thinking("e"))
    gate.store.release_appends()
    await say(gate, Complete())
    await gate.ended("r")
    assert await deltas(gate) == ["a", "b", "c", "d", "e"]


BETWEEN: dict[str, tuple[list[AgentEvent], list[str]]] = {
    "thinking": ([Thinking("x"), Thinking("y")], ["ab", "xy", "cd"]),
    "a tool call": ([ToolStart("c", "t")], ["ab", "cd"]),
    "a tool call and its result": ([ToolStart("c", "t"), ToolError("c", "no")], ["ab", "cd"]),
    "output of a tool": (
        [ToolStart("c", "t"), ToolDelta("c", "x"), ToolDelta("c", "y"), ToolDelta("e", "z")],
        ["ab", "xy", "z", "cd"],
    ),
    "an event of its own": ([Custom("n")], ["ab", "cd"]),
    "a whole message": (
        [MessageSaid({"role": "assistant", "content": "ab"})],
        ["ab", "cd"],
    ),
}


@pytest.mark.parametrize("what", BETWEEN)
async def test_nothing_gathers_across_another_event(what: str, gate: Gateway) -> None:
    between, expected = BETWEEN[what]
    await begin(gate)
    await say(gate, Custom("first"), Token("a"), Token("b"), *between, Token("c"), Token("d"))
    gate.store.release_appends()
    await say(gate, Complete())
    await gate.ended("r")
    assert await deltas(gate) == expected


async def test_nothing_gathers_across_an_event_of_somebody_else(gate: Gateway) -> None:
    """R2: the log has everything in the order in which it came."""
    await begin(gate)
    async with anyio.create_task_group() as tasks:
        await say(gate, Custom("first"), Token("a"), Token("b"))
        posted = [{"type": "custom", "name": "posted"}]
        tasks.start_soon(gate.manager.append_events, ME, "s", posted)
        await say(gate, Token("c"), Token("d"))
        gate.store.release_appends()
    await say(gate, Complete())
    await gate.ended("r")
    log = [event.get("content") or event.get("name") for event in await gate.log()]
    assert log[log.index("first") :][:4] == ["first", "ab", "posted", "cd"]


@pytest.mark.parametrize("event_bytes_max", [4096, 1 << 20])
async def test_what_gathers_stays_within_the_largest_event(event_bytes_max: int) -> None:
    """R11."""
    async with gateway(max_event_bytes=event_bytes_max) as gate:
        await begin(gate)
        words = [Token(f"wörd {number} ") for number in range(3000)]
        await say(gate, *words)
        gate.store.release_appends()
        await say(gate, Complete())
        await gate.ended("r")
        found = await deltas(gate)
        assert "".join(found) == "".join(word.content for word in words)
        sizes = [len(body) for body in await bodies(gate, "token")]
        bound = min(event_bytes_max, COALESCED_BYTES_MAX)
        assert all(size <= bound for size in sizes)
        assert sizes.count(max(sizes)) < len(sizes) < 100
        # A message may end before the event is full, since it has to fit into an event too.
        assert max(sizes) > bound / 2


async def test_text_larger_than_what_gathers_is_an_event_by_itself(gate: Gateway) -> None:
    await begin(gate)
    large = "x" * 2 * COALESCED_BYTES_MAX
    await say(gate, Token("a"), Token("b"), Token(large), Token("c"), Token("d"))
    gate.store.release_appends()
    await say(gate, Complete())
    await gate.ended("r")
    assert await deltas(gate) == ["a", "b", large, "cd"]
    assert await said(gate) == ["ab" + large + "cd"]


@pytest.mark.parametrize("text", ["", "x" * 100])
async def test_text_that_gathers_counts_as_run_ahead(text: str, gate: Gateway) -> None:
    """R11: also a text without a byte takes memory."""
    await begin(gate)
    await say(gate, *[Token(text)] * 50_000)
    with anyio.fail_after(DEADLINE_SECONDS):
        while not gate.live().is_ahead:
            await quiet()
    await quiet()
    taken = gate.agent.script("r").taken
    assert taken < 10_000
    await quiet()
    assert gate.agent.script("r").taken == taken
    gate.store.release_appends()
    await say(gate, Complete())
    await gate.ended("r")
    assert "".join(await said(gate)) == text * 50_000


async def test_a_cancelled_run_keeps_what_had_gathered(gate: Gateway) -> None:
    """R5."""
    await begin(gate)
    await say(gate, Token("a"), Token("b"), Token("c"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gate.manager.cancel_run, ME, "s", "r")
        await quiet()
        gate.store.release_appends()
    assert (await gate.ended("r"))["status"] == "cancelled"
    assert await deltas(gate) == ["a", "bc"]
    [_, message] = await gate.messages()
    assert (message["content"], message["status"]) == ("abc", "incomplete")


async def test_text_that_gathered_behind_a_failed_commit_is_undone_with_it(gate: Gateway) -> None:
    """R3, R5: no seq of it was shown, and the message keeps what was stored."""
    await begin(gate)
    await say(gate, Token("a"))
    await answer(gate)
    await say(gate, Token("b"), Token("c"), Token("d"))
    gate.store.release_appends(StorageFailed("The disk is broken."))
    run = await gate.ended("r")
    assert (run["status"], run["error"]["code"]) == ("failed", "storage_failed")
    assert await deltas(gate) == ["a"]
    [_, message] = await gate.messages()
    assert (message["content"], message["status"]) == ("a", "incomplete")
    log = await gate.log()
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))


async def test_text_that_had_gathered_at_a_kill_was_never_shown(gate: Gateway) -> None:
    """R1, R5: the next process ends the run with what was durable."""
    await begin(gate)
    reader = await gate.reader()
    await say(gate, Token("a"), Token("b"), Token("c"))
    await answer(gate)
    await reader.take_what_is_there()
    left = await crash(gate)
    async with gateway(left, clock=gate.clock) as after:
        assert (await after.ended("r"))["error"]["code"] == "interrupted"
        assert await said(after) == ["a"]
        assert [f.data["content"] for f in reader.frames if f.type == "token"] == ["a"]
        shown = [frame.data for frame in reader.events]
        assert [event for event in await after.log() if event in shown] == shown


async def test_a_drain_ends_a_run_with_what_had_gathered() -> None:
    async with gateway() as gate:
        store = gate.store.inner
        await begin(gate)
        await say(gate, Token("a"), Token("b"), Token("c"))
        gate.store.release_appends()
        await quiet()
        gate.store.hold_appends()
        await say(gate, Token("d"), Token("e"), Token("f"))
        gate.manager.begin_drain()
        gate.store.release_appends()
    head = await store.load("s")
    assert head is not None
    assert head.active is None


# -- against coalesce=false ---------------------------------------------------------------------

Step = tuple[Literal["say"], AgentEvent | object] | tuple[Literal["answer", "fail", "post"], None]

TEXT = st.sampled_from(["a", "bc ", "ü\u2028", "", '<&"\\', "x" * 700])
CALLS = st.sampled_from(["c1", "c2"])
EVENTS: st.SearchStrategy[AgentEvent] = st.one_of(
    st.builds(Token, TEXT),
    st.builds(Token, TEXT),
    st.builds(Token, TEXT),
    st.builds(Thinking, TEXT),
    st.builds(ToolDelta, CALLS, TEXT),
    st.builds(lambda call: ToolStart(call, "t", {"x": 1}), CALLS),
    st.builds(lambda call: ToolComplete(call, ToolResult(True, "y")), CALLS),
    st.just(Custom("n")),
    st.builds(lambda text: MessageSaid({"role": "assistant", "content": text}), TEXT),
)
STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(
        st.tuples(st.just("say"), EVENTS),
        st.tuples(st.just("say"), EVENTS),
        st.tuples(st.just("say"), EVENTS),
        st.sampled_from([("answer", None), ("post", None), ("answer", None), ("fail", None)]),
    ),
    max_size=25,
)
ENDS = st.sampled_from([Complete(), Failed("no"), RETURN, ValueError("x"), "cancel"])


async def play(steps: list[Step], end: object, *, coalesce: bool) -> dict[str, Any]:
    """Play a script; return what the log, the messages and a client's screen have at its end."""
    async with gateway(max_event_bytes=4096) as gate, anyio.create_task_group() as tasks:
        await begin(gate, coalesce=coalesce)
        reader = await gate.reader(after="0")
        for what, event in steps:
            if what == "say":
                await say(gate, event)
            elif what == "post":
                posted = [{"type": "custom", "name": "posted"}]
                tasks.start_soon(_posted, gate, posted)
                await quiet()
            elif what == "answer":
                await answer(gate)
            elif gate.store.held:
                gate.store.release_appends(StorageFailed("The disk is broken."))
                gate.store.hold_appends()
                await quiet()
            await reader.take_what_is_there()
        if end == "cancel":
            tasks.start_soon(gate.manager.cancel_run, ME, "s", "r")
            await quiet()
        else:
            await say(gate, end)
        gate.store.release_appends()
        run = await gate.ended("r")
        await reader.take_what_is_there()
        await eventually(lambda: gate.live().is_idle)
        log, messages = await gate.log(), await gate.messages()
        assert all(len(body) <= 4096 for body in await bodies(gate, *DELTA_TYPES))
    shown = [frame.data for frame in reader.events]
    assert shown == log, "each position has what was shown at it"
    return {
        "run": (run["status"], run.get("error")),
        "messages": messages,
        "log": whole(log),
        "screen": screen(shown),
    }


async def bodies(gate: Gateway, *types: str) -> list[bytes]:
    live = gate.live()
    records = await gate.store.inner.read("s", live.epoch, 0, limit=100_000, max_bytes=1 << 30)
    return [record.body for record in records if record.type in types]


async def _posted(gate: Gateway, events: list[dict[str, Any]]) -> None:
    with suppress(StorageFailed):
        await gate.manager.append_events(ME, "s", events)


def whole(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events without their places, and with neighbouring pieces of a text joined."""
    joined: list[dict[str, Any]] = []
    for event in log:
        event = {name: value for name, value in event.items() if name != "seq"}
        content = event.pop("content", None)
        if event["type"] in DELTA_TYPES:
            if joined and {**joined[-1], "content": None} == {**event, "content": None}:
                joined[-1]["content"] += content
            else:
                joined.append({**event, "content": content})
        else:
            joined.append(event)
    return joined


def screen(shown: list[dict[str, Any]]) -> dict[str, str]:
    """Return what a client shows: the text so far, and the message instead once it has come."""
    texts: dict[str, str] = {}
    for event in shown:
        if event["type"] == "message":
            texts[event["message_id"]] = str(event["message"]["content"])
        elif event["type"] == "token":
            texts[event["message_id"]] = texts.get(event["message_id"], "") + event["content"]
    return texts


def renamed(value: Any, names: dict[str, str]) -> Any:
    """Replace ids that the gateway made: they are random."""
    if isinstance(value, dict):
        return {renamed(k, names): renamed(v, names) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [renamed(item, names) for item in value]
    if isinstance(value, str) and value.startswith("msg_"):
        return names.setdefault(value, f"msg_{len(names)}")
    return value


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS, end=ENDS)
def test_coalescing_changes_no_message_no_position_and_no_screen(
    monkeypatch: pytest.MonkeyPatch, steps: list[Step], end: object
) -> None:
    """R1, R2, R3, R5: whenever the store answers, whatever comes between, however the run ends."""
    # An end that failed is tried again before the next step, however slow the machine is.
    monkeypatch.setattr(executor, "_RETRY_SECONDS", 0)

    async def run() -> None:
        with anyio.fail_after(DEADLINE_SECONDS):
            plain = renamed(await play(steps, end, coalesce=False), {})
            gathered = renamed(await play(steps, end, coalesce=True), {})
        assert gathered == plain

    anyio.run(run)
