"""R2, R3, R4, R6: where streams begin, what they show, how they end (docs/reference/streams.md)."""

from asyncio import get_running_loop
from typing import Any

import anyio
import pytest

from bamboo_gateway.domain.errors import InvalidInput, NotFound, StorageFailed, Unavailable
from bamboo_gateway.domain.events import Complete, Token
from bamboo_gateway.domain.positions import NOWHERE, in_epoch, parse_after
from bamboo_gateway.sessions.commands import Chat, Idempotency, NewMessage, NewSession
from bamboo_gateway.sessions.streaming import stream_clock
from tests.support.frames import whole_frames
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, Reader, eventually, gateway, quiet


async def three_runs(gate: Gateway) -> list[dict[str, Any]]:
    """A session with three ended runs, the last of which waited for the second."""
    await gate.chat(run_id="a")
    gate.agent.do("a", Token("one"), Complete())
    await gate.ended("a")
    await gate.manager.append_events(ME, "s", [{"type": "custom", "name": "between"}])
    await gate.chat(run_id="b")
    await gate.chat(run_id="c")
    gate.agent.do("b", Token("two"), Complete())
    gate.agent.do("c", Token("three"), Complete())
    await gate.ended("c")
    await quiet()
    return await gate.log()


def epoch_of(position: str) -> int:
    return int(position.split("-")[0])


async def test_the_stream_of_a_run_that_goes_on_asks_the_store_nothing(gate: Gateway):
    """It would wait for a thread; the head says that the run is active, or queued."""
    await gate.chat(run_id="a")
    await gate.agent.script("a").started.wait()
    await gate.chat(run_id="b")
    readers = []
    for run_id in ("a", "b"):
        gate.store.fail("find", StorageFailed("It was asked."))
        readers.append(await gate.reader(after="0", until_complete=True, run_id=run_id))
    gate.store.forgive()
    gate.agent.do("a", Token("x"), Complete())
    gate.agent.do("b", Token("y"), Complete())
    for reader, run_id in zip(readers, ("a", "b"), strict=True):
        frames = await reader.take_all()
        assert frames[-1].type == "complete"
        assert frames[-1].data["run_id"] == run_id


async def test_a_turn_in_a_new_session_searches_no_log(gate: Gateway):
    """There is none: neither for names that the client gives, nor for its idempotency key."""
    for name in ("find", "keys_in_use", "read"):
        gate.store.hold(name)
    with anyio.fail_after(DEADLINE_SECONDS):
        message = NewMessage("user", "hi", id="m1")
        chat = Chat(NewSession(id="s"), [message], run_id="a")
        await gate.manager.chat(ME, chat, Idempotency("k", "POST /chat", "digest"))
    for name in ("find", "keys_in_use", "read"):
        gate.store.let_go(name)


# -- where a stream begins ------------------------------------------------------------------------


async def test_a_client_that_comes_back_from_any_position_sees_the_rest_exactly_once(gate: Gateway):
    """R2. A known failure elsewhere: reconnect replays nothing though the event is on disk."""
    log = await three_runs(gate)
    epoch = gate.live().epoch
    for seq in range(len(log) + 1):
        for request in ({"after": f"{epoch}-{seq}"}, {"last_event_id": f"{epoch}-{seq}"}):
            async with await gate.reader(**request) as reader:
                await reader.take_what_is_there()
                assert [frame.seq for frame in reader.events] == list(range(seq + 1, len(log) + 1))
                assert [frame.data for frame in reader.events] == log[seq:]
                assert reader.last_id == f"{epoch}-{len(log)}"


async def test_every_frame_of_the_log_carries_its_position(gate: Gateway):
    await three_runs(gate)
    async with await gate.reader(from_start=True) as reader:
        await reader.take_what_is_there()
        for frame in reader.events:
            assert frame.id == f"{gate.live().epoch}-{frame.seq}"


async def test_open_is_first_and_says_where_the_stream_begins(gate: Gateway):
    await gate.chat(run_id="r")
    async with await gate.reader(connection_id="tab-1") as reader:
        await reader.take()
        (frame,) = reader.frames
        assert frame.data == {
            "type": "open",
            "session_id": "s",
            "connection_id": "tab-1",
            "position": frame.id,
            "active_run_id": "r",
        }


