"""R2, R3, R4, R6, R7: one stream of many sessions (docs/reference/streams.md)."""

from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bamboo_gateway.api.joint_cursor import CURSOR_CHARS_MAX, OtherList, read_cursor
from bamboo_gateway.api.joint_frames import JointFrames
from bamboo_gateway.api.routes.joint_streams import joint_requests
from bamboo_gateway.domain.callers import Caller, Right
from bamboo_gateway.domain.errors import InvalidInput, LimitReached, StorageFailed
from bamboo_gateway.domain.events import Complete, Token
from bamboo_gateway.domain.limits import JOINT_SESSIONS_MAX, SEND_BYTES_MAX
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.sessions.commands import NewSession, StreamRequest
from bamboo_gateway.sessions.sharing import NewShare
from tests.support.clocks import FakeClock
from tests.support.frames import frame_ends, parse_frames, whole_frames
from tests.support.gateways import ME, Gateway, crash, eventually, gateway, quiet
from tests.support.joint import JointReader, joint, joint_reader

READ_ONLY: frozenset[Right] = frozenset({"read"})


async def say(gate: Gateway, session_id: str, *names: str) -> None:
    """Append events to a session; create it when it is new."""
    await gate.manager.get_or_create_session(ME, NewSession(id=session_id))
    for name in names:
        await gate.manager.append_events(ME, session_id, [{"type": "custom", "name": name}])


async def turn(gate: Gateway, session_id: str, run_id: str, *tokens: str) -> None:
    await gate.chat(session_id, run_id=run_id)
    gate.agent.do(run_id, *(Token(text) for text in tokens), Complete())
    await gate.ended(run_id, session_id)


async def a_few(gate: Gateway) -> dict[str, list[dict[str, Any]]]:
    """Three sessions with some events each; return their logs."""
    await turn(gate, "a", "ra", "one", "two")
    await say(gate, "b", "x", "y")
    await turn(gate, "c", "rc", "three")
    await say(gate, "a", "late")
    return {name: await gate.log(name) for name in ("a", "b", "c")}


async def rest_after(gate: Gateway, cursor: str | None, *sessions: str) -> JointReader:
    """Come back with a cursor, as a client does, and read what there is."""
    begin = {"last_event_id": cursor} if cursor is not None else {"from_start": True}
    async with await joint_reader(gate, *sessions, **begin) as reader:
        await reader.take_what_is_there()
    return reader


# -- exactly once, in order -----------------------------------------------------------------------


async def test_a_client_that_is_cut_after_any_frame_sees_the_rest_of_each_session_once(
    gate: Gateway,
):
    """R2."""
    logs = await a_few(gate)
    whole = await rest_after(gate, None, "a", "b", "c")
    assert {name: whole.of(name) for name in logs} == logs
    ends = frame_ends(whole.bytes)
    assert len(ends) == 3 + sum(map(len, logs.values()))
    for end in ends:
        seen = parse_frames(whole.bytes[:end])[0]
        after = await rest_after(gate, seen[-1].id, "a", "b", "c")
        for name, log in logs.items():
            got = [frame for frame in seen if frame.data.get("session_id") == name]
            had = [frame.data["seq"] for frame in got if "seq" in frame.data]
            assert after.controls(name) == ["open"]
            assert [*had, *(event["seq"] for event in after.of(name))] == [
                event["seq"] for event in log
            ]


async def test_a_client_that_is_cut_at_any_byte_sees_the_rest_once(gate: Gateway):
    """R2. What stands between the frames that a client has read whole never counts."""
    await say(gate, "a", "x")
    await say(gate, "b", "y")
    whole = await rest_after(gate, None, "a", "b")
    expected = {name: await gate.log(name) for name in ("a", "b")}
    for cut in range(len(whole.bytes) + 1):
        seen = whole_frames(whole.bytes, cut)
        after = await rest_after(gate, seen[-1].id if seen else None, "a", "b")
        for name, log in expected.items():
            had = [f.data["seq"] for f in seen if f.data["session_id"] == name and "seq" in f.data]
            assert [*had, *(event["seq"] for event in after.of(name))] == [
                event["seq"] for event in log
            ]


