"""R2, R4, R7: which sessions have changed (docs/reference/streams.md)."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from unittest.mock import Mock

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from bamboo_gateway.api.change_frames import (
    CHANGE_CURSOR_CHARS_MAX,
    ChangeFrames,
    read_change_cursor,
    write_change_cursor,
)
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import Forbidden, StorageFailed
from bamboo_gateway.domain.events import Complete, Token
from bamboo_gateway.sessions.changes import feed as feed_module
from bamboo_gateway.sessions.changes import page as page_module
from bamboo_gateway.sessions.changes.feed import Follower
from bamboo_gateway.sessions.changes.page import ChangeCursor, ChangeFilter, ChangesPage
from bamboo_gateway.sessions.changes.stream import ChangesRequest, ChangeStream
from bamboo_gateway.sessions.commands import NewSession
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.sessions.sharing import NewShare
from tests.support.frames import whole_frames
from tests.support.gateways import (
    DEADLINE_SECONDS,
    ME,
    Gateway,
    Reader,
    crash,
    eventually,
    gateway,
    quiet,
)

ALICE, BOB, EVE = (Caller(name, user_id=name) for name in ("alice", "bob", "eve"))
NO_FILTER = ChangeFilter()


@dataclass
class Client:
    """A client that asks for changes and goes on from each answer."""

    gate: Gateway
    caller: Caller = ME
    wanted: ChangeFilter = NO_FILTER
    cursor: ChangeCursor | None = None
    seen: dict[str, Any] = field(default_factory=dict)

    async def ask(self, limit: int = 100, wait: float = 0) -> ChangesPage:
        with anyio.fail_after(DEADLINE_SECONDS):
            page = await self.gate.manager.changes(
                self.caller, self.wanted, self.cursor, limit, wait
            )
        self.cursor = page.next
        for entry in page.entries:
            self.seen[entry.view["session_id"]] = entry.view
        return page

    async def told(self, limit: int = 100) -> list[tuple[str, str]]:
        """Ask until there is nothing more; return what was told."""
        told: list[tuple[str, str]] = []
        while True:
            page = await self.ask(limit)
            assert not page.is_reset
            told += [(one.view["session_id"], kind_of(one.view)) for one in page.entries]
            if not page.has_more:
                return told


def kind_of(view: Any) -> str:
    return str(view.get("state") or "gone")


async def client(gate: Gateway, caller: Caller = ME, **wanted: Any) -> Client:
    """Return a client that knows everything up to now."""
    made = Client(gate, caller, ChangeFilter(**wanted))
    assert (await made.ask()).entries == []
    return made


async def make(gate: Gateway, caller: Caller, session_id: str, **more: Any) -> None:
    await gate.manager.create_session(caller, NewSession(id=session_id, **more))


async def note(gate: Gateway, session_id: str, caller: Caller = ME) -> None:
    await gate.manager.append_events(caller, session_id, [{"type": "custom", "name": "n"}])


# -- what is told ---------------------------------------------------------------------------------


async def test_without_a_cursor_it_begins_now(gate: Gateway):
    await make(gate, ME, "before")
    asking = await client(gate)
    await make(gate, ME, "after")
    assert await asking.told() == [("after", "idle")]
    assert await asking.told() == []


async def test_each_session_is_told_once_as_it_is_now(gate: Gateway):
    asking = await client(gate)
    await make(gate, ME, "a", title="One")
    await gate.manager.update_session(ME, "a", {"title": "Two"})
    await gate.chat("b", run_id="r")
    page = await asking.ask()
    assert [entry.view["session_id"] for entry in page.entries] == ["a", "b"]
    position = (await gate.manager.get_session(ME, "a")).session["position"]
    changed = asking.seen["a"]
    assert changed["title"] == "Two"
    assert changed["position"] == position
    assert changed["active_run_id"] is None
    assert asking.seen["b"]["active_run_id"] == "r"
    assert asking.seen["b"]["state"] == "active"


async def test_deltas_are_no_change_and_the_runs_end_is(gate: Gateway):
    await gate.chat("a", run_id="r")
    asking = await client(gate)
    gate.agent.do("r", Token("one"))
    await eventually(lambda: gate.live("a").durable_seq == 3)
    assert await asking.told() == []
    gate.agent.do("r", Complete())
    await gate.ended("r", "a")
    await quiet()
    assert await asking.told() == [("a", "idle")]


async def test_a_deleted_session_is_gone_and_its_successor_is_told(gate: Gateway):
    await make(gate, ME, "a")
    asking = await client(gate)
    await gate.manager.delete_session(ME, "a")
    assert await asking.told() == [("a", "gone")]
    gate.clock.advance(1)
    await make(gate, ME, "a")
    assert await asking.told() == [("a", "idle")]


async def test_archived_closed_and_reopened_sessions_are_told_with_their_state(gate: Gateway):
    await make(gate, ME, "a")
    asking = await client(gate)
    await gate.manager.close_session(ME, "a")
    assert await asking.told() == [("a", "closed")]
    await gate.manager.reopen_session(ME, "a")
    await gate.manager.archive(ME, "a")
    assert await asking.told() == [("a", "archived")]
    await gate.manager.restore(ME, "a")
    assert await asking.told() == [("a", "idle")]


async def test_a_time_to_live_that_ends_is_told_once(gate: Gateway):
    await make(gate, ME, "a", ttl_seconds=60)
    await make(gate, ME, "b", ttl_seconds=90)
    asking = await client(gate)
    gate.clock.advance(59)
    assert await asking.told() == []
    gate.clock.advance(2)
    assert await asking.told() == [("a", "expired")]
    assert await asking.told() == []
    gate.clock.advance(60)
    assert await asking.told() == [("b", "expired")]
    await gate.manager.reopen_session(ME, "a")
    assert await asking.told() == [("a", "idle")]
    gate.clock.advance(61)
    assert await asking.told() == [("a", "expired")]


async def test_many_that_end_at_one_moment_are_told_page_by_page(gate: Gateway):
    names = [f"s{number}" for number in range(9)]
    for name in names:
        await make(gate, ME, name, ttl_seconds=60)
    asking = await client(gate)
    gate.clock.advance(61)
    assert sorted(await asking.told(limit=2)) == [(name, "expired") for name in names]


# -- whom it is told ------------------------------------------------------------------------------


async def test_others_sessions_are_told_to_nobody_else(gate: Gateway):
    bob, operator = await client(gate, BOB), await client(gate)
    await make(gate, ALICE, "hers")
    await make(gate, BOB, "his")
    assert await bob.told() == [("his", "idle")]
    assert sorted(await operator.told()) == [("hers", "idle"), ("his", "idle")]
    await gate.manager.delete_session(ALICE, "hers")
    assert await bob.told() == []
    assert await operator.told() == [("hers", "gone")]


async def test_a_share_that_is_given_and_revoked_is_told_to_its_user_alone(gate: Gateway):
    await make(gate, ALICE, "hers")
    bob, eve = await client(gate, BOB), await client(gate, EVE)
    made = await gate.manager.share(ALICE, "hers", NewShare("bob"))
    assert await bob.told() == [("hers", "idle")]
    await note(gate, "hers", ALICE)
    assert await bob.told() == [("hers", "idle")]
    await gate.manager.revoke_share(ALICE, "hers", made.answer["id"])
    assert await bob.told() == [("hers", "gone")]
    assert await eve.told() == []


async def test_what_happens_after_a_share_has_ended_is_told_to_its_user_no_more(gate: Gateway):
    """Neither activity nor the deletion: a former reader is a stranger."""
    await make(gate, ALICE, "hers")
    bob = await client(gate, BOB)
    made = await gate.manager.share(ALICE, "hers", NewShare("bob"))
    await gate.manager.revoke_share(ALICE, "hers", made.answer["id"])
    assert await bob.told() == [("hers", "gone")]
    gate.clock.advance(120)
    assert await bob.told() == []
    await note(gate, "hers", ALICE)
    assert await bob.told() == []
    await gate.manager.delete_session(ALICE, "hers")
    assert await bob.told() == []


async def test_who_was_away_while_a_share_ended_and_the_session_went_is_told(gate: Gateway):
    await make(gate, ALICE, "hers")
    made = await gate.manager.share(ALICE, "hers", NewShare("bob"))
    bob, eve = await client(gate, BOB), await client(gate, EVE)
    gate.clock.advance(3600)
    await gate.manager.revoke_share(ALICE, "hers", made.answer["id"])
    gate.clock.advance(3600)
    await gate.manager.delete_session(ALICE, "hers")
    assert await bob.told() == [("hers", "gone")]
    assert await eve.told() == []


async def test_a_share_that_expires_is_told_to_its_user_alone(gate: Gateway):
    await make(gate, ALICE, "hers")
    await gate.manager.share(ALICE, "hers", NewShare("bob", expires_in_seconds=60))
    alice, bob, eve = [await client(gate, caller) for caller in (ALICE, BOB, EVE)]
    gate.clock.advance(61)
    assert await bob.told() == [("hers", "gone")]
    assert await bob.told() == []
    assert await eve.told() == []
    gate.clock.advance(120)
    assert await bob.told() == []
    # A later share lets the fold drop the expired one: nothing of it is told again.
    await gate.manager.share(ALICE, "hers", NewShare("eve"))
    assert await bob.told() == []
    assert await eve.told() == [("hers", "idle")]
    assert ("hers", "idle") in await alice.told()


async def test_links_and_tickets_ask_nothing(gate: Gateway):
    ticket = Caller("alice", user_id="alice", session_id="s", credential="t")
    with pytest.raises(Forbidden):
        await gate.manager.changes(ticket, NO_FILTER, None, 10, 0)
    with pytest.raises(Forbidden):
        await gate.manager.follow_changes(ticket, ChangesRequest(NO_FILTER), ChangeFrames())


# -- filters --------------------------------------------------------------------------------------


async def test_filters_are_those_of_the_list_and_what_leaves_them_is_gone(gate: Gateway):
    of_alice = await client(gate, user_id="alice")
    scheduled = await client(gate, session_type="scheduled")
    forks = await client(gate, parent_id="root")
    await make(gate, ALICE, "hers")
    await make(gate, ME, "timed", session_type="scheduled")
    await gate.chat("root", run_id="r")
    gate.agent.do("r", Complete())
    await gate.ended("r", "root")
    child = (await gate.manager.fork(ME, "root", Fork())).answer["id"]
    assert await of_alice.told() == [("hers", "idle")]
    assert ("timed", "idle") in await scheduled.told()
    assert await forks.told() == [(child, "idle")]
    await gate.manager.update_session(ME, "timed", {"session_type": "user"})
    assert await scheduled.told() == [("timed", "gone")]


# -- cursors --------------------------------------------------------------------------------------


async def test_every_change_is_told_at_least_once_whatever_the_pages_are(gate: Gateway):
    """R2: pages of one, and a client that repeats each answer."""
    for limit in (1, 2, 100):
        asking = await client(gate)
        for number in range(7):
            await make(gate, ME, f"{limit}-{number}")
        again = Client(gate, cursor=asking.cursor)
        told = await asking.told(limit)
        assert told == [(f"{limit}-{number}", "idle") for number in range(7)]
        assert await again.told(limit) == told


async def test_pages_look_at_a_bounded_number_of_others_changes(
    gate: Gateway, monkeypatch: pytest.MonkeyPatch
):
    """R7, R11: a caller with few sessions among many busy ones."""
    monkeypatch.setattr(page_module, "SCAN_CHANGES", 5)
    bob = await client(gate, BOB)
    for number in range(12):
        await make(gate, ALICE, f"hers-{number}")
    await make(gate, BOB, "his")
    page = await bob.ask()
    assert page.entries == []
    assert page.has_more
    assert await bob.told() == [("his", "idle")]


async def test_a_cursor_that_cannot_be_served_is_a_reset(gate: Gateway):
    """R4: the store has other numbers, or forgot too much."""
    await make(gate, ME, "a")
    now = await client(gate)
    assert now.cursor is not None
    for cursor in (
        now.cursor._replace(feed="another"),
        now.cursor._replace(number=now.cursor.number + 1000),
    ):
        lost = Client(gate, cursor=cursor)
        page = await lost.ask()
        assert page.is_reset
        assert page.entries == []
        await make(gate, ME, f"new-{cursor.number}-{cursor.feed}")
        assert len(await lost.told()) == 1
        waiting = Client(gate, cursor=cursor)
        assert (await waiting.ask(wait=30)).is_reset


async def test_a_cursor_holds_across_a_crash(gate: Gateway):
    asking = await client(gate)
    await make(gate, ME, "a", ttl_seconds=60)
    left = await crash(gate)
    async with gateway(left, clock=gate.clock) as after:
        asking.gate = after
        assert await asking.told() == [("a", "idle")]
        await make(after, ME, "b")
        after.clock.advance(61)
        assert await asking.told() == [("b", "idle"), ("a", "expired")]


CURSORS = st.builds(
    ChangeCursor,
    st.text(alphabet="0123456789abcdef", min_size=1, max_size=32),
    st.integers(0, 1 << 61),
    st.integers(0, 1 << 61),
    st.just("") | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True),
)


@given(CURSORS)
def test_a_cursor_reads_as_it_was_written(cursor: ChangeCursor):
    text = write_change_cursor(cursor)
    assert read_change_cursor(text) == cursor
    assert len(text) <= CHANGE_CURSOR_CHARS_MAX


@given(st.text(max_size=80))
def test_what_is_no_cursor_is_refused(text: str):
    with pytest.raises(ValueError, match=r"."):
        read_change_cursor(text)


# -- waiting --------------------------------------------------------------------------------------


@asynccontextmanager
async def waiting(asking: Client, wait: float = 30) -> AsyncIterator[list[ChangesPage]]:
    """Wait for a change while the block runs; the list has the answer afterwards."""
    pages: list[ChangesPage] = []

    async def ask() -> None:
        pages.append(await asking.ask(wait=wait))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await quiet()
        yield pages


@pytest.mark.parametrize(
    "change",
    [
        lambda gate: make(gate, ALICE, "new"),
        lambda gate: note(gate, "a", ALICE),
        lambda gate: gate.manager.delete_session(ALICE, "a"),
        lambda gate: gate.manager.archive(ALICE, "a"),
    ],
)
async def test_who_waits_is_told_of_the_first_change(
    gate: Gateway, change: Callable[[Gateway], Any]
):
    await make(gate, ALICE, "a")
    asking = await client(gate, ALICE)
    async with waiting(asking) as pages:
        await change(gate)
    (page,) = pages
    assert len(page.entries) == 1
    assert gate.manager._feed.followers == []


async def test_who_waits_is_told_of_what_ends_by_itself(gate: Gateway):
    await make(gate, ALICE, "a", ttl_seconds=60)
    await make(gate, ALICE, "shared")
    await gate.manager.share(ALICE, "shared", NewShare("bob", expires_in_seconds=60))
    alice, bob = await client(gate, ALICE), await client(gate, BOB)
    async with waiting(alice) as hers, waiting(bob) as his:
        gate.clock.advance(61)
    # It looks once a second, so both are told in one look.
    assert kind_of(hers[0].entries[0].view) in {"expired", "idle"}
    assert [kind_of(entry.view) for entry in his[0].entries] == ["gone"]


async def test_who_waits_in_vain_gets_a_cursor_to_go_on_from(gate: Gateway):
    asking = await client(gate, BOB)
    page = await asking.ask(wait=0.01)
    assert page.entries == []
    assert not page.has_more
    await make(gate, BOB, "his")
    assert await asking.told() == [("his", "idle")]


async def test_a_shutdown_ends_all_waits(gate: Gateway):
    asking = await client(gate)
    async with waiting(asking) as pages:
        gate.manager.begin_drain()
    assert pages[0].entries == []


async def test_one_look_serves_all_who_wait_and_wakes_only_those_concerned(gate: Gateway):
    """R7: no query for each caller, and no wake-up for others' commits."""
    looks: list[str] = []
    inner = gate.store.inner.changes

    async def changes(feed: str, after: int, limit: int) -> Any:
        looks.append(feed)
        return await inner(feed, after, limit)

    gate.store.inner.changes = changes  # type: ignore[method-assign]
    followers: list[Follower] = []
    feed = gate.manager._feed
    cursor = (await client(gate)).cursor
    assert cursor is not None
    for number in range(50):
        caller = Caller(f"u{number}", user_id=f"u{number}")
        follower = Follower(gate.manager._context, caller, NO_FILTER, cursor)
        feed.join(follower)
        followers.append(follower)
    await eventually(lambda: feed._tip is not None)
    for follower in followers:
        assert await follower.take(10) is None
    before = len(looks)
    for _ in range(5):
        await make(gate, ALICE, f"hers-{len(looks)}-{_}")
    await make(gate, Caller("u7", user_id="u7"), "his")
    await eventually(lambda: followers[7]._changes)
    assert len(looks) - before <= 3
    assert [follower for follower in followers if follower._changes] == [followers[7]]
    page = await followers[7].take(10)
    assert page is not None
    assert [entry.view["session_id"] for entry in page.entries] == ["his"]
    for follower in followers:
        feed.leave(follower)