async def test_without_a_position_a_stream_begins_before_the_active_run(gate: Gateway):
    await gate.chat(run_id="a")
    gate.agent.do("a", Complete())
    await gate.ended("a")
    end = len(await gate.log())
    async with await gate.reader() as reader:
        await reader.take_what_is_there()
        assert reader.events == []
    await gate.chat(run_id="b")
    gate.agent.do("b", Token("x"))
    await eventually(lambda: gate.live().durable_seq == end + 3)
    async with await gate.reader() as reader:
        await reader.take_what_is_there()
        assert [frame.type for frame in reader.events] == ["message", "run_start", "token"]


async def test_of_several_candidates_the_latest_of_this_epoch_counts(gate: Gateway):
    """R4: EventSource repeats its URL and adds a newer header."""
    await three_runs(gate)
    epoch = gate.live().epoch
    cases: list[tuple[dict[str, Any], int]] = [
        ({"after": f"{epoch}-3", "last_event_id": f"{epoch}-6"}, 6),
        ({"after": f"{epoch}-6", "last_event_id": f"{epoch}-3"}, 6),
        ({"after": f"{epoch}-3", "last_event_id": f"{epoch - 1}-6"}, 3),
        ({"after": f"{epoch - 1}-9", "last_event_id": f"{epoch}-2"}, 2),
        ({"from_start": True, "last_event_id": f"{epoch}-2"}, 2),
        ({"from_start": True}, 0),
        ({"from_start": True, "after": f"{epoch + 5}-2"}, 0),
        ({"after": "0"}, 0),
        ({"after": "5"}, 5),
    ]
    for request, begin in cases:
        async with await gate.reader(**request) as reader:
            await reader.take_what_is_there()
            assert reader.frames[0].id == f"{epoch}-{begin}", request
            assert "reset" not in reader.types
            assert reader.events[0].seq == begin + 1


UNSERVABLE: list[tuple[Any, str | None]] = [
    (lambda epoch, end: {"after": f"{epoch - 1}-1"}, "epoch_changed"),
    (lambda epoch, end: {"last_event_id": f"{epoch + 1}-1"}, "epoch_changed"),
    (lambda epoch, end: {"after": f"{epoch}-{end + 1}"}, "unknown_position"),
    (lambda epoch, end: {"after": "9" * 16}, "unknown_position"),
    (lambda epoch, end: {"after": f"{epoch}-1", "last_event_id": f"{epoch}-{end + 9}"}, None),
    (lambda epoch, end: {"last_event_id": "rubbish"}, "unknown_position"),
    (lambda epoch, end: {"last_event_id": "42"}, "unknown_position"),
    (lambda epoch, end: {"last_event_id": f"{epoch}-1 "}, "unknown_position"),
    (lambda epoch, end: {"last_event_id": f"{epoch}-1\n"}, "unknown_position"),
    (lambda epoch, end: {"last_event_id": "-1", "after": f"{epoch}-1"}, "unknown_position"),
    (lambda epoch, end: {"last_event_id": f"{epoch}-{'9' * 40}"}, "unknown_position"),
    (lambda epoch, end: {"after": f"{epoch}-1", "last_event_id": "0-0"}, "unknown_position"),
    (
        lambda epoch, end: {"after": f"{epoch}-1", "last_event_id": f"{epoch}-{'9' * 40}"},
        "unknown_position",
    ),
    (
        lambda epoch, end: {"after": f"{epoch}-{end + 1}", "last_event_id": f"{epoch}-1"},
        "unknown_position",
    ),
]
"""Requests at an epoch and an end, and the reason of their `reset`."""


@pytest.mark.parametrize(("request_of", "reason"), UNSERVABLE)
async def test_a_position_that_cannot_be_served_is_answered_with_reset(
    request_of: Any, reason: str | None, gate: Gateway
):
    """R4."""
    log = await three_runs(gate)
    epoch = gate.live().epoch
    async with await gate.reader(**request_of(epoch, len(log))) as reader:
        await reader.take_what_is_there()
        opened, reset = reader.frames[:2]
        assert opened.type == "open"
        position = f"{epoch}-{len(log)}"
        assert reset.data == {
            "type": "reset",
            "reason": reason or "unknown_position",
            "position": position,
        }
        assert reset.id == position
        await gate.manager.append_events(ME, "s", [{"type": "custom", "name": "x"}])
        await reader.take_until("custom")