async def test_live_events_of_all_sessions_come_in_the_order_of_each(gate: Gateway):
    await say(gate, "a")
    await say(gate, "b")
    async with await joint_reader(gate, "a", "b") as reader:
        await reader.take_what_is_there()
        assert reader.types == ["open", "open"]
        for number in range(5):
            await say(gate, "a", f"a{number}")
            await say(gate, "b", f"b{number}")
        await reader.take_what_is_there()
        for name in ("a", "b"):
            names = [event["name"] for event in reader.of(name)]
            assert names == [f"{name}{number}" for number in range(5)]
    assert gate.leftovers() == []


async def test_each_frame_is_what_a_stream_of_the_session_shows_and_names_it(gate: Gateway):
    logs = await a_few(gate)
    reader = await rest_after(gate, None, "a", "b", "c")
    for name in logs:
        async with await gate.reader(name, from_start=True) as single:
            await single.take_what_is_there()
        assert reader.of(name) == [frame.data for frame in single.events]
    assert b'data: {"session_id":"a","type":"token"' in reader.bytes


async def test_events_of_a_session_are_rendered_once_for_all_joint_streams(
    gate: Gateway, monkeypatch: pytest.MonkeyPatch
):
    """A reader more costs its cursor, and no encoding (R7)."""
    from bamboo_gateway.api import joint_frames

    rendered: list[int] = []
    render = joint_frames.NamedFrames.event

    def event(frames: joint_frames.NamedFrames, epoch: int, seq: int, body: bytes) -> bytes:
        rendered.append(seq)
        return render(frames, epoch, seq, body)

    monkeypatch.setattr(joint_frames.NamedFrames, "event", event)
    await say(gate, "a")
    await say(gate, "b")
    readers = [await joint_reader(gate, "a", "b") for _ in range(3)]
    readers.append(await joint_reader(gate, "b", "a"))
    await say(gate, "a", "x")
    for reader in readers:
        await reader.take_what_is_there()
        assert [event["name"] for event in reader.of("a")] == ["x"]
        reader.close()
    assert len(rendered) == 1


async def test_a_cursor_holds_across_a_crash(gate: Gateway):
    """R2, R3."""
    logs = await a_few(gate)
    whole = await rest_after(gate, None, "a", "b", "c")
    ids = [frame.id for frame in whole.frames]
    left = await crash(gate)
    async with gateway(left, clock=gate.clock) as after:
        for number, cursor in enumerate(ids):
            reader = await rest_after(after, cursor, "a", "b", "c")
            had = whole.frames[: number + 1]
            for name, log in logs.items():
                seqs = [
                    f.data["seq"] for f in had if f.data["session_id"] == name and "seq" in f.data
                ]
                assert [*seqs, *(event["seq"] for event in reader.of(name))] == [
                    event["seq"] for event in log
                ]


async def test_a_cursor_holds_across_compaction_archive_and_restore():
    """R2. After compaction the deltas are gone; everything else comes once, in order."""
    async with gateway(delta_retention_seconds=0) as gate:
        await turn(gate, "a", "ra", *("word" * 20_000 for _ in range(3)))
        await say(gate, "b", "x")
        whole = await rest_after(gate, None, "a", "b")
        epoch = gate.live("a").epoch
        await gate.store.inner.compact("a", epoch, len(await gate.log("a")))
        left = [event["seq"] for event in await gate.log("a")]
        assert len(left) < len(whole.of("a"))
        gate.live("a").channel.begin(gate.live("a").head)
        for archived in (False, True):
            if archived:
                await gate.manager.archive(ME, "a")
            for number, frame in enumerate(whole.frames):
                reader = await rest_after(gate, frame.id, "a", "b")
                had = [f.data for f in whole.frames[: number + 1] if f.data["session_id"] == "a"]
                last = max([0, *(event.get("seq", 0) for event in had)])
                got = [event["seq"] for event in reader.of("a")]
                ends = [event["seq"] for event in await gate.log("a")]
                assert got == [seq for seq in ends if seq > last]
        await gate.manager.restore(ME, "a")
        reader = await rest_after(gate, whole.frames[-1].id, "a", "b")
        assert [event["to"] for event in reader.of("a")] == ["archived", "idle"][
            : len(reader.of("a"))
        ]
        assert reader.controls("a") == ["open"]


