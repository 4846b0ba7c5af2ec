"""Commits of two processes to one PostgreSQL: what is stored, what is refused, and what is said.

Each store of `stores` is a process as far as the database can tell (`sharing`).
"""

import asyncio
from typing import Any

import pytest

from bamboo_gateway.domain.errors import BambooError, Conflict, Unavailable
from bamboo_gateway.sessions.runs.factory import EXTERNAL
from bamboo_gateway.storage.commits import Note
from bamboo_gateway.storage.sql.postgresql import tombstones
from bamboo_gateway.storage.sql.postgresql.statements import EXTERNAL_AGENT, NOBODY
from bamboo_gateway.storage.sql.postgresql.store import PostgresStore
from tests.cluster.sharing import DEAD, RUN, abandoned, begun, held, refusal, started, taken_up
from tests.storage.writing import (
    T0,
    Writer,
    answer_to,
    append,
    committed,
    complete,
    message,
    note_of,
    run_start,
    token,
)
from tests.support.postgres import execute
from tests.support.waiting import until_true

# -- versions ---------------------------------------------------------------------------------


async def test_each_commit_moves_the_version_also_one_of_notes_alone(
    stores: tuple[PostgresStore, PostgresStore],
):
    one, other = stores
    writer = await begun(one)
    await committed(one, writer.commit(note="key", version=1))
    await committed(one, writer.commit(message("m2"), version=2))
    _, version = await taken_up(other)
    assert version == 3


async def test_a_commit_that_was_decided_on_another_version_is_refused(
    stores: tuple[PostgresStore, PostgresStore],
):
    """The other process has stored a note: neither epoch nor seq has moved."""
    one, other = stores
    writer = await begun(one)
    theirs, version = await taken_up(other)
    await committed(other, theirs.commit(note="key", version=version))
    error = await refusal(one, writer.commit(message("m2"), version=1))
    assert isinstance(error, Conflict)
    assert error.head == 2
    again, version = await taken_up(one)
    await committed(one, again.commit(message("m2"), version=version))


@pytest.mark.parametrize("together", [True, False])
async def test_what_was_given_behind_a_refused_commit_of_notes_alone_is_refused_too(
    stores: tuple[PostgresStore, PostgresStore], *, together: bool, postgres_url: str
):
    """By epoch, seq and version it would fit: another process has moved the version instead."""
    one, other = stores
    writer = await begun(one)
    theirs, version = await taken_up(other)
    await committed(other, theirs.commit(note="theirs", version=version))
    second: asyncio.Future[BambooError | None] = asyncio.get_running_loop().create_future()

    def give_second(_: BambooError | None = None) -> None:
        one.append(writer.commit(message("m2"), version=2), second.set_result)

    if not together:
        # Its answer comes in the same turn, before that of the one that is refused.
        one.append(Writer("before", T0).commit(message("m1")), give_second)
    first = append(one, writer.commit(note="mine", version=1))
    if together:
        give_second()
    errors = [await answer_to(first), await answer_to(second)]
    assert [type(error) for error in errors] == [Conflict, Conflict]
    seen = execute(postgres_url, "SELECT seq, version FROM sessions WHERE id = 's'")
    assert seen == [(2, 2)]
    again, version = await taken_up(one)
    await committed(one, again.commit(message("m2"), version=version))


async def test_a_deletion_with_a_version_leaves_what_has_changed(
    stores: tuple[PostgresStore, PostgresStore],
):
    one, other = stores
    await begun(one)
    theirs, version = await taken_up(other)
    await committed(other, theirs.commit(note="key", version=version))
    with pytest.raises(Conflict):
        await one.delete("s", T0, 1)
    await one.delete("s", T0, 2)
    assert await other.load("s") is None


# -- who executes a run -----------------------------------------------------------------------


def counter_of(url: str, executor: str) -> int:
    return int(execute(url, f"SELECT counter FROM executors WHERE executor = '{executor}'")[0][0])


async def test_the_start_of_a_run_names_its_executor_and_moves_its_counter(
    stores: tuple[PostgresStore, PostgresStore], postgres_url: str
):
    one, _ = stores
    writer = await begun(one)
    execute(postgres_url, DEAD)
    await committed(one, started(writer, "x", version=1))
    assert execute(postgres_url, RUN) == [("r1", "x", 2)]
    assert counter_of(postgres_url, "x") == 6
    await committed(one, writer.commit(token("t"), version=2))
    assert execute(postgres_url, RUN) == [("r1", "x", 3)]
    await committed(one, writer.commit(complete("r1"), version=3))
    assert execute(postgres_url, RUN) == [(None, None, 4)]