@pytest.mark.parametrize("request_of", [row[0] for row in UNSERVABLE])
@pytest.mark.parametrize("keeps_id", [True, False], ids=["browser", "by the letter"])
async def test_a_reset_is_not_lost_at_whatever_byte_its_stream_is_cut(
    request_of: Any, keeps_id: bool, gate: Gateway
):
    """R4: until the client has read `reset`, it comes back with a position that is not served.

    Browsers keep their last id across connections. By the letter of the HTML standard a new
    connection begins without one, so the first frame without an `id` erases it.
    """
    log = await three_runs(gate)
    epoch = gate.live().epoch
    asked = request_of(epoch, len(log))
    async with await gate.reader(**asked) as reader:
        await reader.take_what_is_there()
        whole = reader.bytes
    shown: dict[str, list[str]] = {}
    # A client that goes on from its last id alone, and one that repeats its URL as EventSource.
    for url in ({}, {name: asked[name] for name in ("after", "from_start") if name in asked}):
        begin = in_epoch(parse_after(url["after"]), epoch) if "after" in url else NOWHERE
        is_beyond_end = begin.epoch == epoch and begin.seq > len(log)  # counts each time
        for cut in range(len(whole) + 1):
            had = asked.get("last_event_id") if keeps_id else None
            seen = whole_frames(whole, cut)
            for frame in seen:
                had = frame.id if frame.id is not None or not keeps_id else had
            if not seen:
                continue  # it asks as before
            again = {**url, **({"last_event_id": had} if had else {})}
            if (types := shown.get(str(again))) is None:
                async with await gate.reader(**again) as reader:
                    await reader.take_what_is_there()
                    types = shown[str(again)] = reader.types
                # Cut behind `open`, time after time, it is where it was.
                again["last_event_id"] = reader.frames[0].id
                async with await gate.reader(**again) as reader:
                    await reader.take_what_is_there()
                    assert reader.types == types
            was_told = any(frame.type == "reset" for frame in seen) and not is_beyond_end
            assert types == ["open"] + ["reset"] * (not was_told), (cut, again)


async def test_a_reset_during_a_run_goes_on_from_before_the_run(gate: Gateway):
    """R4: `reset` names where a fresh load of the messages and their stream would begin."""
    await three_runs(gate)
    await gate.chat(run_id="d")
    gate.agent.do("d", Token("x"))
    await gate.agent.script("d").started.wait()
    await quiet()
    page = await gate.manager.messages(ME, "s")
    async with await gate.reader(after="1-1") as reader:
        await reader.take_what_is_there()
        assert str(page.stream_after) == reader.frames[1].data["position"]
        assert [frame.type for frame in reader.events] == ["message", "run_start", "token"]


@pytest.mark.parametrize("after", ["", "x", "1-", "-1", "1-2-3", "\u0661", "9" * 101])
async def test_a_malformed_after_is_refused(after: str, gate: Gateway):
    await three_runs(gate)
    with pytest.raises(InvalidInput):
        await gate.connect(after=after)


async def test_a_session_made_again_under_its_id_resets_old_clients(gate: Gateway):
    """R3, R4: a position is never given to other content."""
    await three_runs(gate)
    old = gate.live().epoch
    await gate.manager.delete_session(ME, "s")
    await gate.chat(run_id="a")
    assert gate.live().epoch > old
    async with await gate.reader(last_event_id=f"{old}-2") as reader:
        await reader.take_what_is_there()
        assert reader.frames[1].data["reason"] == "epoch_changed"


async def test_an_unknown_session_is_not_found(gate: Gateway):
    with pytest.raises(NotFound):
        await gate.connect("nobody")


# -- messages and stream meet ---------------------------------------------------------------------


async def test_load_then_stream_misses_and_doubles_nothing(gate: Gateway):
    """History and stream meet at one position."""
    await gate.chat(run_id="a")
    gate.agent.do("a", Token("one"), Complete())
    await gate.ended("a")
    await gate.chat(run_id="b")
    gate.agent.do("b", Token("tw"))
    await eventually(lambda: gate.agent.script("b").taken == 1)
    await quiet()
    page = await gate.manager.messages(ME, "s")
    after = str(page.stream_after)
    shown = {said["id"] for said in await gate.messages()}
    async with await gate.reader(after=after) as reader:
        gate.agent.do("b", Token("o"), Complete())
        await reader.take_until("complete")
        new = [f.data["message"] for f in reader.events if f.type == "message"]
        assert len(shown | {said["id"] for said in new}) == 4
        answer = next(said for said in new if said["role"] == "assistant")
        deltas = [f for f in reader.events if f.type == "token"]
        assert {delta.data["message_id"] for delta in deltas} == {answer["id"]}
        assert "".join(delta.data["content"] for delta in deltas) == answer["content"] == "two"


