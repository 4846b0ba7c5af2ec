"""A commit under a lock gets through beside any number of others, and keeps nobody out for long."""

import asyncio
from typing import Any

import pytest

from bamboo_gateway.domain.errors import BambooError, Conflict, Unavailable
from bamboo_gateway.storage.sql.postgresql.store import PostgresStore
from tests.cluster.sharing import GROUP_COMMIT, begun, held, taken_up
from tests.storage.postgresql.conftest import open_store
from tests.storage.writing import (
    DEADLINE_SECONDS,
    T0,
    Writer,
    answer_to,
    append,
    bodies_of,
    committed,
    everything,
    message,
)
from tests.support.postgres import execute
from tests.support.postgres_proxy import Cut, PostgresProxy
from tests.support.waiting import until_true

LOCKING = (
    "SELECT count(*) FROM pg_stat_activity a WHERE state = 'idle in transaction'"
    " AND datname = current_database() AND EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid"
    " AND l.relation = 'sessions'::regclass AND l.mode = 'RowShareLock')"
)


async def test_a_commit_gets_through_beside_a_process_that_appends_without_end(
    stores: tuple[PostgresStore, PostgresStore],
):
    one, other = stores
    await begun(one)
    is_over = False

    async def appending() -> int:
        refused = 0
        while not is_over:
            writer, version = await taken_up(other)
            for number in range(20):
                error = await answer_to(
                    append(other, writer.commit(message(f"n{version}"), version=version + number))
                )
                refused += isinstance(error, Conflict)
                if error is not None:
                    break
        return refused

    async with asyncio.TaskGroup() as tasks:
        rival = tasks.create_task(appending())
        stored: list[bytes] = []
        while len(stored) < 10:
            try:
                async with one.replicas.locked("s") as locked:
                    assert locked.head is not None
                    writer = Writer.of(locked.head)
                    commit = writer.commit(message("mine"), version=locked.head.version)
                    await locked.append(commit)
            except Unavailable:
                continue  # somebody else had it for too long
            stored += bodies_of(commit)
        is_over = True
    bodies = [record.body for record in await everything(one, "s")]
    assert [body for body in bodies if b'"mine"' in body] == stored
    assert rival.result() > 0, "the other one was never in the way"


async def test_a_commit_of_others_waits_for_the_lock_and_meets_what_was_stored_under_it(
    stores: tuple[PostgresStore, PostgresStore], postgres_url: str
):
    one, other = stores
    await begun(one)
    theirs, version = await taken_up(other)
    async with one.replicas.locked("s") as locked:
        assert locked.head is not None
        answer = append(other, theirs.commit(message("theirs"), version=version))
        mine = Writer.of(locked.head).commit(message("mine"), version=locked.head.version)
        await locked.append(mine)
    assert isinstance(await answer_to(answer), Conflict)
    assert await _last(one) == mine.events[-1].body


async def test_a_session_that_somebody_else_has_locked_is_not_waited_for_long(
    stores: tuple[PostgresStore, PostgresStore], postgres_url: str
):
    one, _ = stores
    await begun(one)
    async with held(postgres_url):
        with pytest.raises(Unavailable, match="changed by somebody else"):
            async with one.replicas.locked("s"):
                pytest.fail("two have it locked")
    async with one.replicas.locked("s") as locked:
        assert locked.head is not None


async def test_a_lock_ends_with_its_block_also_without_a_commit(
    stores: tuple[PostgresStore, PostgresStore], postgres_url: str
):
    one, other = stores
    await begun(one)
    for _ in range(10):  # more than there may be at a time
        async with one.replicas.locked("s") as locked:
            assert locked.head is not None
            assert execute(postgres_url, LOCKING) == [(1,)]
    with pytest.raises(ZeroDivisionError):
        async with one.replicas.locked("s"):
            raise ZeroDivisionError
    async with other.replicas.locked("s"):
        pass
    assert execute(postgres_url, LOCKING) == [(0,)]


async def test_there_is_nothing_to_lock_where_there_is_no_session(
    stores: tuple[PostgresStore, PostgresStore],
):
    one, _ = stores
    async with one.replicas.locked("s") as locked:
        assert locked.head is None
    await begun(one)


@pytest.mark.parametrize("is_moved", [True, False])
async def test_the_server_ends_a_lock_whose_owner_does_nothing(
    stores: tuple[PostgresStore, PostgresStore], *, is_moved: bool, postgres_url: str
):
    """A process that is stopped keeps nobody out; what it commits then is compared as any other."""
    one, other = stores
    await begun(one)
    async with one.replicas.locked("s") as locked:
        assert locked.head is not None
        mine = Writer.of(locked.head).commit(message("mine"), version=locked.head.version)
        await until_true(lambda: execute(postgres_url, LOCKING) == [(0,)], DEADLINE_SECONDS)
        if is_moved:
            writer, version = await taken_up(other)
            await committed(other, writer.commit(message("theirs"), version=version))
            with pytest.raises(Conflict):
                await locked.append(mine)
        else:
            await locked.append(mine)
    assert (await _last(other) == mine.events[-1].body) is not is_moved


@pytest.mark.parametrize("where", list(Cut), ids=lambda where: where.name.lower())
@pytest.mark.parametrize("what", [GROUP_COMMIT, b"COMMIT"], ids=["statement", "commit"])
async def test_a_commit_whose_answer_was_lost_is_stored_once(
    postgres_url: str, through_proxy: str, proxy: PostgresProxy, where: Cut, what: bytes
):
    async with open_store(through_proxy) as one:
        await begun(one)
        async with one.replicas.locked("s") as locked:
            assert locked.head is not None
            writer = Writer.of(locked.head)
            mine = writer.commit(message("mine"), version=locked.head.version)
            seen = 0

            def should_cut(statement: bytes) -> Cut | None:
                nonlocal seen
                is_it = what in statement and b"BEGIN" not in statement
                seen += is_it
                return where if is_it and seen == 1 else None

            proxy.cut_when(should_cut)
            await locked.append(mine)
        assert proxy.cuts == 1
        bodies = [record.body for record in await everything(one, "s")]
        assert bodies.count(mine.events[-1].body) == 1
        assert len(bodies) == 3


async def test_a_creation_may_be_refused_under_a_lock_of_nothing(
    stores: tuple[PostgresStore, PostgresStore],
):
    one, other = stores
    async with one.replicas.locked("s") as locked:
        await begun(other)
        error: BambooError | None = None
        try:
            await locked.append(Writer("s", T0 + 1).commit(message("mine")))
        except Conflict as refused:
            error = refused
    assert error is not None
    head = await one.load("s")
    assert head is not None
    assert head.epoch == T0


async def _last(store: PostgresStore) -> Any:
    return (await everything(store, "s"))[-1].body
