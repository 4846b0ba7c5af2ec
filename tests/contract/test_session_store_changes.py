"""What has changed, over every store: whoever pages sees the last state of each changed session."""

from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.base import ChangesLost, SessionStore, SupportsErasure
from bamboo_gateway.storage.listing import gone_of
from bamboo_gateway.storage.reports import Change, GoneSession
from tests.contract.conftest import Reopen
from tests.contract.test_session_store_trees import state_change
from tests.storage.writing import T0, StepClock, Writer, committed, entries_of, message, token


def created(user_id: str | None = "u", **fields: Any) -> dict[str, Any]:
    return {"type": "session_created", "user_id": user_id, "title": None, **fields}


def shared(share_id: str, user_id: str, expires_ms: int | None = None) -> dict[str, Any]:
    return {
        "type": "session_shared",
        "share": {
            "id": share_id,
            "role": "viewer",
            "user_id": user_id,
            "created_at": format_ms(T0),
            "expires_at": None if expires_ms is None else format_ms(expires_ms),
        },
    }


@dataclass
class Follower:
    """A reader of changes, which keeps what it was told last of each session."""

    feed: str
    number: int
    known: dict[str, SessionHead | GoneSession] = field(default_factory=dict)

    async def follow(self, store: SessionStore, limit: int = 3) -> list[Change]:
        """Page to the end; return the changes."""
        found: list[Change] = []
        while True:
            page = await store.changes(self.feed, self.number, limit)
            numbers = [change.number for change in page.changes]
            assert numbers == sorted(set(numbers))
            assert all(self.number < number <= page.last for number in numbers)
            assert len(page.changes) <= limit
            assert page.last >= self.number
            for change in page.changes:
                told = change.head if change.head is not None else change.gone
                assert told is not None
                self.known[change.session_id] = told
            found += page.changes
            self.number = page.last
            if not page.has_more:
                return found


async def following(store: SessionStore) -> Follower:
    return Follower(*await store.last_change())


async def test_a_change_is_told_once_with_the_last_state(store: SessionStore) -> None:
    follower = await following(store)
    assert await follower.follow(store) == []
    one, two = Writer("one", store.next_epoch()), Writer("two", store.next_epoch())
    await committed(store, one.commit())
    await committed(store, two.commit())
    await committed(store, one.commit(message("m")))
    found = await follower.follow(store, limit=1)
    assert [change.session_id for change in found] == ["two", "one"]
    assert follower.known == {"one": one.head, "two": two.head}
    assert await follower.follow(store) == []


async def test_deltas_and_notes_alone_are_no_changes(store: SessionStore) -> None:
    writer = Writer("s", store.next_epoch())
    await committed(store, writer.commit())
    follower = await following(store)
    await committed(store, writer.commit(token("a"), token("b")))
    await committed(store, writer.commit(note="k"))
    assert await follower.follow(store) == []
    await committed(store, writer.commit(token("c"), message("m")))
    assert [change.head for change in await follower.follow(store)] == [writer.head]


async def test_a_deletion_tells_who_could_see_the_session(
    store: SessionStore, second_path: Reopen
) -> None:
    writer = Writer("s", store.next_epoch())
    parent = {"session_id": "p", "seq": 1, "message_id": None}
    await committed(store, writer.commit(created("ann", session_type="sub_agent", parent=parent)))
    await committed(store, writer.commit(shared("sh1", "bob"), shared("sh2", "cid")))
    follower = await following(store)
    await store.delete("s", writer.head.epoch)
    gone = gone_of(writer.head)
    assert (gone.user_id, gone.shared_with) == ("ann", ("bob", "cid"))
    [change] = await follower.follow(store)
    assert (change.session_id, change.head, change.gone) == ("s", None, gone)
    again = await second_path(store)
    follower.number = change.number - 1
    assert await follower.follow(again) == [change]