# -- until=complete -------------------------------------------------------------------------------


async def test_until_complete_ends_right_after_the_run_meant_in_every_position(gate: Gateway):
    log = await three_runs(gate)
    epoch = gate.live().epoch
    starts = {e["run_id"]: e["seq"] for e in log if e["type"] == "run_start"}
    ends = {e["run_id"]: e["seq"] for e in log if e["type"] == "complete"}
    for seq in range(len(log) + 1):
        for named in (None, "a", "b", "c"):
            if named is not None:
                end = ends[named]
            else:
                running = [r for r in "abc" if starts[r] <= seq < ends[r]]
                later = [r for r in "abc" if starts[r] > seq]
                end = ends[(running + later)[0]] if running + later else 0
            reader = await gate.connect(after=f"{epoch}-{seq}", until_complete=True, run_id=named)
            if end <= seq:
                assert reader is None, (seq, named)
                continue
            assert reader is not None, (seq, named)
            await reader.take_all()
            assert [f.seq for f in reader.events] == list(range(seq + 1, end + 1)), (seq, named)
            assert reader.frames[-1].type == "complete"
            reader.close()
    await quiet()
    assert gate.leftovers() == []


async def test_until_complete_of_an_unknown_run_is_nothing(gate: Gateway):
    await three_runs(gate)
    assert await gate.connect(until_complete=True, run_id="other", from_start=True) is None


async def test_until_complete_with_nothing_to_wait_for_is_nothing(gate: Gateway):
    """EventSource is told to stop, and opening starts no run (R6)."""
    await three_runs(gate)
    assert await gate.connect(until_complete=True) is None
    assert gate.agent.asked == ["a", "b", "c"]


async def test_until_complete_of_a_queued_run_waits_for_its_end(gate: Gateway):
    await gate.chat(run_id="a")
    await gate.chat(run_id="b")
    async with await gate.reader(until_complete=True, run_id="b") as reader:
        gate.agent.do("a", Complete())
        gate.agent.do("b", Complete())
        frames = await reader.take_all()
        assert (frames[-1].type, frames[-1].data["run_id"]) == ("complete", "b")


async def test_until_complete_of_a_queued_run_ends_when_it_is_cancelled(gate: Gateway):
    await gate.chat(run_id="a")
    await gate.chat(run_id="b")
    async with await gate.reader(until_complete=True, run_id="b") as reader:
        await gate.manager.cancel_run(ME, "s", "b")
        frames = await reader.take_all()
        assert (frames[-1].type, frames[-1].data["run_id"]) == ("cancelled", "b")


async def test_until_complete_at_the_end_of_a_run_takes_the_queued_one(gate: Gateway):
    await gate.chat(run_id="a")
    await gate.chat(run_id="b")
    log = await gate.log()
    async with await gate.reader(after=str(len(log)), until_complete=True) as reader:
        gate.agent.do("a", Complete())
        frames = await reader.take_all()
        assert frames[-1].data["run_id"] == "a"


async def test_a_reset_ends_with_until_complete_all_the_same(gate: Gateway):
    """R4: a script with an old position is told so, and does not hang."""
    await three_runs(gate)
    async with await gate.reader(after="1-1", until_complete=True) as reader:
        await reader.take_all()
        assert reader.types == ["open", "reset"]
    await gate.chat(run_id="d")
    async with await gate.reader(after="1-1", until_complete=True) as reader:
        gate.agent.do("d", Complete())
        frames = await reader.take_all()
        assert frames[-1].data["run_id"] == "d"