async def test_what_waits_for_a_follower_is_bounded_and_nothing_is_lost(
    gate: Gateway, monkeypatch: pytest.MonkeyPatch
):
    """R7, R11: it goes back to the store."""
    monkeypatch.setattr(feed_module, "_PENDING_MAX", 3)
    asking = await client(gate)
    assert asking.cursor is not None
    with gate.manager._feed.following(ME, NO_FILTER, asking.cursor) as follower:
        await eventually(lambda: gate.manager._feed._tip is not None)
        assert await follower.take(10) is None
        names = [f"s{number}" for number in range(9)]
        for name in names:
            await make(gate, ME, name)
            await eventually(lambda: follower._must_read or follower._changes)
            assert len(follower._changes) <= 3
        told: list[str] = []
        while len(told) < len(names):
            page = await follower.take(2)
            if page is None:
                await follower.wait()
                continue
            told += [entry.view["session_id"] for entry in page.entries]
        assert told == names


async def test_changes_during_a_read_are_neither_lost_nor_out_of_order(gate: Gateway):
    """R2: the feed hands over while a follower still reads from the store."""
    asking = await client(gate)
    assert asking.cursor is not None
    await make(gate, ME, "old")
    with gate.manager._feed.following(ME, NO_FILTER, asking.cursor) as follower:
        await eventually(lambda: gate.manager._feed._tip is not None)
        gate.store.hold("changes")
        pages: list[ChangesPage | None] = []

        async def take() -> None:
            pages.append(await follower.take(10))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            await quiet()
            await make(gate, ME, "new")
            gate.store.let_go("changes")
        numbers = []
        told: list[str] = []
        page = pages[0]
        while True:
            if page is not None:
                told += [entry.view["session_id"] for entry in page.entries]
                numbers += [entry.cursor.number for entry in page.entries]
            if "new" in told:
                break
            await follower.wait()
            page = await follower.take(10)
        assert told == ["old", "new"]
        assert numbers == sorted(numbers)


