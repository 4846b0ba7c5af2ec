"""The store that plays several processes in one test: its conditions are those of PostgreSQL."""

from typing import Any

import anyio
import pytest

from bamboo_gateway.domain.errors import BambooError, Conflict, Unavailable
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.commits import Commit, Event, Note
from bamboo_gateway.storage.replicas import Look, Presence
from tests.support.clocks import FakeClock
from tests.support.shared_memory import SharedMemory, SharedStore


def _commit(seq: int, version: int | None, *, create: bool = False, **others: Any) -> Commit:
    body = b'{"type":"custom","seq":%d}' % seq
    head = SessionHead("s", 5, seq) if create else None
    commit = Commit("s", 5, seq, [Event(seq, "custom", body)], [], head, create=create)
    return commit._replace(version=version, **others)


async def _append(store: SharedStore, commit: Commit) -> BambooError | None:
    done = anyio.Event()
    outcome: list[BambooError | None] = []

    def note(error: BambooError | None) -> None:
        outcome.append(error)
        done.set()

    store.append(commit, note)
    with anyio.fail_after(60):
        await done.wait()
    return outcome[0]


async def _two() -> tuple[SharedMemory, SharedStore, SharedStore]:
    memory = SharedMemory(FakeClock())
    return memory, await memory.store("a"), await memory.store("b")


async def test_each_commit_moves_the_version_and_one_decided_on_an_older_version_is_refused() -> (
    None
):
    _, a, b = await _two()
    assert await _append(a, _commit(1, None, create=True)) is None
    note = Commit("s", 5, 2, [], [Note(1, "k", b'{"note":"x","key":"k"}')], None, version=1)
    assert await _append(b, note) is None
    assert await a.shared.look(["s", "t"]) == {"s": Look(5, 2, 1, 0)}
    assert isinstance(await _append(a, _commit(2, 1)), Conflict)
    assert await _append(a, _commit(2, 2)) is None
    head = await b.load("s")
    assert head is not None
    assert (head.version, head.seq) == (3, 2)


async def test_a_deleted_session_is_not_created_again_with_its_epoch_and_its_keys_are_spent() -> (
    None
):
    _, a, b = await _two()
    create = _commit(1, None, create=True)
    create = create._replace(notes=[Note(1, "k", b'{"note":"x","key":"k"}')])
    assert await _append(a, create) is None
    await b.delete("s", 5)
    assert await a.is_spent("s", "k")
    assert not await a.is_spent("s", "other")
    assert isinstance(await _append(a, create), Conflict)
    assert await _append(a, create._replace(epoch=6)) is None


async def test_a_run_begins_only_for_a_living_executor_and_is_closed_only_for_a_dead_one() -> None:
    memory, a, b = await _two()
    assert await _append(a, _commit(1, None, create=True, executor="a")) is None
    assert isinstance(await _append(b, _commit(2, 1, closes="a")), Conflict)
    memory.take_for_dead("a")
    assert isinstance(await _append(a, _commit(2, 1, executor="a")), Unavailable)
    assert await _append(b, _commit(2, 1, closes="a")) is None


async def test_commits_of_others_wait_while_a_session_is_locked() -> None:
    _, a, b = await _two()
    await _append(a, _commit(1, None, create=True))
    async with anyio.create_task_group() as group:
        async with a.shared.locked("s") as locked:
            outcome: list[BambooError | None] = []
            b.append(_commit(2, 1), outcome.append)
            with pytest.raises(Unavailable):
                async with b.shared.locked("s"):
                    pass
            assert locked.head is not None
            await locked.append(_commit(2, locked.head.version))
        group.start_soon(anyio.sleep, 0)
    assert await _append(b, _commit(3, 2)) is None
    assert isinstance(outcome[0], Conflict)


async def test_presences_die_with_their_executor_and_wishes_reach_the_one_that_is_asked() -> None:
    memory, a, b = await _two()
    assert await a.shared.claim(Presence("s", "posting", "r", "a", b""))
    assert not await b.shared.claim(Presence("s", "posting", "r", "b", b""))
    memory.take_for_dead("a")
    assert await b.shared.claim(Presence("s", "posting", "r", "b", b""))
    assert await b.shared.claim(Presence("s", "stream", "c", "b", b"{}"))
    memory.dead.clear()
    assert await a.shared.claim(Presence("s", "stream", "c", "a", b"{}"))
    assert [one.wish for one in await b.shared.wishes()] == ["superseded"]
    assert await b.shared.wishes() == []
    assert {one.executor for one in await a.shared.present("stream", None)} == {"a", "b"}