# -- where it begins ------------------------------------------------------------------------------


async def test_a_session_begins_after_its_position_in_the_request(gate: Gateway):
    logs = await a_few(gate)
    at = (await gate.manager.get_session(ME, "a")).session["position"]
    await say(gate, "a", "new")
    async with await joint_reader(gate, f"a@{at}", "b@1", "c@0") as reader:
        await reader.take_what_is_there()
        assert [event["name"] for event in reader.of("a")] == ["new"]
        assert reader.of("b") == logs["b"][1:]
        assert reader.of("c") == logs["c"]


async def test_without_a_position_it_begins_before_the_active_run_or_now(gate: Gateway):
    await say(gate, "a", "x")
    await gate.chat("b", run_id="r")
    async with await joint_reader(gate, "a", "b") as reader:
        await reader.take_what_is_there()
        assert reader.of("a") == []
        assert [event["type"] for event in reader.of("b")] == ["message", "run_start"]
        opens = {frame.data["session_id"]: frame.data for frame in reader.frames[:2]}
        assert opens["b"]["active_run_id"] == "r"
        assert opens["a"]["active_run_id"] is None


async def test_a_cursor_wins_over_the_position_in_the_request(gate: Gateway):
    await a_few(gate)
    whole = await rest_after(gate, None, "a", "b", "c")
    for begin in ("after", "last_event_id"):
        async with await joint_reader(gate, "a@0", "b@0", "c", **{begin: whole.last_id}) as reader:
            await reader.take_what_is_there()
            assert reader.types == ["open"] * 3


async def test_of_after_and_the_last_id_the_later_counts_in_each_session(gate: Gateway):
    """EventSource repeats its URL and adds a newer header."""
    await a_few(gate)
    whole = await rest_after(gate, None, "a", "b", "c")
    early, late = whole.frames[0].id, whole.last_id
    for after, last in ((early, late), (late, early)):
        async with await joint_reader(
            gate, "a", "b", "c", after=after, last_event_id=last
        ) as reader:
            await reader.take_what_is_there()
            assert reader.types == ["open"] * 3


async def test_a_cursor_of_another_list_is_a_reset_of_each_session(gate: Gateway):
    """R4."""
    await a_few(gate)
    whole = await rest_after(gate, None, "a", "b")
    lists = (("b", "a"), ("a",), ("a", "b", "c"))
    for sessions in lists:
        for begin in ("after", "last_event_id"):
            async with await joint_reader(gate, *sessions, **{begin: whole.last_id}) as reader:
                await reader.take_what_is_there()
                for name in sessions:
                    assert reader.controls(name) == ["open", "reset"]
            again = await rest_after(gate, reader.last_id, *sessions)
            assert again.types == ["open"] * len(sessions)


async def test_a_reset_is_not_lost_when_the_client_is_cut_before_it(gate: Gateway):
    """R4: the frames before it still carry what cannot be served."""
    await a_few(gate)
    for cursor in ("no-cursor", (await rest_after(gate, None, "a", "c")).last_id):
        reader = await rest_after(gate, cursor, "a", "b")
        for number, frame in enumerate(reader.frames):
            told = {f.data["session_id"] for f in reader.frames[: number + 1] if f.type == "reset"}
            again = await rest_after(gate, frame.id, "a", "b")
            for name in ("a", "b"):
                assert again.controls(name) == ["open"] + ["reset"] * (name not in told)