@pytest.mark.parametrize("run_id", ["a", "b"], ids=["executing", "queued"])
async def test_a_stream_of_a_run_under_way_searches_no_log_and_misses_no_end(
    run_id: str, gate: Gateway
):
    await gate.chat(run_id="a")
    await gate.chat(run_id="b")
    await gate.agent.script("a").started.wait()
    await quiet()
    gate.store.hold("find")
    async with await gate.reader(until_complete=True, run_id=run_id) as reader:
        assert not gate.store.waiting.get("find")
        gate.store.let_go("find")
        await gate.finish_runs()
        frames = await reader.take_all()
    assert (frames[-1].type, frames[-1].data["run_id"]) == ("complete", run_id)


@pytest.mark.parametrize("ends_too", [False, True])
async def test_a_run_that_starts_while_the_next_is_looked_up_is_not_missed(
    ends_too: bool, gate: Gateway
):
    await three_runs(gate)
    end = gate.live().durable_seq
    await gate.manager.append_events(ME, "s", [{"type": "custom", "name": "x"}])
    gate.store.hold("find")
    readers: list[Reader | None] = []

    async def connect() -> None:
        readers.append(await gate.connect(after=str(end), until_complete=True))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connect)
        await eventually(lambda: gate.store.waiting.get("find"))
        await gate.chat()
        (run_id,) = [e["run_id"] for e in (await gate.log())[end:] if e["type"] == "run_start"]
        if ends_too:
            gate.agent.do(run_id, Complete())
        await quiet()
        gate.store.let_go("find")
    reader = readers[0]
    assert reader is not None
    gate.agent.do(run_id, Complete())
    frames = await reader.take_all()
    assert frames[-1].data["run_id"] == run_id
    reader.close()


async def test_a_session_deleted_while_a_stream_is_opened_hangs_nobody(gate: Gateway):
    await three_runs(gate)
    gate.store.hold("find")
    outcomes: list[Any] = []

    async def connect() -> None:
        try:
            outcomes.append(await gate.connect(until_complete=True, run_id="c", from_start=True))
        except NotFound as error:
            outcomes.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connect)
        await eventually(lambda: gate.store.waiting.get("find"))
        await gate.manager.delete_session(ME, "s")
        gate.store.let_go("find")
    assert isinstance(outcomes[0], NotFound)


# -- R6 -------------------------------------------------------------------------------------------


async def test_leaving_does_not_cancel_and_watching_does_not_start(gate: Gateway):
    """R6. A known failure elsewhere: opening a stream starts a run, so a retry starts another."""
    await gate.chat(run_id="a")
    for _ in range(5):
        async with await gate.reader() as reader:
            await reader.take()
    gate.agent.do("a", Token("still here"), Complete())
    assert (await gate.ended("a"))["status"] == "completed"
    assert gate.agent.asked == ["a"]
    assert [event["type"] for event in await gate.log()].count("run_start") == 1


async def test_a_reader_cancelled_in_the_middle_of_waiting_leaves_nothing_behind(gate: Gateway):
    await gate.chat(run_id="a")
    reader = await gate.reader()
    await reader.take_what_is_there()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reader.connection.next)
        await quiet()
        tasks.cancel_scope.cancel()
    reader.close()
    gate.agent.do("a", Complete())
    await gate.ended("a")
    await quiet()
    assert gate.leftovers() == []


async def test_a_connection_closed_by_another_task_ends_its_wait(gate: Gateway):
    await gate.chat(run_id="a")
    reader = await gate.reader()
    await reader.take_what_is_there()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reader.take_all)
        await quiet()
        reader.close()
    assert reader.ended


# -- connections ----------------------------------------------------------------------------------


async def test_a_newer_connection_of_the_same_name_supersedes_the_older(gate: Gateway):
    """A known failure elsewhere: a late disconnect of an old connection kills the new one."""
    await gate.chat(run_id="a")
    old = await gate.reader(connection_id="tab")
    await old.take_what_is_there()
    new = await gate.reader(connection_id="tab")
    await old.take_all()
    assert old.goodbye == {"type": "goodbye", "reason": "superseded", "retry": False}
    old.close()
    old.close()
    assert [c["connection_id"] for c in await gate.manager.connections(ME, "s")] == ["tab"]
    gate.agent.do("a", Token("x"))
    await new.take_until("token")
    new.close()
    assert await gate.manager.connections(ME, "s") == []


async def test_a_half_open_client_reconnects_under_its_own_name(gate: Gateway):
    """A known failure elsewhere: a half-open client cannot reconnect."""
    await gate.chat(run_id="a")
    old = await gate.reader(connection_id="tab")
    gate.agent.do("a", Token("x"))
    await old.take_until("token")
    new = await gate.reader(connection_id="tab", reconnect=True)
    await new.take_what_is_there()
    assert [frame.type for frame in new.events] == ["message", "run_start", "token"]
    old.close()
    new.close()


