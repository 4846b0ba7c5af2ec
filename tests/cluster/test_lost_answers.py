"""A connection is cut around a commit, and another process changes the session before it is asked.

Whatever is said has to be true: what is "stored" is there, what is "refused" is not and never will
be, and "unknown" is said only where nobody can know.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import pytest

from bamboo_gateway.domain.errors import BambooError, Conflict, StorageFailed, Unavailable
from bamboo_gateway.storage.commits import Commit
from bamboo_gateway.storage.sql.postgresql.store import PostgresStore
from tests.cluster.sharing import DEAD, abandoned, begun, cut_once, started, taken_up
from tests.storage.postgresql.conftest import open_store
from tests.storage.writing import (
    DEADLINE_SECONDS,
    T0,
    Writer,
    answer_to,
    append,
    committed,
    complete,
    everything,
    message,
)
from tests.support.postgres import execute
from tests.support.postgres_proxy import Cut, PostgresProxy
from tests.support.waiting import until_true

Between = Callable[[PostgresStore], Awaitable[None]]


# -- what the other process does meanwhile ----------------------------------------------------


async def nothing(_: PostgresStore) -> None:
    """Nobody else is there."""


async def appended(other: PostgresStore) -> None:
    await _committed(other, message("theirs"))


async def noted(other: PostgresStore) -> None:
    await _committed(other, note="theirs")


async def _committed(other: PostgresStore, *events: dict[str, Any], **options: Any) -> None:
    """Commit; decide again when the commit that was cut comes in between after all."""
    error: BambooError | None = Conflict("not yet", head=None)
    while isinstance(error, Conflict):
        writer, version = await taken_up(other)
        error = await answer_to(append(other, writer.commit(*events, version=version, **options)))
    assert error is None


async def archived(other: PostgresStore) -> None:
    """Pack the log; again when the commit that was cut comes in between after all."""
    is_packed = False
    while not is_packed:
        with suppress(Conflict):
            await other.pack("s", T0)
            is_packed = True


async def archived_and_back(other: PostgresStore) -> None:
    await archived(other)
    await other.unpack("s", T0)


async def deleted(other: PostgresStore) -> None:
    await other.delete("s", T0)


async def created_again(other: PostgresStore) -> None:
    await other.delete("s", T0)
    await committed(other, Writer("s", T0 + 1).commit(message("theirs")))


async def created(other: PostgresStore) -> None:
    """Another process has drawn the same epoch."""
    await answer_to(append(other, Writer("s", T0).commit(message("theirs"))))


async def created_later(other: PostgresStore) -> None:
    await answer_to(append(other, Writer("s", T0 + 1).commit(message("theirs"))))


async def came_and_went(other: PostgresStore) -> None:
    """A session of a later epoch was created and deleted, unless ours was there."""
    error = await answer_to(append(other, Writer("s", T0 + 1).commit(message("theirs"))))
    await other.delete("s", T0 if error else T0 + 1)


async def renewed(other: PostgresStore) -> None:
    """The executor that everybody took for dead lives."""
    await _execute(other, "UPDATE executors SET counter = counter + 1 WHERE executor = 'x'")


async def removed(other: PostgresStore) -> None:
    """Somebody has removed the row of the executor."""
    await _execute(other, "DELETE FROM executors WHERE executor = 'x'")


async def _execute(store: PostgresStore, statement: str) -> None:
    def run() -> None:
        with store._keeper.connections.lend() as connection:
            connection.execute(statement)

    await asyncio.to_thread(run)


# -- what this process commits ----------------------------------------------------------------

Make = Callable[[PostgresStore, str], Awaitable[Commit]]


async def an_event(store: PostgresStore, _: str) -> Commit:
    return (await begun(store)).commit(message("ours"), version=1)


async def an_event_and_a_note(store: PostgresStore, _: str) -> Commit:
    return (await begun(store)).commit(message("ours"), note="ours", version=1)


async def a_note(store: PostgresStore, _: str) -> Commit:
    return (await begun(store)).commit(note="ours", version=1)


async def a_creation(store: PostgresStore, _: str) -> Commit:
    return Writer("s", T0).commit(message("ours"))


async def a_start(store: PostgresStore, url: str) -> Commit:
    writer = await begun(store)
    execute(url, DEAD)
    return started(writer, "x", version=1)


async def a_close(store: PostgresStore, url: str) -> Commit:
    writer, version = await abandoned(store, url)
    return writer.commit(complete("r1"), version=version)._replace(closes="x")


STORED: Final = None
OUTCOMES: Final[list[tuple[Make, Between, type[BambooError] | None, type[BambooError] | None]]] = [
    # The commit; what others do then; the answer when it did not reach the server; when it did.
    (an_event, nothing, STORED, STORED),
    (an_event, appended, Conflict, STORED),
    (an_event, noted, Conflict, STORED),
    (an_event, archived, Conflict, StorageFailed),
    (an_event, archived_and_back, Conflict, StorageFailed),
    (an_event, deleted, StorageFailed, StorageFailed),
    (an_event, created_again, StorageFailed, StorageFailed),
    (an_event_and_a_note, archived, Conflict, STORED),
    (a_note, nothing, STORED, STORED),
    (a_note, appended, Conflict, STORED),
    (a_note, noted, Conflict, STORED),
    (a_note, archived, Conflict, STORED),
    (a_note, deleted, StorageFailed, StorageFailed),
    (a_creation, nothing, STORED, STORED),
    (a_creation, created, Conflict, STORED),
    (a_creation, created_later, StorageFailed, STORED),
    (a_creation, came_and_went, StorageFailed, StorageFailed),
    (a_start, nothing, STORED, STORED),
    (a_start, appended, Conflict, STORED),
    (a_start, removed, Unavailable, STORED),
    (a_close, nothing, STORED, STORED),
    (a_close, renewed, Conflict, STORED),
    (a_close, removed, STORED, STORED),
]


def _name(of: object) -> str:
    return getattr(of, "__name__", "stored")


@pytest.mark.parametrize("where", list(Cut), ids=lambda where: where.name.lower())
@pytest.mark.parametrize(("make", "between", "unsent", "sent"), OUTCOMES, ids=_name)
async def test_what_is_said_of_a_commit_whose_answer_was_lost_is_true(
    make: Make,
    between: Between,
    unsent: type[BambooError] | None,
    sent: type[BambooError] | None,
    where: Cut,
    postgres_url: str,
    through_proxy: str,
    proxy: PostgresProxy,
) -> None:
    async with open_store(through_proxy) as one, open_store(postgres_url) as other:
        commit = await make(one, postgres_url)
        before = _state(postgres_url)
        with cut_once(proxy, where) as (was_cut, may_pass):
            answer = append(one, commit)
            assert await asyncio.to_thread(was_cut.wait, DEADLINE_SECONDS)
            if where is Cut.AFTER:
                await until_true(lambda: _state(postgres_url) != before)
            await between(other)
            may_pass.set()
            error = await answer_to(answer)
        # In between, the server may execute it before the other process comes, or behind it.
        expected = {Cut.BEFORE: {unsent}, Cut.BETWEEN: {unsent, sent}, Cut.AFTER: {sent}}[where]
        assert (error and type(error)) in expected, error
        # By the rows, whatever was said.
        copies = _copies(postgres_url, commit)
        if type(error) in {Conflict, Unavailable}:
            assert copies == 0, "it is refused, and stored"
        elif error is None:
            assert copies == 1
        if (head := await other.load("s")) is not None:
            assert head.seq >= len(await everything(other, "s"))
        assert one._keeper._commits.unknown_outcomes == 1


def _state(url: str) -> list[tuple[Any, ...]]:
    return execute(url, "SELECT key, version FROM sessions")


def _copies(url: str, commit: Commit) -> int:
    """Return how often a commit is stored, by its last event or its note."""
    table, body = "events", commit.events[-1].body if commit.events else b""
    if not commit.events:
        table, body = "notes", commit.notes[0].body
    found = execute(url, f"SELECT count(*) FROM {table} WHERE body = '\\x{body.hex()}'")
    if commit.events and not found[0][0]:
        packed = execute(url, "SELECT seq, is_packed FROM sessions")
        return int(packed == [(commit.events[-1].seq, True)])
    return int(found[0][0])