async def test_a_reset_names_its_session_and_the_others_go_on(gate: Gateway):
    """R3, R4: one of the sessions was deleted and created again."""
    logs = await a_few(gate)
    whole = await rest_after(gate, None, "a", "b", "c")
    middle = whole.frames[len(whole.frames) // 2]
    await gate.manager.delete_session(ME, "b")
    gate.clock.advance(1)
    await say(gate, "b", "other")
    reader = await rest_after(gate, middle.id, "a", "b", "c")
    assert reader.controls("b") == ["open", "reset"]
    (reset,) = [frame.data for frame in reader.frames if frame.type == "reset"]
    assert reset["session_id"] == "b"
    assert reset["reason"] == "epoch_changed"
    had = whole.frames[: whole.frames.index(middle) + 1]
    for name in ("a", "c"):
        seqs = [f.data["seq"] for f in had if f.data["session_id"] == name and "seq" in f.data]
        assert [*seqs, *(event["seq"] for event in reader.of(name))] == [
            event["seq"] for event in logs[name]
        ]


@pytest.mark.parametrize(
    ("sessions", "after"),
    [
        (["a", "a"], None),
        (["a", "a@1-2"], None),
        (["s"] * 2, None),
        ([f"s{number}" for number in range(JOINT_SESSIONS_MAX + 1)], None),
        (["a@"], None),
        (["a@x"], None),
        (["a/b"], None),
        (["a"], "nonsense"),
        (["a"], "1-2"),
    ],
)
def test_a_request_that_cannot_be_meant_is_refused(sessions: list[str], after: str | None):
    with pytest.raises(InvalidInput):
        joint_requests(sessions, after, None, StreamRequest())


IDS = st.lists(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}", fullmatch=True),
    min_size=1,
    max_size=JOINT_SESSIONS_MAX,
    unique=True,
)
POSITIONS = st.tuples(st.integers(0, 1 << 53), st.integers(0, 1 << 53)).map(
    lambda pair: Position(*pair)
)


@given(data=st.data(), ids=IDS)
@settings(max_examples=200)
def test_a_cursor_reads_as_the_positions_that_it_was_written_of(
    data: st.DataObject, ids: list[str]
):
    positions = data.draw(st.lists(POSITIONS, min_size=len(ids), max_size=len(ids)))
    frames = JointFrames(ids)
    for place, position in enumerate(positions):
        frames.move(place, position)
    place = data.draw(st.integers(0, len(ids) - 1))
    epoch, seq = data.draw(POSITIONS)
    chunk = frames.events(place, epoch, [seq], [b"data: {}\n\n"])
    cursor = chunk.split(b"\n")[0].removeprefix(b"id: ").decode()
    positions[place] = Position(epoch, seq)
    assert read_cursor(cursor, ids) == positions
    assert len(cursor) <= CURSOR_CHARS_MAX
    with pytest.raises(OtherList):
        read_cursor(cursor, [*ids[1:], "other"])


@given(st.text(max_size=60) | st.from_regex(r"[A-Za-z0-9_-]{1,40}(\.[A-Za-z0-9_-]{1,12}){1,3}"))
def test_what_is_no_cursor_is_refused(text: str):
    with pytest.raises(ValueError, match=r"."):
        read_cursor(text, ["a", "b"])


# -- sessions that end alone ----------------------------------------------------------------------