@pytest.mark.parametrize("creates", [True, False])
async def test_an_executor_without_a_row_starts_nothing_and_begins_anew(
    stores: tuple[PostgresStore, PostgresStore], *, creates: bool, postgres_url: str
):
    one, _ = stores
    lost = one.replicas.executor
    writer = Writer("s", T0) if creates else await begun(one)
    execute(postgres_url, f"DELETE FROM executors WHERE executor = '{lost}'")
    version = None if creates else 1
    before = execute(postgres_url, "SELECT id, version FROM sessions")
    error = await refusal(one, started(writer, lost, version=version))
    assert isinstance(error, Unavailable)
    assert "taken this one for dead" in error.detail
    assert execute(postgres_url, "SELECT id, version FROM sessions") == before
    assert execute(postgres_url, "SELECT count(*) FROM session_epochs") == [(len(before),)]
    await until_true(lambda: one.replicas.executor != lost)


@pytest.mark.parametrize(
    ("agent", "executor"), [("default", NOBODY), (EXTERNAL_AGENT, None)], ids=["agent", "external"]
)
async def test_a_run_whose_head_names_no_executor(
    stores: tuple[PostgresStore, PostgresStore], agent: str, executor: str, postgres_url: str
):
    """Of an agent it is one that a dead process has left; an external one nobody executes."""
    assert EXTERNAL_AGENT == EXTERNAL
    one, _ = stores
    writer = await begun(one)
    await committed(one, writer.commit(run_start("r1") | {"agent": agent}, version=1))
    assert execute(postgres_url, RUN) == [("r1", executor, 2)]
    copy = Writer("copy", T0 + 1)
    commit = copy.commit(message("m1"), run_start("r1") | {"agent": agent})
    async with one.creation("copy", T0 + 1) as creation:
        await creation.write(commit.events)
        assert commit.head is not None
        await creation.publish(commit.head)
    found = execute(postgres_url, "SELECT run_id, executor FROM sessions WHERE id = 'copy'")
    assert found == [("r1", executor)]


async def test_a_run_of_a_dead_executor_is_closed(
    stores: tuple[PostgresStore, PostgresStore], postgres_url: str
):
    one, _ = stores
    writer, version = await abandoned(one, postgres_url)
    await committed(one, writer.commit(complete("r1"), version=version)._replace(closes="x"))
    assert execute(postgres_url, RUN) == [(None, None, 3)]


async def test_a_run_whose_executor_renews_in_the_last_moment_is_not_closed(
    stores: tuple[PostgresStore, PostgresStore], postgres_url: str
):
    """The counter of the close is the one that was judged, so it does not count what came since."""
    one, _ = stores
    writer, version = await abandoned(one, postgres_url)
    _renew_before_commits(one, postgres_url)
    commit = writer.commit(complete("r1"), version=version)._replace(closes="x")
    error = await refusal(one, commit)
    assert isinstance(error, Conflict)
    assert "is alive" in error.detail
    assert execute(postgres_url, RUN) == [("r1", "x", 2)]


def _renew_before_commits(store: PostgresStore, url: str) -> None:
    """Let the executor renew its counter between the judgement and the statement."""
    commits = store._keeper._commits
    execute_units = commits._execute

    def renewing(*arguments: Any, **options: Any) -> set[int]:
        execute(url, "UPDATE executors SET counter = counter + 1 WHERE executor = 'x'")
        return execute_units(*arguments, **options)

    commits._execute = renewing  # type: ignore[method-assign]


async def test_a_run_of_a_living_executor_is_closed_by_nobody_else(
    stores: tuple[PostgresStore, PostgresStore], postgres_url: str
):
    one, other = stores
    writer = await begun(one)
    mine = one.replicas.executor
    await committed(one, started(writer, mine, version=1))
    theirs, version = await taken_up(other)
    commit = theirs.commit(complete("r1"), version=version)._replace(closes=mine)
    assert isinstance(await refusal(other, commit), Conflict)
    assert execute(postgres_url, RUN) == [("r1", mine, 2)]


