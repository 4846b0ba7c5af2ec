"""The connection is cut at every statement of a session's life, before, within and after it.

What was acknowledged is there once; what was refused is not there, and the same call succeeds when
it is repeated. R1, R3, R9.
"""

from collections.abc import Awaitable, Callable

import pytest

from bamboo_gateway.domain.errors import Conflict, StorageFailed, StorageFull, Unavailable
from bamboo_gateway.storage.sql.store import SqlStore
from tests.storage.postgresql.conftest import open_store
from tests.storage.writing import (
    DEADLINE_SECONDS,
    T0,
    Writer,
    answer_to,
    append,
    bodies_of,
    complete,
    entries_of,
    everything,
    message,
    run_start,
    token,
)
from tests.support.postgres import execute
from tests.support.postgres_proxy import Cut, PostgresProxy
from tests.support.waiting import until_true

EPOCH = T0
# Words of the watcher's statements, and of the search index's.
_WHENEVER = (b"pg_is_in_recovery", b"number = number + 1", b"SELECT unsearched.session_key")
ATTEMPTS_MAX = 50


async def repeated(
    store: SqlStore, call: Callable[[], Awaitable[object]], done: tuple[type[Exception], ...] = ()
) -> None:
    """Call until it succeeds; an error of `done` says that an earlier call had succeeded."""
    for attempt in range(ATTEMPTS_MAX):
        try:
            await call()
            return
        except (StorageFull, StorageFailed) as error:
            pytest.fail(error.detail)
        except Unavailable as error:
            refused = error
        except done:
            if attempt == 0:
                raise
            return
        # Clients are told when to come again; the store finds by itself when that is possible.
        assert refused.retry_after_seconds
        await until_true(lambda: store.refusal is None, DEADLINE_SECONDS)
    pytest.fail("it was refused again and again")


async def a_life(store: SqlStore, name: str) -> dict[str, list[bytes]]:
    """Do what a store can do with sessions; return the bodies of the logs that are left."""
    life, copy_id, gone_id = f"life-{name}", f"copy-{name}", f"gone-{name}"
    writer = Writer(life, EPOCH)
    commits = [
        writer.commit(message("m1")),
        writer.commit(run_start("r1"), note="key-1"),
        *(writer.commit(token(f"t{number}")) for number in range(3)),
        writer.commit(complete("r1"), message("m2")),
    ]
    for commit in commits:

        async def given(commit: object = commit) -> None:
            error = await answer_to(append(store, commit))  # type: ignore[arg-type]
            if error is not None:
                raise error

        # A commit is refused only if nothing of it is stored: so a repeat meets no Conflict.
        await repeated(store, given)
    await repeated(store, lambda: store.load(life))
    await repeated(store, lambda: store.compact(life, EPOCH, 6))
    await repeated(store, lambda: store.pack(life, EPOCH))
    await repeated(store, lambda: everything(store, life))
    await repeated(store, lambda: store.unpack(life, EPOCH))
    await repeated(store, lambda: store.find(life, EPOCH, "message"))

    merged = writer.commit(message("m3"))

    async def extend() -> None:
        async with store.extension(life, EPOCH, merged.first_seq - 1) as extension:
            await extension.write(*entries_of(merged))
            assert merged.head is not None
            await extension.publish(merged.head)

    await repeated(store, extend, (Conflict,))
    copy = Writer(copy_id, EPOCH + 1)
    history = copy.commit(message("c1"), message("c2"))

    async def create() -> None:
        async with store.creation(copy_id, EPOCH + 1) as creation:
            await creation.write(*entries_of(history))
            assert history.head is not None
            await creation.publish(history.head)

    await repeated(store, create, (Conflict,))
    gone = Writer(gone_id, EPOCH + 2)
    born = gone.commit(message("g1"))

    async def bear() -> None:
        error = await answer_to(append(store, born))
        if error is not None:
            raise error

    await repeated(store, bear)
    await repeated(store, lambda: store.delete(gone_id, EPOCH + 2), (Conflict,))
    kept = [*commits, merged]
    tokens = {event.body for commit in commits for event in commit.events if event.type == "token"}
    return {
        life: [body for body in bodies_of(*kept) if body not in tokens],
        copy_id: bodies_of(history),
    }


@pytest.mark.parametrize("where", list(Cut), ids=lambda where: where.name.lower())
@pytest.mark.parametrize(
    "step",
    [
        pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
        # Ten seconds on an idle machine, and some minutes on one that has twenty times the work.
        pytest.param(7, marks=pytest.mark.timeout(900)),
    ],
)
async def test_a_connection_may_be_cut_at_any_statement(
    through_proxy: str, postgres_url: str, proxy: PostgresProxy, where: Cut, step: int
) -> None:
    # The three places begin differently, so the ordinary run cuts at three statements of seven.
    number = list(Cut).index(where) * 2 + 1 - step
    expected: dict[str, list[bytes]] = {}
    async with open_store(through_proxy) as store:
        was_cut = True
        while was_cut:
            number += step
            before = proxy.cuts
            _cut_nth_of_the_store(proxy, number, where)
            logs = await a_life(store, str(number))
            was_cut = proxy.cuts > before
            proxy.heal()
            for session_id, bodies in logs.items():
                found = [record.body for record in await everything(store, session_id)]
                assert found == bodies, f"{session_id} after the cut of statement {number}"
            expected |= logs
    assert number > 30
    async with open_store(postgres_url) as second:
        for session_id, bodies in expected.items():
            assert [record.body for record in await everything(second, session_id)] == bodies
        usage = await second.usage()
        assert usage.sessions == len(expected)
        sizes = [(await second.size(session_id)).stored_bytes for session_id in expected]
        assert usage.stored_bytes == sum(sizes)
    assert execute(postgres_url, "SELECT count(*) FROM leftovers") == [(0,)]
    owners = "(SELECT key FROM sessions)"
    for table in ("events", "marks", "notes", "archives"):
        strays = f"SELECT count(*) FROM {table} WHERE session_key NOT IN {owners}"
        assert execute(postgres_url, strays) == [(0,)], table


def _cut_nth_of_the_store(proxy: PostgresProxy, nth: int, where: Cut) -> None:
    """Cut the nth statement, not counting those that come whenever they like."""
    seen = 0

    def should_cut(statement: bytes) -> Cut | None:
        nonlocal seen
        if any(words in statement for words in _WHENEVER):
            return None
        seen += 1
        return where if seen == nth else None

    proxy.cut_when(should_cut)