async def test_a_session_created_again_is_told_as_itself(
    store: SessionStore, second_path: Reopen
) -> None:
    writer = Writer("s", store.next_epoch())
    await committed(store, writer.commit())
    follower = await following(store)
    await store.delete("s", writer.head.epoch)
    writer = Writer("s", store.next_epoch())
    await committed(store, writer.commit(message("m")))
    [change] = await follower.follow(store)
    assert change.head == writer.head
    again = await second_path(store)
    follower.number = change.number - 1
    assert [one.head for one in await follower.follow(again)] == [writer.head]


async def test_sessions_made_and_extended_at_once_are_changes(store: SessionStore) -> None:
    follower = await following(store)
    writer = Writer("s", store.next_epoch())
    async with store.creation("s", writer.head.epoch) as creation:
        await creation.write(*entries_of(writer.commit(message("m"))))
        await creation.publish(writer.head.copy())
    assert [change.head for change in await follower.follow(store)] == [writer.head]
    async with store.extension("s", writer.head.epoch, writer.head.seq) as extension:
        await extension.write(*entries_of(writer.commit(message("m2"))))
        await extension.publish(writer.head.copy())
    assert [change.head for change in await follower.follow(store)] == [writer.head]


async def test_compaction_and_packing_are_no_changes(store: SessionStore) -> None:
    writer = Writer("s", store.next_epoch())
    await committed(store, writer.commit(token("x"), token("y"), message("m")))
    await committed(store, writer.commit(state_change("archived")))
    follower = await following(store)
    await store.compact("s", writer.head.epoch, writer.head.seq)
    await store.pack("s", writer.head.epoch)
    assert await follower.follow(store) == []


async def test_numbers_that_are_not_known_are_lost(store: SessionStore) -> None:
    writer = Writer("s", store.next_epoch())
    await committed(store, writer.commit())
    feed, last = await store.last_change()
    for wrong_feed, wrong in (("other", last), (feed, last + 1), (feed, -1)):
        with pytest.raises(ChangesLost):
            await store.changes(wrong_feed, wrong, 10)
    assert (await store.changes(feed, last, 10)).changes == []


async def test_a_vacuum_forgets_deletions(store: SessionStore, second_path: Reopen) -> None:
    assert isinstance(store, SupportsErasure)
    writer = Writer("s", store.next_epoch())
    await committed(store, writer.commit(created("erased")))
    before = await following(store)
    await store.delete("s", writer.head.epoch)
    await store.vacuum()
    after = await following(store)
    again: SessionStore = store
    for _ in range(2):
        with pytest.raises(ChangesLost):
            await again.changes(before.feed, before.number, 10)
        assert await after.follow(again) == []
        again = await second_path(again) if again is store else again


NAMES = ("a", "b", "c", "d")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ("message", "message", "token", "delete", "archive", "made", "extended", "follow")
        ),
        st.sampled_from(NAMES),
        st.integers(1, 4),
    ),
    max_size=40,
)
EXAMPLES = count()


@given(steps=STEPS)
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_whoever_pages_sees_the_last_state_of_every_session(  # noqa: C901 - the steps
    store: SessionStore, steps: list[tuple[str, str, int]]
) -> None:
    example = next(EXAMPLES)
    writers: dict[str, Writer] = {}
    gone: dict[str, GoneSession] = {}
    slow, quick = await following(store), await following(store)
    for number, (step, short, limit) in enumerate(steps):
        name = f"{short}-{example}"
        writer = writers.get(name)
        if step == "follow":
            # One page only: commits go on in between.
            page = await store.changes(slow.feed, slow.number, limit)
            slow.known |= {c.session_id: c.head or c.gone for c in page.changes}  # type: ignore[misc]
            slow.number = page.last
            continue
        is_archived = writer is not None and writer.head.logged_state == "archived"
        if writer is None and step not in ("delete", "token"):
            writer = writers[name] = Writer(name, store.next_epoch())
            gone.pop(name, None)
            commit = writer.commit(created("u"), message(f"m{number}"))
            if step == "made":
                async with store.creation(name, writer.head.epoch) as creation:
                    await creation.write(*entries_of(commit))
                    await creation.publish(writer.head.copy())
            else:
                await committed(store, commit)
        elif writer is None:
            continue
        elif step == "delete":
            await store.delete(name, writer.head.epoch)
            gone[name] = gone_of(writers.pop(name).head)
        elif is_archived:
            continue
        elif step == "archive":
            await committed(store, writer.commit(state_change("archived")))
        elif step == "extended":
            after = writer.head.seq
            async with store.extension(name, writer.head.epoch, after) as extension:
                await extension.write(*entries_of(writer.commit(message(f"m{number}"))))
                await extension.publish(writer.head.copy())
        else:
            draft = token() if step == "token" else message(f"m{number}")
            await committed(store, writer.commit(draft))
        await quick.follow(store, limit)
    await slow.follow(store, 2)
    await quick.follow(store, 2)
    wanted = {**{name: writer.head for name, writer in writers.items()}, **gone}
    for follower in (slow, quick):
        assert follower.known.keys() == wanted.keys()
        for name, head in wanted.items():
            told = follower.known[name]
            if isinstance(head, SessionHead) and isinstance(told, SessionHead):
                # Deltas move a head that is not told again.
                told.seq, told.last_activity_at = head.seq, head.last_activity_at
            assert told == head