async def test_a_store_that_fails_for_a_moment_costs_a_follower_nothing(gate: Gateway):
    asking = await client(gate)
    async with waiting(asking) as pages:
        gate.store.fail("changes", StorageFailed("The disk is broken."))
        await make(gate, ME, "a")
        await eventually(lambda: pages)
    assert [entry.view["session_id"] for entry in pages[0].entries] == ["a"]


@pytest.mark.parametrize("what", ["store", "view"])
async def test_a_fault_of_the_feed_ends_neither_the_gateway_nor_the_waits(
    gate: Gateway, monkeypatch: pytest.MonkeyPatch, what: str
):
    """R10: it is logged once and counted, and nothing is lost."""
    monkeypatch.setattr(feed_module, "_FAILED_SECONDS", 0)
    feed, tally = gate.manager._feed, gate.manager._context.tally
    asking = await client(gate)
    assert asking.cursor is not None
    with feed.following(ME, NO_FILTER, asking.cursor) as follower, capture_logs() as logs:
        await eventually(lambda: feed._tip is not None)
        assert await follower.take(10) is None
        place: tuple[Any, str] = (
            (gate.store, "changes") if what == "store" else (feed_module, "view_of_change")
        )
        whole = getattr(*place)
        monkeypatch.setattr(*place, Mock(side_effect=ZeroDivisionError))
        await make(gate, ME, "a")
        await eventually(lambda: tally.feed_failures >= (3 if what == "store" else 1))
        monkeypatch.setattr(*place, whole)
        told: list[str] = []
        while not told:
            page = await follower.take(10)
            if page is None:
                await follower.wait()
                continue
            told += [entry.view["session_id"] for entry in page.entries]
        assert told == ["a"]
        await eventually(lambda: feed._tip is not None and not feed._has_failed)
        assert [entry["event"] for entry in logs].count("the feed of changes begins again") == 1
    stats = await gate.manager.stats()
    assert stats["change_feed_failures_total"] == tally.feed_failures
    assert await asking.told() == [("a", "idle")]
    async with waiting(asking) as pages:
        await make(gate, ME, "b")
    assert [entry.view["session_id"] for entry in pages[0].entries] == ["b"]


