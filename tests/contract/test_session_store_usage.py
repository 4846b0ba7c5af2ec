"""What users have stored, over every store: right after whatever happens, and in a new process."""

import random

from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.reports import SessionQuery, StoreUsage
from tests.contract.conftest import Reopen
from tests.contract.test_session_store_trees import state_change
from tests.storage.writing import NOBODY, Writer, committed, entries_of, message, size_of, token

USERS = ("ann", "bob", None)


def created(user_id: str | None) -> dict[str, object]:
    return {"type": "session_created", "user_id": user_id, "title": None}


async def counted(store: SessionStore, user_id: str | None = None) -> StoreUsage:
    """Count by a second path: the list, and the size of each."""
    query = SessionQuery(user_id=user_id, archived="include", limit=1000)
    heads = (await store.query(query, NOBODY)).heads
    return StoreUsage(len(heads), sum([(await store.size(head.id)).stored_bytes for head in heads]))


async def check(store: SessionStore) -> None:
    for user_id in ("ann", "bob", "nobody"):
        assert await store.usage(user_id) == await counted(store, user_id)
    assert await store.usage() == await counted(store)


async def test_usage_is_that_of_the_sessions_there_are_whatever_happened_to_them(
    store: SessionStore, second_path: Reopen
) -> None:
    chance = random.Random(7)
    writers: dict[str, Writer] = {}
    for number in range(150):
        name = chance.choice(list(writers)) if writers and chance.random() < 0.7 else f"s-{number}"
        writer = writers.get(name)
        if writer is None:
            writer = writers[name] = Writer(name, store.next_epoch())
            await committed(store, writer.commit(created(chance.choice(USERS))))
        elif writer.head.logged_state == "archived":
            await store.pack(name, writer.head.epoch)
        else:
            match chance.randrange(8):
                case 0:
                    await store.delete(name, writer.head.epoch)
                    del writers[name]
                case 1:
                    await committed(store, writer.commit(state_change("archived")))
                case 2:
                    await store.compact(name, writer.head.epoch, writer.head.seq)
                case 3 | 4:
                    await committed(store, writer.commit(*(token("x" * 50) for _ in range(9))))
                case _:
                    await committed(store, writer.commit(message(f"m{number}"), note=f"k{number}"))
        await check(store)
    assert all([(await store.usage(user)).sessions for user in USERS])
    await check(await second_path(store))


async def test_a_session_made_whole_counts_when_it_is_there_and_not_before(
    store: SessionStore, second_path: Reopen
) -> None:
    writer = Writer("s", store.next_epoch())
    commit = writer.commit(created("ann"), message("m"))
    async with store.creation("s", writer.head.epoch) as creation:
        await creation.write(*entries_of(commit))
        assert await store.usage("ann") == StoreUsage(0, 0)
        await creation.publish(writer.head.copy())
    assert (await store.usage("ann")).sessions == 1
    assert (await store.usage("ann")).stored_bytes >= size_of(commit)
    await check(await second_path(store))