async def test_a_session_that_is_deleted_ends_alone(gate: Gateway):
    await say(gate, "a")
    await say(gate, "b")
    async with await joint_reader(gate, "a", "b") as reader:
        await reader.take_what_is_there()
        await gate.manager.delete_session(ME, "a")
        await say(gate, "b", "x")
        await reader.take_what_is_there()
        assert reader.controls("a") == ["open", "goodbye"]
        (goodbye,) = [frame.data for frame in reader.frames if frame.type == "goodbye"]
        assert goodbye == {
            "type": "goodbye",
            "session_id": "a",
            "reason": "deleted",
            "retry": False,
        }
        assert [event["name"] for event in reader.of("b")] == ["x"]
        await gate.manager.delete_session(ME, "b")
        await reader.take_all()
        assert reader.goodbye is not None
        assert reader.goodbye["session_id"] == "b"
    assert await joint(gate, "a", "b", last_event_id=reader.last_id) is None
    assert gate.leftovers() == []


async def test_unknown_sessions_and_those_of_others_end_alike_and_alone(gate: Gateway):
    """A caller learns nothing of another's session, at no position."""
    alice, bob = (Caller(name, user_id=name) for name in ("alice", "bob"))
    await gate.manager.create_session(alice, NewSession(id="hers"))
    await gate.manager.create_session(bob, NewSession(id="his"))
    told = []
    for name in ("hers", "none"):
        async with await joint_reader(gate, "his", name, caller=bob) as reader:
            await reader.take_what_is_there()
            assert reader.controls("his") == ["open"]
            told.append(
                [f.data | {"session_id": "?"} for f in reader.frames if f.type == "goodbye"]
            )
    assert (
        told[0]
        == told[1]
        == [{"type": "goodbye", "session_id": "?", "reason": "deleted", "retry": False}]
    )
    async with await joint_reader(gate, "hers", "none", caller=bob) as reader:
        assert [frame.type for frame in await reader.take_all()] == ["goodbye", "goodbye"]
    assert await joint(gate, "hers", "none", caller=bob, last_event_id=reader.last_id) is None


async def test_a_ticket_opens_its_own_session_alone(gate: Gateway):
    await say(gate, "a")
    await say(gate, "b")
    ticket = Caller("local", rights=READ_ONLY, session_id="a", credential="t")
    async with await joint_reader(gate, "a", "b", caller=ticket) as reader:
        await reader.take_what_is_there()
        assert reader.controls("a") == ["open"]
        assert reader.controls("b") == ["goodbye"]


async def test_a_share_that_ends_ends_that_session_alone(gate: Gateway):
    alice, bob = (Caller(name, user_id=name) for name in ("alice", "bob"))
    await gate.manager.create_session(alice, NewSession(id="hers"))
    await gate.manager.create_session(bob, NewSession(id="his"))
    made = await gate.manager.share(alice, "hers", NewShare("bob"))
    async with await joint_reader(gate, "hers", "his", caller=bob) as reader:
        await reader.take_what_is_there()
        assert reader.types == ["open", "open"]
        await gate.manager.revoke_share(alice, "hers", made.answer["id"])
        await reader.take_what_is_there()
        assert reader.controls("hers") == ["open", "goodbye"]
        assert reader.controls("his") == ["open"]
    await gate.manager.append_events(alice, "hers", [{"type": "custom", "name": "secret"}])
    await gate.manager.share(alice, "hers", NewShare("bob"))
    after = await joint_reader(gate, "hers", "his", caller=bob, last_event_id=reader.last_id)
    async with after:
        await after.take_what_is_there()
        # The share is back: everything since comes, once.
        kinds = [event["type"] for event in after.of("hers")]
        assert kinds == ["share_revoked", "custom", "session_shared"]


async def test_a_closed_session_shows_what_is_left_and_ends_alone(gate: Gateway):
    await say(gate, "a", "x")
    await say(gate, "b")
    await gate.manager.close_session(ME, "a")
    async with await joint_reader(gate, "a@0", "b") as reader:
        await reader.take_what_is_there()
        assert [event["type"] for event in reader.of("a")][-1] == "state_change"
        assert reader.controls("a") == ["open", "goodbye"]
        assert reader.controls("b") == ["open"]