# -- streams --------------------------------------------------------------------------------------


class ChangesReader(Reader):
    """A reader of a stream of changes."""

    def __init__(self, stream: ChangeStream) -> None:
        super().__init__(cast(Any, stream))

    @property
    def told(self) -> list[tuple[str, str]]:
        kinds = ("session_changed", "session_gone")
        return [(f.data["session_id"], kind_of(f.data)) for f in self.frames if f.type in kinds]


async def follow(
    gate: Gateway, caller: Caller = ME, last_id: str | None = None, **more: Any
) -> ChangesReader:
    cursor = read_change_cursor(last_id) if last_id is not None else None
    request = ChangesRequest(NO_FILTER, cursor, **more)
    return ChangesReader(await gate.manager.follow_changes(caller, request, ChangeFrames()))


async def take_until_told(reader: ChangesReader, session_id: str) -> None:
    while session_id not in dict(reader.told):
        assert await reader.take() is not None


async def test_a_stream_tells_changes_and_is_resumed_after_any_frame(gate: Gateway):
    """R2."""
    async with await follow(gate) as reader:
        await reader.take()
        assert reader.types == ["open"]
        for name in ("a", "b", "c"):
            await make(gate, ME, name)
            await take_until_told(reader, name)
        await gate.manager.delete_session(ME, "a")
        await reader.take_until("session_gone")
        whole = reader.told
        assert whole == [("a", "idle"), ("b", "idle"), ("c", "idle"), ("a", "gone")]
        ids = [frame.id for frame in reader.frames]
    for number, cursor in enumerate(ids):
        async with await follow(gate, last_id=cursor) as again:
            await again.take_what_is_there()
            known = dict(whole[:number])
            assert {**known, **dict(again.told)} == dict(whole)
            assert len(again.told) == len(set(dict(again.told)))
    assert gate.leftovers() == []