async def test_a_close_leaves_out_a_session_that_somebody_has_locked(
    stores: tuple[PostgresStore, PostgresStore], postgres_url: str
):
    """It would not see what its executor did while it waited. The next scan finds it again."""
    one, _ = stores
    writer, version = await abandoned(one, postgres_url)
    commit = writer.commit(complete("r1"), version=version)._replace(closes="x")
    async with held(postgres_url):
        error = await refusal(one, commit)
    assert isinstance(error, Unavailable)
    assert execute(postgres_url, RUN) == [("r1", "x", 2)]
    await committed(one, commit)


# -- what a deletion leaves -------------------------------------------------------------------


async def test_a_creation_that_comes_after_the_deletion_of_its_session_creates_nothing(
    stores: tuple[PostgresStore, PostgresStore],
):
    one, other = stores
    commit = Writer("s", T0).commit(message("m1"))
    await committed(one, commit)
    await other.delete("s", T0)
    error = await refusal(one, commit)
    assert isinstance(error, Conflict)
    assert error.head is None
    assert commit.head is not None
    async with one.creation("s", T0) as creation:
        await creation.write(commit.events)
        with pytest.raises(Conflict):
            await creation.publish(commit.head)
    assert await other.load("s") is None
    await committed(one, Writer("s", T0 + 1).commit(message("m1")))


async def test_a_key_of_a_deleted_session_is_spent_for_the_rest_of_its_day(
    stores: tuple[PostgresStore, PostgresStore], postgres_url: str
):
    one, other = stores
    writer = await begun(one)
    [(now,)] = execute(postgres_url, f"SELECT {tombstones.NOW_MS}")
    day = 24 * 3600 * 1000
    notes = [
        note_of(writer.head.seq, "fresh", now),
        note_of(writer.head.seq, "old", now - day - 1000),
        Note(writer.head.seq, "wish:r1", b'{"note":"wish","key":"wish:r1"}'),
    ]
    await committed(one, writer.commit(version=1)._replace(notes=notes))
    assert not await other.is_spent("s", "fresh"), "it has its answer yet"
    await other.delete("s", T0)
    spent = [await one.is_spent("s", key) for key in ("fresh", "old", "wish:r1", "never")]
    assert spent == [True, False, False, False]
    assert not await one.is_spent("another", "fresh")
    kept = execute(postgres_url, "SELECT convert_from(digest, 'UTF8'), expires_at FROM gone_keys")
    assert sorted(kept) == [("fresh", now + day), ("old", now - 1000)]


async def test_what_deletions_leave_is_removed_when_it_is_over(
    stores: tuple[PostgresStore, PostgresStore], postgres_url: str
):
    one, _ = stores
    for name in ("gone", "lately", "there"):
        await committed(one, Writer(name, T0).commit(message("m1"), note="key"))
    for name in ("gone", "lately"):
        await one.delete(name, T0)
    old = f"{tombstones.NOW_MS} - {tombstones.EPOCH_KEPT_MS} - 1"
    execute(postgres_url, f"UPDATE session_epochs SET at = {old} WHERE id = 'gone'")
    execute(postgres_url, "UPDATE gone_keys SET expires_at = 1 WHERE session_id = 'gone'")
    execute(
        postgres_url,
        f"UPDATE gone_keys SET expires_at = {tombstones.NOW_MS} + 100000"
        " WHERE session_id = 'lately'",
    )
    one._keeper._sweep_at = 0
    await asyncio.to_thread(one._keeper.on_interval)
    left = execute(postgres_url, "SELECT id FROM session_epochs ORDER BY id")
    assert left == [("lately",), ("there",)]
    assert execute(postgres_url, "SELECT session_id FROM gone_keys") == [("lately",)]


async def test_processes_count_in_rows_of_their_own(
    stores: tuple[PostgresStore, PostgresStore], postgres_url: str
):
    one, other = stores
    await begun(one, "a")
    await begun(other, "b")
    await one.delete("b", T0)
    slots = execute(postgres_url, "SELECT DISTINCT slot FROM usage ORDER BY slot")
    assert slots == [(0,), (1,), (2,)]
    usage = await other.usage()
    assert usage.sessions == 1
    assert usage.stored_bytes == (await one.size("a")).stored_bytes