async def test_reconnect_goes_on_from_the_start_of_the_run_that_was_being_written(gate: Gateway):
    await three_runs(gate)
    await gate.chat(run_id="d")
    reader = await gate.reader(connection_id="tab")
    gate.agent.do("d", Token("x"))
    await reader.take_until("token")
    reader.close()
    gate.agent.do("d", Complete())
    await gate.ended("d")
    async with await gate.reader(connection_id="tab", reconnect=True) as again:
        await again.take_what_is_there()
        assert [f.type for f in again.events] == [
            "message",
            "run_start",
            "token",
            "message",
            "complete",
        ]


async def test_reconnect_shows_a_run_again_whose_end_may_not_have_arrived(gate: Gateway):
    """R2: the last chunk was handed to a dead network, and the run ended with it."""
    await gate.chat(run_id="d")
    reader = await gate.reader(connection_id="tab")
    await reader.take_what_is_there()
    gate.agent.do("d", Token("x"), Complete())
    await gate.ended("d")
    await reader.take_until("complete")
    reader.close()
    async with await gate.reader(connection_id="tab", reconnect=True) as again:
        await again.take_what_is_there()
        assert again.types[-1] == "complete"


async def test_reconnect_with_an_unknown_connection_is_a_new_one(gate: Gateway):
    await three_runs(gate)
    async with await gate.reader(connection_id="never", reconnect=True) as reader:
        await reader.take_what_is_there()
        assert reader.types == ["open"]


async def test_reconnect_with_a_position_of_another_epoch_is_answered_with_reset(gate: Gateway):
    await gate.chat(run_id="a")
    reader = await gate.reader(connection_id="tab")
    await reader.take()
    reader.close()
    await gate.manager.delete_session(ME, "s")
    await gate.chat(run_id="b")
    async with await gate.reader(connection_id="tab", reconnect=True) as again:
        await again.take_what_is_there()
        assert again.frames[1].data["reason"] == "epoch_changed"


async def test_disconnecting_one_connection_touches_no_other(gate: Gateway):
    """R6."""
    await gate.chat(run_id="a")
    one = await gate.reader(connection_id="one")
    two = await gate.reader(connection_id="two")
    await gate.manager.disconnect(ME, "s", "one")
    await one.take_all()
    assert one.goodbye is not None
    assert one.goodbye["retry"] is False
    one.close()
    gate.agent.do("a", Token("x"))
    await two.take_until("token")
    two.close()
    with pytest.raises(NotFound):
        await gate.manager.disconnect(ME, "s", "one")


async def test_connections_say_who_is_there_and_how_far(gate: Gateway):
    await three_runs(gate)
    end = gate.live().durable_seq
    async with await gate.reader(connection_id="c", after="3", remote_address="10.0.0.1") as reader:
        (view,) = await gate.manager.connections(ME, "s")
        assert view["lag_events"] == end - 3
        assert view["remote_address"] == "10.0.0.1"
        await reader.take_what_is_there()
        (view,) = await gate.manager.connections(ME, "s")
        assert (view["lag_events"], view["position"]) == (0, f"{gate.live().epoch}-{end}")


async def test_more_connections_than_allowed_are_refused():
    async with gateway(max_connections=2) as gate:
        await gate.chat()
        readers = [await gate.reader() for _ in range(2)]
        with pytest.raises(Unavailable):
            await gate.connect()
        readers[0].close()
        readers.append(await gate.reader())
        for reader in readers:
            reader.close()
        assert (await gate.manager.stats())["streams_open"] == 0


# -- how a stream is ended ------------------------------------------------------------------------


async def test_closing_a_session_sends_what_is_left_then_goodbye(gate: Gateway):
    await three_runs(gate)
    reader = await gate.reader(from_start=True)
    await gate.manager.close_session(ME, "s")
    await reader.take_all()
    assert reader.events[-1].data["to"] == "closed"
    assert reader.goodbye == {"type": "goodbye", "reason": "closed", "retry": False}
    reader.close()