async def test_a_reset_of_changes_is_not_lost_at_whatever_byte_its_stream_is_cut(gate: Gateway):
    """R4."""
    foreign = write_change_cursor(ChangeCursor("other", 1, 1))
    for begin in ({"is_malformed": True}, {"last_id": foreign}):
        async with await follow(gate, **cast(Any, begin)) as reader:
            await reader.take_until("reset")
        shown: dict[str, list[str]] = {}
        for cut in range(len(reader.bytes) + 1):
            seen = whole_frames(reader.bytes, cut)
            if not seen:
                continue  # it asks as before
            last = seen[-1].id
            assert last is not None
            if last not in shown:
                async with await follow(gate, last_id=last) as again:
                    await again.take_what_is_there()
                    shown[last] = again.types
            told = any(frame.type == "reset" for frame in seen)
            assert shown[last] == ["open"] + ["reset"] * (not told), cut


async def test_a_stream_with_a_cursor_that_cannot_be_served_begins_with_reset(gate: Gateway):
    async with await follow(gate, is_malformed=True) as reader:
        await reader.take()
        assert reader.types == ["open", "reset"]
    foreign = write_change_cursor(ChangeCursor("other", 1, 1))
    async with await follow(gate, last_id=foreign) as reader:
        await reader.take_until("reset")
        await make(gate, ME, "a")
        await take_until_told(reader, "a")


async def test_a_stream_ends_with_the_gateway_and_with_its_right():
    async with gateway(heartbeat_interval_seconds=0.05) as gate, await follow(gate) as reader:
        await reader.take()
        gate.manager.begin_drain()
        await reader.take_all()
        assert reader.goodbye == {"type": "goodbye", "reason": "shutdown", "retry": True}
    async with gateway(heartbeat_interval_seconds=0.05) as gate:
        gate.manager._hub.clock._may_stay = lambda _: False
        async with await follow(gate) as reader:
            await reader.take_all()
            assert reader.goodbye is not None
            assert reader.goodbye["reason"] == "unauthorized"


async def test_a_heartbeat_brings_a_client_that_hears_nothing_up_to_date(
    monkeypatch: pytest.MonkeyPatch,
):
    """R11: others' changes are not looked at again when it comes back."""
    async with gateway(heartbeat_interval_seconds=0.05) as gate:
        async with await follow(gate, BOB) as reader:
            await reader.take()
            await make(gate, ALICE, "hers")
            await reader.take_until("heartbeat")
            cursor = read_change_cursor(reader.last_id)
        monkeypatch.setattr(page_module, "SCAN_CHANGES", 1)
        assert reader.told == []
        assert cursor.number >= 1