async def test_a_log_that_cannot_be_read_takes_the_others_nothing(gate: Gateway):
    """R10."""
    await say(gate, "a")
    await say(gate, "b")
    gate.manager._registry.forget(gate.live("a"))
    gate.store.fail("load", StorageFailed("Its files are damaged."))
    async with await joint_reader(gate, "a", "b") as reader:
        await reader.take_what_is_there()
        assert reader.controls("a") == ["goodbye"]
        assert reader.controls("b") == ["open"]
    gate.store.forgive()


async def test_one_session_can_be_disconnected_and_is_listed(gate: Gateway):
    await say(gate, "a")
    await say(gate, "b")
    async with await joint_reader(gate, "a", "b", connection_id="tab") as reader:
        await reader.take_what_is_there()
        for name in ("a", "b"):
            (view,) = await gate.manager.connections(ME, name)
            assert view["connection_id"] == "tab"
            assert (await gate.manager.get_session(ME, name)).session["state"] == "active"
        await gate.manager.disconnect(ME, "a", "tab")
        await reader.take_what_is_there()
        assert reader.controls("a") == ["open", "goodbye"]
        assert await gate.manager.connections(ME, "a") == []
        assert len(await gate.manager.connections(ME, "b")) == 1
        assert (await gate.manager.get_session(ME, "a")).session["state"] == "disconnected"


async def test_a_newer_stream_of_the_same_name_takes_the_place_of_the_older(gate: Gateway):
    async with gateway(max_connections=1) as gate:
        await say(gate, "a")
        await say(gate, "b")
        old = await joint_reader(gate, "a", "b", connection_id="tab")
        await old.take_what_is_there()
        async with await joint_reader(gate, "a", "b", connection_id="tab") as new:
            await new.take_what_is_there()
            await old.take_all()
            assert [f.data["reason"] for f in old.frames if f.type == "goodbye"] == [
                "superseded",
                "superseded",
            ]
            await say(gate, "a", "x")
            await new.take_what_is_there()
            assert len(new.of("a")) == 1
        old.close()


async def test_a_name_does_not_open_more_streams_than_there_may_be(gate: Gateway):
    """A stream that goes on with other sessions keeps its place."""
    async with gateway(max_connections_per_user=1) as gate:
        alice = Caller("alice", user_id="alice")
        for name in ("a", "b"):
            await gate.manager.create_session(alice, NewSession(id=name))
        first = await joint_reader(gate, "a", "b", connection_id="x", caller=alice)
        with pytest.raises(LimitReached):
            await joint(gate, "a", connection_id="x", caller=alice)
        first.close()
        (await joint_reader(gate, "a", connection_id="x", caller=alice)).close()


async def test_a_shutdown_ends_idle_sessions_now_and_others_after_their_run():
    async with gateway(drain_timeout_seconds=60) as gate:
        await say(gate, "idle")
        await gate.chat("busy", run_id="r")
        await gate.agent.script("r").started.wait()
        async with await joint_reader(gate, "idle", "busy") as reader:
            await reader.take_what_is_there()
            gate.manager.begin_drain()
            await reader.take_what_is_there()
            assert reader.controls("idle") == ["open", "goodbye"]
            assert reader.controls("busy") == ["open"]
            gate.agent.do("r", Token("last"), Complete())
            await reader.take_all()
            assert [event["type"] for event in reader.of("busy")][-1] == "complete"
            assert reader.goodbye == {
                "type": "goodbye",
                "session_id": "busy",
                "reason": "shutdown",
                "retry": True,
            }


# -- one reader, many sessions --------------------------------------------------------------------