async def test_a_closed_session_shows_the_rest_and_nothing_at_its_end(gate: Gateway):
    await three_runs(gate)
    await gate.manager.close_session(ME, "s")
    end = len(await gate.log())
    async with await gate.reader(after=str(end - 2)) as reader:
        await reader.take_all()
        assert len(reader.events) == 2
        assert reader.goodbye is not None
        assert reader.goodbye["reason"] == "closed"
    assert await gate.connect(after=str(end)) is None
    assert await gate.connect() is None


async def test_deleting_a_session_says_so_to_its_streams(gate: Gateway):
    await gate.chat(run_id="a")
    reader = await gate.reader()
    await reader.take()
    await gate.manager.delete_session(ME, "s")
    await reader.take_all()
    assert reader.goodbye == {"type": "goodbye", "reason": "deleted", "retry": False}
    reader.close()
    await eventually(lambda: gate.agent.script("a").finished.is_set(), "its agent was stopped")


async def test_a_drain_ends_idle_streams_now_and_others_after_their_run():
    async with gateway(drain_timeout_seconds=5) as gate:
        await gate.chat("idle", run_id="x")
        gate.agent.do("x", Complete())
        await gate.ended("x", "idle")
        await gate.chat("busy", run_id="r")
        await gate.agent.script("r").started.wait()
        await quiet()
        idle, busy = await gate.reader("idle"), await gate.reader("busy")
        gate.manager.begin_drain()
        await idle.take_all()
        assert idle.goodbye == {"type": "goodbye", "reason": "shutdown", "retry": True}
        await busy.take_what_is_there()
        assert busy.goodbye is None
        gate.agent.do("r", Token("x"), Complete())
        await busy.take_all()
        assert busy.types[-2:] == ["complete", "goodbye"]
        idle.close()
        busy.close()


@pytest.mark.parametrize("is_whole", [True, False], ids=["drain", "its begin"])
async def test_a_drain_waits_for_an_end_that_is_on_its_way_to_the_disk(is_whole: bool):
    """A stream whose run has just ended gets the terminal event, and then the farewell."""
    async with gateway() as gate:
        await gate.chat(run_id="r")
        await gate.agent.script("r").started.wait()
        reader = await gate.reader()
        await reader.take_what_is_there()
        gate.store.hold_appends()
        gate.agent.do("r", Complete())
        await eventually(lambda: gate.store.held)
        async with anyio.create_task_group() as tasks:
            if is_whole:
                tasks.start_soon(gate.manager.drain)
            else:
                gate.manager.begin_drain()
            await reader.take_what_is_there()
            assert reader.goodbye is None
            gate.store.release_appends()
        await reader.take_all()
        assert reader.types[-2:] == ["complete", "goodbye"]
        reader.close()


async def test_a_drain_ends_streams_of_runs_that_never_end(gate: Gateway):
    """R11: a disk that takes nothing keeps no stream open for ever."""
    async with gateway(cancel_timeout_seconds=0.05) as stuck:
        await stuck.chat(run_id="r")
        await stuck.agent.script("r").started.wait()
        reader = await stuck.reader()
        await reader.take()
        stuck.store.fail_appends()
        with anyio.fail_after(DEADLINE_SECONDS):
            await stuck.manager.drain()
            await reader.take_all()
        assert reader.goodbye is not None
        assert reader.goodbye["reason"] == "shutdown"
        reader.close()


async def test_a_queued_run_stays_queued_through_a_drain():
    async with gateway(drain_timeout_seconds=5) as gate:
        await gate.chat(run_id="a")
        await gate.chat(run_id="b")
        gate.manager.begin_drain()
        gate.agent.do("a", Complete())
        await gate.ended("a")
        await quiet()
        assert gate.agent.asked == ["a"]
        left = gate.store.inner
    async with gateway(left, clock=gate.clock) as again:
        await eventually(lambda: again.agent.asked == ["b"])


async def test_runs_that_outlast_the_drain_end_as_interrupted():
    async with gateway(drain_timeout_seconds=0) as gate:
        await gate.chat(run_id="a")
        gate.agent.do("a", Token("half"))
        await eventually(lambda: gate.agent.script("a").taken == 1)
        reader = await gate.reader()
        await gate.manager.drain()
        await reader.take_all()
        assert reader.types[-3:] == ["message", "error", "goodbye"]
        assert reader.events[-1].data["code"] == "interrupted"
        reader.close()


