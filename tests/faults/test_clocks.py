"""Order, ids, epochs, keys and TTL stay right when the wall clock steps (R1, R2, R4, R10).

What is in order is so by seq; times are only told. Nothing expires early because a clock was wrong,
and nothing that has happened becomes older.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bamboo_gateway.domain.errors import SessionExpired
from bamboo_gateway.domain.events import Complete, Token
from bamboo_gateway.domain.limits import IDEMPOTENCY_RETENTION_MS
from bamboo_gateway.domain.positions import parse_position
from bamboo_gateway.sessions.commands import Idempotency, NewMessage, NewSession, SessionQuery
from bamboo_gateway.sessions.lifecycle.merge_plan import Merge
from bamboo_gateway.storage.factory import make_store
from tests.sessions.lifecycle.talk import ids, say, talk, texts
from tests.support.clocks import FakeClock
from tests.support.gateways import ME, Gateway, Reader, eventually, gateway, quiet, settings_of

DAY = 86_400
YEAR = 366 * DAY
JUMPS = [-YEAR, -DAY, -3600, -1, 0, 0, 1, 3600, DAY, YEAR]
KEY = Idempotency("k", "POST /messages", "b")
KINDS = pytest.mark.parametrize("kind", ["memory:", "jsonl:"])


def step(clock: FakeClock, seconds: float) -> None:
    """Set the wall clock, either way; the other one does not move."""
    clock.step_back(-seconds)


@asynccontextmanager
async def on_disk(kind: str, root: Path, clock: FakeClock, **more: Any) -> AsyncIterator[Gateway]:
    """Run a gateway on the files of a directory; called again, what they hold is recovered."""
    changed: dict[str, Any] = {"storage_url": kind, "data_dir": root / "data", **more}
    store = make_store(settings_of(**changed), clock)
    await store.open()
    try:
        async with gateway(store, clock=clock, **changed) as gate:
            yield gate
    finally:
        await store.aclose()


def leave_memory(gate: Gateway) -> None:
    """Evict idle sessions, so that they are read from the store again."""
    gate.clock.seconds += gate.settings.idle_timeout_seconds + 1
    gate.manager._registry.evict_idle()


async def take(reader: Reader, events: int) -> None:
    while len(reader.events) < events:
        assert await reader.take() is not None


STEPS = st.lists(
    st.tuples(st.sampled_from(JUMPS), st.sampled_from(["say", "events", "chat", "evict", "view"])),
    min_size=3,
    max_size=25,
)


async def play(steps: list[tuple[int, str]]) -> None:
    async with gateway() as gate:
        await gate.manager.create_session(ME, NewSession(id="s", ttl_seconds=3 * YEAR * 30))
        reader = await gate.reader(from_start=True)
        said: list[str] = []
        runs: list[str] = []
        last: tuple[str, str] = ("", "")
        for number, (jump, act) in enumerate(steps):
            step(gate.clock, jump)
            match act:
                case "say":
                    said += await say(gate, "s", NewMessage("user", f"m{number}"))
                case "events":
                    event = {"type": "custom", "name": "n", "value": number}
                    await gate.manager.append_events(ME, "s", [event] * 3)
                case "chat":
                    answer = await gate.chat("s", f"m{number}", f"r{number}")
                    runs.append(answer["run_id"])
                    gate.agent.do(f"r{number}", Token("ok"))
                    await quiet()
                    step(gate.clock, jump)
                    gate.agent.do(f"r{number}", Complete())
                    assert (await gate.ended(f"r{number}"))["status"] == "completed"
                    said += [name for name in await ids(gate, "s") if name not in said]
                case "evict":
                    await reader.take_what_is_there()
                    leave_memory(gate)
                case _:
                    session = (await gate.manager.get_session(ME, "s")).session
                    now = (session["last_activity_at"], session["updated_at"])
                    assert now[0] >= last[0]
                    last = now
        log = await gate.log()
        assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
        assert await ids(gate, "s") == said
        assert len(set(said)) == len(said)
        listed = (await gate.manager.runs(ME, "s", limit=1000)).runs
        assert [run["run_id"] for run in listed] == runs
        await take(reader, len(log))
        assert [frame.seq for frame in reader.events] == [event["seq"] for event in log]
        pages: list[str] = []
        cursor = None
        while True:
            page = await gate.manager.messages(ME, "s", limit=2, after=cursor)
            if not page.messages:
                break
            cursor = page.next_cursor
            pages += [json.loads(body)["id"] for body in page.messages]
            if not page.has_more:
                break
        assert pages == said
        reader.close()


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
async def test_r1_r2_events_keep_their_order_when_the_clock_steps(
    steps: list[tuple[int, str]],
) -> None:
    await play(steps)


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=1500, deadline=None)
@given(steps=STEPS)
async def test_r1_r2_events_keep_their_order_when_the_clock_steps_over_many_histories(
    steps: list[tuple[int, str]],
) -> None:
    await play(steps)


@KINDS
@pytest.mark.parametrize("jump", [-YEAR, -1, 0, YEAR])
async def test_r4_a_session_created_again_has_a_later_epoch_and_resets_old_positions(
    kind: str, jump: int, tmp_path: Path
) -> None:
    async with on_disk(kind, tmp_path, FakeClock()) as gate:
        epochs = []
        last_id = None
        for number in range(4):
            await talk(gate, "s", f"life {number}", "more", "of it")
            async with await gate.reader(last_event_id=last_id) as reader:
                await reader.take()
                assert reader.types == (["open"] if last_id is None else ["open", "reset"])
                position = parse_position(reader.last_id)
                assert position is not None
                epochs.append(position.epoch)
                last_id = reader.last_id
            await gate.manager.delete_session(ME, "s")
            step(gate.clock, jump)
        assert epochs == sorted(set(epochs))


@pytest.mark.parametrize("jump", [-YEAR, -1, YEAR])
async def test_r4_r10_a_clock_set_between_two_processes_changes_no_stored_event(
    jump: int, tmp_path: Path
) -> None:
    clock = FakeClock()
    async with on_disk("jsonl:", tmp_path, clock, cleanup_period_days=0) as gate:
        said = await talk(gate, "s", "a", "b")
        await talk(gate, "gone", "c")
        gone = gate.live("gone").epoch
        await gate.manager.delete_session(ME, "gone")
        before = (await gate.manager.get_session(ME, "s")).session
        async with await gate.reader() as reader:
            await reader.take()
            last_id = reader.last_id
    step(clock, jump)
    async with on_disk("jsonl:", tmp_path, clock, cleanup_period_days=0) as gate:
        after = (await gate.manager.get_session(ME, "s")).session
        assert after["created_at"] == before["created_at"]
        assert after["last_activity_at"] >= before["last_activity_at"]
        said += await say(gate, "s", NewMessage("user", "later"))
        assert await ids(gate, "s") == said
        assert len(set(said)) == 3
        async with await gate.reader(last_event_id=last_id) as reader:
            await take(reader, 1)
            assert [frame.data["message"]["content"] for frame in reader.events] == ["later"]
        await talk(gate, "gone", "d")
        assert gate.live("gone").epoch > gone
        log = await gate.log()
        assert [event["seq"] for event in log] == list(range(1, len(log) + 1))


@KINDS
async def test_r10_a_clock_step_back_neither_expires_early_nor_prolongs(
    kind: str, tmp_path: Path
) -> None:
    async with on_disk(kind, tmp_path, FakeClock()) as gate:
        await gate.manager.create_session(ME, NewSession(id="s", ttl_seconds=60))
        step(gate.clock, -3600)
        await gate.manager.get_session(ME, "s")
        step(gate.clock, 3600 + 59)
        await gate.manager.get_session(ME, "s")
        step(gate.clock, 2)
        with pytest.raises(SessionExpired):
            await gate.manager.get_session(ME, "s")


@KINDS
async def test_r10_a_clock_step_forward_deletes_no_session(kind: str, tmp_path: Path) -> None:
    async with on_disk(kind, tmp_path, FakeClock()) as gate:
        await gate.manager.create_session(ME, NewSession(id="s", ttl_seconds=60))
        said = await say(gate, "s", NewMessage("user", "a"))
        step(gate.clock, YEAR)
        with pytest.raises(SessionExpired):
            await gate.manager.get_session(ME, "s")
        step(gate.clock, -YEAR)
        assert await ids(gate, "s") == said


async def test_r10_a_session_with_a_reader_or_run_never_expires_by_a_clock_step() -> None:
    async with gateway() as gate:
        for name in ("read", "run"):
            await gate.manager.create_session(ME, NewSession(id=name, ttl_seconds=60))
        reader = await gate.reader("read")
        await gate.chat("run", "x", "r")
        for jump in (YEAR, -2 * YEAR, YEAR):
            step(gate.clock, jump)
            for name in ("read", "run"):
                assert (await gate.manager.get_session(ME, name)).session["state"] == "active"
        reader.close()
        gate.agent.do("r", Complete())
        await gate.ended("r", "run")


@KINDS
@pytest.mark.parametrize("evicted", [False, True])
@pytest.mark.parametrize("jump", [-YEAR, -1, IDEMPOTENCY_RETENTION_MS // 1000])
async def test_an_idempotency_key_survives_a_clock_step(
    kind: str, evicted: bool, jump: int, tmp_path: Path
) -> None:
    async with on_disk(kind, tmp_path, FakeClock()) as gate:
        await talk(gate, "s")
        message = [NewMessage("user", "once")]
        first = await gate.manager.add_messages(ME, "s", message, KEY)
        step(gate.clock, jump)
        if evicted:
            leave_memory(gate)
        again = await gate.manager.add_messages(ME, "s", message, KEY)
        assert again.replayed
        assert again.answer == first.answer
        assert await texts(gate, "s") == ["once"]


async def test_a_key_expired_by_a_clock_step_forward_is_valid_again_after_the_step_back() -> None:
    async with gateway() as gate:
        await talk(gate, "s")
        await gate.manager.add_messages(ME, "s", [NewMessage("user", "once")], KEY)
        step(gate.clock, YEAR)
        assert not (await gate.manager.add_messages(ME, "s", [], other())).replayed
        step(gate.clock, -YEAR)
        again = await gate.manager.add_messages(ME, "s", [NewMessage("user", "once")], KEY)
        assert again.replayed
        assert await texts(gate, "s") == ["once"]


def other() -> Idempotency:
    return Idempotency("other", KEY.route, "b")


async def test_generated_ids_rise_over_every_clock_step() -> None:
    async with gateway() as gate:
        made: dict[str, list[str]] = {"messages": [], "sessions": [], "runs": []}
        await talk(gate, "s")
        for jump in [0, -1, -YEAR, 0, 3600, 0, -3600]:
            step(gate.clock, jump)
            made["messages"] += await say(gate, "s", *[NewMessage("user", "x")] * 2)
            outcome = await gate.manager.create_session(ME, NewSession())
            made["sessions"].append(outcome.answer["id"])
            made["runs"].append((await gate.chat("s", "x"))["run_id"])
            made["messages"] += [n for n in await ids(gate, "s") if n not in made["messages"]]
            gate.agent.do(made["runs"][-1], Complete())
            await gate.ended(made["runs"][-1])
        for names in made.values():
            assert names == sorted(set(names))


async def test_lists_show_each_session_once_after_clock_steps() -> None:
    async with gateway() as gate:
        names = set()
        for number, jump in enumerate(JUMPS * 2):
            step(gate.clock, jump)
            await gate.manager.create_session(ME, NewSession(id=f"s{number}"))
            names.add(f"s{number}")
        for sort_by in ("created_at", "last_activity_at", "updated_at"):
            seen: list[str] = []
            cursor = None
            while True:
                query = SessionQuery(sort_by=sort_by, limit=3, cursor=cursor)
                page = await gate.manager.list_sessions(ME, query)
                seen += [session["id"] for session in page.sessions]
                cursor = page.next_cursor
                step(gate.clock, -7)
                if not page.has_more:
                    break
            assert len(seen) == len(names)
            assert set(seen) == names


@pytest.mark.parametrize("strategy", ["append", "interleave"])
async def test_r9_a_merge_after_clock_steps_keeps_each_message_once(strategy: Any) -> None:
    async with gateway() as gate:
        said = await talk(gate, "s", "a")
        said += await talk(gate, "other", "b")
        for jump in (-3600, 7200, -YEAR, 1):
            step(gate.clock, jump)
            said += await say(gate, "s", NewMessage("user", "x"))
            said += await say(gate, "other", NewMessage("user", "y"))
        mine, theirs = await ids(gate, "s"), await ids(gate, "other")
        await gate.manager.merge(ME, "s", Merge("other", strategy))
        # Interleaving makes copies, which name what they are copied from.
        merged = [one.get("copied_from", one["id"]) for one in await gate.messages("s")]
        assert sorted(merged) == sorted(said)
        # Each side stays in its own order, whatever its times say.
        assert [name for name in merged if name in mine] == mine
        assert [name for name in merged if name in theirs] == theirs


async def test_r7_stream_deadlines_use_the_monotonic_clock() -> None:
    beats = 0.015
    async with gateway(
        heartbeat_interval_seconds=beats, stream_lifetime_seconds=1000, send_timeout_seconds=1000
    ) as gate:
        await talk(gate, "s")
        stuck = await gate.reader()
        async with await gate.reader(heartbeat_events=True) as reader:
            stuck.connection.sending_since = gate.clock.monotonic()
            for jump in (YEAR, -2 * YEAR, YEAR):
                step(gate.clock, jump)
                count = reader.types.count("heartbeat")
                # The clock of all streams has looked at both since.
                while reader.types.count("heartbeat") < count + 2:
                    await reader.take()
            assert (await gate.manager.stats())["streams_slow_total"] == 0
            gate.clock.seconds += 1001
            await reader.take_until("goodbye")
            assert reader.goodbye == {"type": "goodbye", "reason": "lifetime", "retry": True}
            assert (await gate.manager.stats())["streams_slow_total"] == 1
        stuck.close()
        await eventually(lambda: not gate.leftovers())