async def test_a_burst_of_one_session_delays_the_others_by_one_send(gate: Gateway):
    """R7."""
    await say(gate, "loud")
    await say(gate, "soft")
    async with await joint_reader(gate, "loud", "soft") as reader:
        await reader.take_what_is_there()
        big = [{"type": "custom", "name": "n", "value": "x" * 30_000} for _ in range(30)]
        await gate.manager.append_events(ME, "loud", big)
        await say(gate, "soft", "heard")
        for _ in range(2):
            chunk = await reader.take()
            assert chunk is not None
            assert len(chunk) <= SEND_BYTES_MAX
        assert [event["name"] for event in reader.of("soft")] == ["heard"]
        await reader.take_what_is_there()
        assert len(reader.of("loud")) == 30


async def test_an_event_larger_than_a_send_comes_alone_and_in_order(gate: Gateway):
    await say(gate, "a")
    await say(gate, "b")
    large = {"type": "custom", "name": "large", "value": "x" * (SEND_BYTES_MAX + 1000)}
    async with await joint_reader(gate, "a", "b") as reader:
        await reader.take_what_is_there()
        await say(gate, "b", "before")
        await gate.manager.append_events(ME, "a", [large])
        await say(gate, "a", "after")
        await say(gate, "b", "too")
        await reader.take_what_is_there()
        assert [event["name"] for event in reader.of("a")] == ["large", "after"]
        assert [event["name"] for event in reader.of("b")] == ["before", "too"]


async def test_sessions_that_are_behind_are_read_in_turns_and_bounded(gate: Gateway):
    """R7: no send, and no read, grows with the number of sessions."""
    names = [f"s{number}" for number in range(6)]
    for name in names:
        await say(gate, name)
        for _ in range(4):
            big = [{"type": "custom", "name": "n", "value": "x" * 40_000} for _ in range(9)]
            await gate.manager.append_events(ME, name, big)
    async with await joint_reader(gate, *names, from_start=True) as reader:
        await reader.take()
        seqs: dict[str, list[int]] = {name: [] for name in names}
        while sum(map(len, seqs.values())) < len(names) * 37:
            chunk = await reader.take()
            assert chunk is not None
            assert len(chunk) <= SEND_BYTES_MAX + 50_000
            for frame in parse_frames(chunk)[0]:
                seqs[frame.data["session_id"]].append(frame.data["seq"])
            # Nobody is far ahead of the others: an eighth of a send a turn, and one event more.
            assert max(map(len, seqs.values())) - min(map(len, seqs.values())) <= 8
        assert all(got == list(range(1, 38)) for got in seqs.values())


async def test_committed_events_are_sent_at_once_and_are_not_lost_when_they_cannot_be(
    gate: Gateway,
):
    """R2: what was not sent is in no cursor."""
    await say(gate, "a")
    await say(gate, "b")
    reader = await joint_reader(gate, "a", "b")
    await reader.take_what_is_there()
    stream = reader.stream
    sent: list[bytes] = []
    takes = [True, False, True, False]

    def send(chunk: bytes) -> bool:
        if takes.pop(0):
            sent.append(chunk)
            return True
        return False

    stream.send_now = send
    got = b""
    for name in ("one", "two", "three", "four"):
        async with anyio.create_task_group() as tasks:
            chunks: list[bytes | None] = []

            async def one(chunks: list[bytes | None] = chunks) -> None:
                chunks.append(await stream.next())

            tasks.start_soon(one)
            await quiet()
            await say(gate, "a" if name != "two" else "b", name)
            await quiet()
            tasks.cancel_scope.cancel()
        got += b"".join(sent) + b"".join(chunk for chunk in chunks if chunk)
        sent.clear()
    frames = parse_frames(got)[0]
    assert [frame.data["name"] for frame in frames] == ["one", "two", "three", "four"]
    for number, frame in enumerate(frames):
        rest = await rest_after(gate, frame.id, "a", "b")
        names = [f.data["name"] for f in rest.events]
        assert sorted(names) == sorted(f.data["name"] for f in frames[number + 1 :])
    reader.close()