# -- the shared clock -----------------------------------------------------------------------------

FAST: dict[str, Any] = {"heartbeat_interval_seconds": 0.015, "send_timeout_seconds": 30.0}


async def test_a_silent_stream_says_ping_as_a_comment_without_a_blank_line():
    async with gateway(**FAST) as gate:
        await gate.chat()
        async with await gate.reader() as reader:
            await reader.take_what_is_there()
            with anyio.fail_after(DEADLINE_SECONDS):
                while (chunk := await reader.take()) is None or not chunk.startswith(b":"):
                    pass
            assert chunk == b": ping\n"


async def test_heartbeats_as_events_carry_the_position():
    async with gateway(**FAST) as gate:
        await gate.chat()
        async with await gate.reader(heartbeat_events=True) as reader:
            await reader.take_until("heartbeat")
            beat = reader.frames[-1]
            assert beat.data == {"type": "heartbeat"}
            assert beat.id == f"{gate.live().epoch}-{gate.live().durable_seq}"


async def test_a_stream_lives_as_long_as_allowed_and_may_come_back():
    async with gateway(**FAST, stream_lifetime_seconds=60) as gate:
        await gate.chat()
        async with await gate.reader() as reader:
            await reader.take_what_is_there()
            gate.clock.advance(61)
            await reader.take_all()
            assert reader.goodbye == {"type": "goodbye", "reason": "lifetime", "retry": True}


async def test_a_send_that_is_stuck_is_cut_and_counted_once():
    """R7."""
    async with gateway(**FAST) as gate:
        await gate.chat()
        cuts: list[int] = []
        async with await gate.reader() as reader, await gate.reader() as other:
            reader.connection.cancel_slow = lambda: cuts.append(1)
            reader.connection.sending_since = gate.clock.monotonic()
            await anyio.sleep(0.02)
            assert not cuts
            gate.clock.advance(31)
            with anyio.fail_after(DEADLINE_SECONDS):
                await eventually(lambda: cuts)
                await anyio.sleep(0.02)
            assert cuts == [1]
            assert (await gate.manager.stats())["streams_slow_total"] == 1
            reader.connection.sending_since = None
            await reader.take_until("goodbye")
            assert reader.goodbye == {"type": "goodbye", "reason": "slow", "retry": True}
            await other.take_what_is_there()
            assert other.goodbye is None


async def test_the_clock_takes_turns_with_others_and_passes_over_streams_that_end_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R7: with tens of thousands of streams one look at all of them keeps everybody waiting."""
    monkeypatch.setattr(stream_clock, "_STREAMS_PER_YIELD", 1)
    async with gateway(**FAST) as gate:
        await gate.chat()
        readers = [await gate.reader() for _ in range(3)]
        looked_at: list[object] = []

        def close_all() -> None:
            for reader in readers:
                reader.close()

        def look(_: object, connection: object, *__: object) -> None:
            looked_at.append(connection)
            get_running_loop().call_soon(close_all)

        monkeypatch.setattr(gate.manager._hub.clock, "_watch_one", look)
        await eventually(lambda: looked_at)
        await quiet()
        assert len(looked_at) == 1


async def test_a_long_poll_is_answered_by_the_next_event_that_matches(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    pages: list[Any] = []

    async def poll() -> None:
        pages.append(
            await gate.manager.events(
                ME, "s", after=1, types=frozenset({"message"}), wait_seconds=60
            )
        )

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(poll)
            await quiet()
            await gate.manager.append_events(ME, "s", [{"type": "custom", "name": "x"}])
            await quiet()
            assert not pages
            await gate.manager.add_messages(ME, "s", [NewMessage("user", "x")])
    assert len(pages[0].events) == 1
    await quiet()
    assert gate.leftovers() == []


@pytest.mark.parametrize("how", ["delete", "drain"])
async def test_a_long_poll_does_not_outlive_its_session_or_the_gateway(how: str, gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    outcomes: list[Any] = []

    async def poll() -> None:
        try:
            outcomes.append(await gate.manager.events(ME, "s", after=1, wait_seconds=60))
        except NotFound as error:
            outcomes.append(error)

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(poll)
            await quiet()
            if how == "delete":
                await gate.manager.delete_session(ME, "s")
            else:
                gate.manager.begin_drain()
    assert isinstance(outcomes[0], NotFound) == (how == "delete")
