"""Epochs are kept in the database, and new ones follow when the server may have lost commits."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import anyio
import psycopg
import pytest

from bamboo_gateway.domain.errors import BambooError, Unavailable
from bamboo_gateway.storage.base import StoreBusy, StoreUnusable
from bamboo_gateway.storage.sql.postgresql import migrate
from bamboo_gateway.storage.sql.postgresql.connection import PostgresConnection
from bamboo_gateway.storage.sql.postgresql.database import make_database
from bamboo_gateway.storage.sql.postgresql.doctor import check
from bamboo_gateway.storage.sql.postgresql.history import History, take_epoch
from bamboo_gateway.storage.sql.store import SqlStore
from tests.storage.postgresql.conftest import make_store, open_store
from tests.storage.writing import (
    DEADLINE_SECONDS,
    T0,
    StepClock,
    Writer,
    answer_to,
    append,
    bodies_of,
    committed,
    everything,
    message,
)
from tests.support.pgbouncer import pgbouncer
from tests.support.postgres import GivenServer, PostgresServer, execute, own_standby
from tests.support.postgres_proxy import Cut, PostgresProxy
from tests.support.waiting import until_true

ELSEWHERE = "UPDATE meta SET text = '1/00000001' WHERE name = 'history'"
HISTORY = "SELECT text FROM meta WHERE name = 'history'"


async def filled(url: str) -> Writer:
    """Make a database with a session of two events."""
    writer = Writer("s1", T0)
    async with open_store(url) as store:
        await committed(store, writer.commit(message("m1")))
    return writer


async def test_nobody_gets_an_epoch_that_another_process_got(postgres_url: str):
    """R3: a session may be deleted at one process and created again at another one."""
    await filled(postgres_url)

    def taken(_: int) -> list[int]:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            return [take_epoch(connection) for _ in range(50)]

    with ThreadPoolExecutor(4) as threads:
        each = list(threads.map(taken, range(4)))
    assert all(epochs == sorted(epochs) for epochs in each)
    assert len({epoch for epochs in each for epoch in epochs}) == 200


async def test_an_epoch_is_never_behind_the_last_one_whatever_the_clocks_say(postgres_url: str):
    ahead = 2**52
    async with open_store(postgres_url) as store:
        execute(postgres_url, f"UPDATE meta SET number = {ahead} WHERE name = 'last_epoch'")
        assert await store.take_epoch() == ahead + 1
        assert store.next_epoch() == ahead + 2
    async with open_store(postgres_url) as store:
        # The last process has created nothing with its epoch.
        assert await store.take_epoch() == ahead + 2


@pytest.mark.parametrize("where", list(Cut))
async def test_an_epoch_whose_answer_is_lost_is_not_given_again(
    through_proxy: str, proxy: PostgresProxy, where: Cut
):
    async with open_store(through_proxy) as store:
        first = await store.take_epoch()
        proxy.cut_when(lambda statement: where if b"last_epoch" in statement else None)
        with pytest.raises(Unavailable):
            await store.take_epoch()
        proxy.heal()
        await until_true(lambda: store.refusal is None, DEADLINE_SECONDS)
        assert await store.take_epoch() > first


async def test_a_start_on_another_history_gives_new_epochs_once(postgres_url: str):
    """R3: the server was restored to an earlier point while no gateway ran."""
    writer = await filled(postgres_url)
    assert execute(postgres_url, HISTORY) != []
    execute(postgres_url, ELSEWHERE)
    store = make_store(postgres_url)
    assert (await store.open()).new_epochs == 1
    head = await store.load("s1")
    assert head is not None
    assert head.epoch > writer.head.epoch
    assert len(await everything(store, "s1")) == head.seq == 2
    await committed(store, Writer.of(head).commit(message("m2")))
    await store.aclose()
    store = make_store(postgres_url)
    assert (await store.open()).new_epochs == 0
    await store.aclose()


async def test_of_several_processes_one_gives_new_epochs_and_all_take_them_up(postgres_url: str):
    writer = await filled(postgres_url)
    told: list[str] = []
    async with open_store(postgres_url) as one, open_store(postgres_url) as other:
        one.when_renewed(lambda: told.append("one"))
        other.when_renewed(lambda: told.append("other"))
        execute(postgres_url, ELSEWHERE)
        for store in (one, other):
            # As when each notices that its server is another one.
            store._keeper._history._followed = "1/00000001"
        await until_true(lambda: set(told) == {"one", "other"}, DEADLINE_SECONDS)
        heads = [await store.load("s1") for store in (one, other)]
        assert heads[0] == heads[1]
        assert heads[0] is not None
        assert heads[0].epoch > writer.head.epoch
        assert one._keeper.deployment == other._keeper.deployment
        refused = await answer_to(append(other, writer.commit(message("m2"))))
        assert isinstance(refused, BambooError), "it is of the old epoch"
        await committed(other, Writer.of(heads[0]).commit(message("m2")))


async def test_epochs_that_were_given_by_hand_meanwhile_are_taken_up(postgres_url: str):
    """By a command that had taken this process for dead: it stood still."""
    await filled(postgres_url)
    told: list[str] = []
    async with open_store(postgres_url) as store:
        store.when_renewed(lambda: told.append("renewed"))
        before = store._keeper.deployment
        with store._keeper.writing() as connection:
            assert isinstance(connection, PostgresConnection)
            History().renew(connection)
        await until_true(lambda: bool(told), DEADLINE_SECONDS)
        assert store._keeper.deployment != before


async def test_a_database_that_was_never_told_its_history_keeps_its_epochs(postgres_url: str):
    """It is of an earlier version."""
    writer = await filled(postgres_url)
    execute(postgres_url, "DELETE FROM meta WHERE name = 'history'")
    async with open_store(postgres_url) as store:
        assert await store.load("s1") == writer.head
    assert len(execute(postgres_url, HISTORY)) == 1


async def test_a_server_that_does_not_tell_its_history_works_as_before(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        "bamboo_gateway.storage.sql.postgresql.history._LOOK", "SELECT no_such_function()"
    )
    writer = await filled(postgres_url)
    async with open_store(postgres_url) as store:
        await committed(store, writer.commit(message("m2")))
    assert execute(postgres_url, HISTORY) == []


async def test_a_database_has_an_id_that_stays_until_there_are_new_epochs(postgres_url: str):
    """A copy of the database is not taken for the original."""

    async def opened() -> str:
        database = make_database(postgres_url, None)
        store = SqlStore(database, StepClock())
        await store.open()
        await store.aclose()
        return database.deployment

    first = await opened()
    assert first
    assert await opened() == first
    execute(postgres_url, ELSEWHERE)
    second = await opened()
    assert second not in {"", first}
    assert await opened() == second
    migrate.give_new_epochs(make_database(postgres_url, None))
    assert await opened() not in {"", first, second}


async def test_the_doctor_says_it_and_changes_nothing(tmp_path: Path, postgres_url: str):
    writer = await filled(postgres_url)
    execute(postgres_url, ELSEWHERE)
    [note] = check(make_database(postgres_url, None), tmp_path, StepClock())
    assert (note.severity, note.repaired) == ("note", False)
    assert execute(postgres_url, "SELECT epoch FROM sessions") == [(writer.head.epoch,)]
    [note] = check(make_database(postgres_url, None), tmp_path, StepClock(), new_epochs=True)
    assert note.repaired
    assert check(make_database(postgres_url, None), tmp_path, StepClock()) == []


async def test_new_epochs_by_hand_need_a_database_that_no_gateway_uses(postgres_url: str):
    with pytest.raises(StoreUnusable, match="no tables"):
        migrate.give_new_epochs(make_database(postgres_url, None))
    writer = await filled(postgres_url)
    assert migrate.give_new_epochs(make_database(postgres_url, None)) == 1
    async with open_store(postgres_url) as store:
        head = await store.load("s1")
        assert head is not None
        assert head.epoch > writer.head.epoch
        with pytest.raises(StoreBusy):
            await anyio.to_thread.run_sync(
                migrate.give_new_epochs, make_database(postgres_url, None)
            )


@pytest.mark.parametrize("behind_pgbouncer", [False, True])
async def test_a_promoted_standby_that_lacks_commits_gets_new_epochs_before_any_commit(
    own_postgres: PostgresServer, *, behind_pgbouncer: bool
):
    """R3: what was committed at the lost server had positions that are free now."""
    writer, other = Writer("s1", T0), Writer("s2", T0)
    renewed = anyio.Event()
    with ExitStack() as stack:
        name = stack.enter_context(own_postgres.database())
        proxy = stack.enter_context(PostgresProxy(own_postgres.port))
        port = proxy.port
        if behind_pgbouncer:
            # The gateway's connections stay: it does not notice that the server is another one.
            port = stack.enter_context(pgbouncer(GivenServer(own_postgres.url(port=port))))
        async with open_store(own_postgres.url(name, port)) as store:
            store.when_renewed(renewed.set)
            kept = writer.commit(message("m1"))
            await committed(store, kept)
            await committed(store, other.commit(message("n1")))
            with own_standby(own_postgres) as standby:
                await committed(store, writer.commit(message("lost")))
                lost_epoch = await store.take_epoch()
                standby.promote()
                proxy.lead_to(standby.port)
                # It would apply: the standby has this head.
                error = await answer_to(append(store, other.commit(message("n2"))))
                assert isinstance(error, BambooError)
                with anyio.fail_after(DEADLINE_SECONDS):
                    await renewed.wait()
                head = await store.load("s1")
                assert head is not None
                assert head.epoch > lost_epoch
                assert [record.body for record in await everything(store, "s1")] == bodies_of(kept)
                await committed(store, Writer.of(head).commit(message("m2")))
                found = await store.load("s2")
                assert found is not None
                assert (found.epoch, found.seq) == (head.epoch, 2)
                await store.aclose()