async def test_numbers_survive_a_restart(store: SessionStore, second_path: Reopen) -> None:
    writers = [Writer(f"s{n}", store.next_epoch()) for n in range(9)]
    follower = await following(store)
    for writer in writers:
        await committed(store, writer.commit())
    for writer in writers[:3]:
        await committed(store, writer.commit(message("m")))
    await store.delete("s5", writers[5].head.epoch)
    page = await store.changes(follower.feed, follower.number, 4)
    again = await second_path(store)
    follower.number = page.last
    rest = await follower.follow(again)
    told = [change.session_id for change in (*page.changes, *rest)]
    assert told == ["s3", "s4", "s6", "s7", "s8", "s0", "s1", "s2", "s5"]
    await committed(again, writers[3].commit(message("m")))
    assert [change.session_id for change in await follower.follow(again)] == ["s3"]


async def test_what_ends_by_itself_is_found_by_its_moment(
    store: SessionStore, second_path: Reopen, clock: StepClock
) -> None:
    writers = {}
    for n in range(12):
        writer = writers[f"s{n:02}"] = Writer(f"s{n:02}", store.next_epoch())
        ttl = {} if n % 4 == 3 else {"ttl_seconds": 10 * (n % 4 + 1) if n % 4 else 40_000}
        await committed(store, writer.commit(created("u", **ttl)))
    await committed(store, writers["s03"].commit(shared("x", "bob", T0 + 15_000)))
    await committed(
        store,
        writers["s07"].commit(shared("x", "bob", T0 + 15_000), shared("y", "bob", T0 + 25_000)),
    )
    await committed(
        store, writers["s11"].commit(shared("x", "bob", T0 + 15_000), shared("y", "bob"))
    )
    await committed(store, writers["s09"].commit(state_change("archived")))
    for writer in writers.values():
        store.touch(writer.head.id, writer.head.epoch, T0)
    store.touch("s01", writers["s01"].head.epoch, T0 + 7_000)
    wanted = [
        (T0 + 15_000, "s03"),
        (T0 + 20_000, "s05"),
        (T0 + 25_000, "s07"),
        (T0 + 27_000, "s01"),
        *((T0 + 30_000, f"s{n:02}") for n in (2, 6, 10)),
    ]
    seen = store
    for _ in range(2):
        for limit in (1, 2, 100):
            found, after = [], (T0, "")
            while page := await seen.expiries(after, T0 + 60_000, limit):
                assert len(page) <= limit
                found += page
                after = found[-1][:2]
            assert [one[:2] for one in found] == wanted
        spanned = await seen.expiries((T0 + 20_000, "s05"), T0 + 27_000, 9)
        assert [one.session_id for one in spanned] == ["s07", "s01"]
        assert await seen.expiries((T0 + 30_000, "s10"), T0 + 60_000, 9) == []
        seen = await second_path(store) if seen is store else seen