async def test_a_heartbeat_is_one_for_all_sessions_and_keeps_each_alive(gate: Gateway):
    clock = FakeClock()
    async with gateway(clock=clock, heartbeat_interval_seconds=0.05) as gate:
        names = [f"s{number}" for number in range(5)]
        for name in names:
            await say(gate, name)
        async with await joint_reader(gate, *names, heartbeat_events=True) as reader:
            await reader.take()
            for _ in range(2):
                await reader.take()
            assert reader.types == ["open"] * 5 + ["heartbeat"] * 2
            assert {frame.id for frame in reader.frames} == {reader.last_id}


async def test_a_joint_stream_ends_with_its_callers_right():
    async with gateway(heartbeat_interval_seconds=0.05) as gate:
        await say(gate, "a")
        await say(gate, "b")
        gate.manager._hub.clock._may_stay = lambda _: False
        async with await joint_reader(gate, "a", "b") as reader:
            await reader.take_all()
            reasons = [f.data["reason"] for f in reader.frames if f.type == "goodbye"]
            assert reasons == ["unauthorized", "unauthorized"]


async def test_a_reader_that_is_stuck_is_closed_and_delays_nobody():
    """R7: 32 sessions with bursts beside a stalled reader."""
    async with gateway(send_timeout_seconds=0.1) as gate:
        names = [f"s{number}" for number in range(JOINT_SESSIONS_MAX)]
        for name in names:
            await say(gate, name)
        stalled = await joint_reader(gate, *names)
        await stalled.take_what_is_there()
        stream = stalled.stream
        cut: list[bool] = []
        stream.cancel_slow = lambda: cut.append(True)
        async with await joint_reader(gate, *names) as other:
            await other.take_what_is_there()
            # Its client reads nothing: the response waits in its send from here on.
            stream.sending_since = gate.clock.monotonic()
            for _ in range(5):
                for name in names:
                    big = [{"type": "custom", "name": "n", "value": "x" * 5000}] * 10
                    await gate.manager.append_events(ME, name, big)
            await other.take_what_is_there()
            for name in names:
                assert len(other.of(name)) == 50
            # What it has not read is in the event queues, which are bounded, and nowhere else.
            assert len(stream._line) <= len(names)
            gate.clock.advance(1)
            await eventually(lambda: cut)
        stalled.close()
        assert gate.leftovers() == []


async def test_the_cursor_costs_less_than_an_event():
    """It is in every frame: 20 to 40 characters for a few sessions, 300 for 32 of them."""
    sizes = {}
    for count in (1, 2, 5, 10, 32):
        ids = [f"s-{number}" for number in range(count)]
        frames = JointFrames(ids)
        for place in range(count):
            frames.move(place, Position(1763661234567 + place * 7_654_321, 1000 + 97 * place))
        chunk = frames.events(0, 1763661234567, [1001], [b"data: {}\n\n"])
        sizes[count] = len(chunk) - len(b"data: {}\n\n") - len(b"id: \n")
    assert sizes[1] <= 24
    assert sizes[10] <= 100
    assert sizes[32] <= 300


@given(data=st.data(), ids=IDS)
def test_each_frame_has_the_positions_behind_it_whatever_moved_before(
    data: st.DataObject, ids: list[str]
):
    frames = JointFrames(ids)
    positions = [Position(0, 0)] * len(ids)
    steps = st.tuples(st.integers(0, len(ids) - 1), st.sampled_from((7, 8)), st.integers(1, 9999))
    for place, epoch, seq in data.draw(st.lists(steps, max_size=12)):
        if data.draw(st.booleans()):
            frames.move(place, Position(epoch, seq))
            positions[place] = Position(epoch, seq)
            continue
        chunk = frames.events(place, epoch, [seq, seq + 1], [b"data: {}\n\n"] * 2)
        for last in (seq, seq + 1):
            positions[place] = Position(epoch, last)
            line, _, chunk = chunk.partition(b"\n")
            assert read_cursor(line.removeprefix(b"id: ").decode(), ids) == positions
            chunk = chunk.removeprefix(b"data: {}\n\n")
