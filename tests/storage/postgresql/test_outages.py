"""What a store says and does while PostgreSQL is gone, full or read-only."""

import signal
from collections.abc import Iterator
from threading import Event

import anyio
import psycopg
import pytest

from bamboo_gateway.domain.errors import BambooError, StorageFull, Unavailable
from bamboo_gateway.storage.base import StoreUnusable
from bamboo_gateway.storage.sql.postgresql import connections, group_commit
from bamboo_gateway.storage.sql.postgresql.errors import not_there
from bamboo_gateway.storage.sql.store import SqlStore
from tests.storage.postgresql.conftest import make_store, open_store
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
    token,
)
from tests.support.postgres import PostgresServer, execute
from tests.support.postgres_proxy import Cut, PostgresProxy
from tests.support.waiting import until_true


@pytest.fixture
def own_url(own_postgres: PostgresServer) -> Iterator[str]:
    with own_postgres.database() as name:
        yield own_postgres.url(name)


async def answers_again(store: SqlStore) -> None:
    await until_true(lambda: store.refusal is None, DEADLINE_SECONDS)


def assert_retryable(error: BambooError | None) -> None:
    assert isinstance(error, Unavailable), error
    assert error.retry_after_seconds


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])
async def test_nothing_acknowledged_is_lost_when_the_server_ends_and_comes_back(
    own_postgres: PostgresServer, own_url: str, how: signal.Signals
):
    writer = Writer("s1", T0)
    first = writer.commit(message("m1"))
    async with open_store(own_url) as store:
        await committed(store, first)
        own_postgres.stop(how)
        refused = writer.commit(message("m2"))
        assert_retryable(await answer_to(append(store, refused)))
        with pytest.raises(Unavailable) as error:
            await store.load("s1")
        assert_retryable(error.value)
        own_postgres.start()
        await answers_again(store)
        assert [record.body for record in await everything(store, "s1")] == bodies_of(first)
        # Refused means that nothing of it is there: the same commit is taken now.
        await committed(store, refused)
        found = [record.body for record in await everything(store, "s1")]
        assert found == bodies_of(first, refused)


async def test_metrics_are_there_while_the_database_is_away(
    through_proxy: str, proxy: PostgresProxy
):
    async with open_store(through_proxy) as store:
        await committed(store, Writer("s1", T0).commit(message("m1")))
        before = await store.stats()
        proxy.refuse()
        await until_true(lambda: store.refusal is not None, DEADLINE_SECONDS)
        stats = await store.stats()
        assert stats["commits_total"] == before["commits_total"] == 1
        assert stats["database_outages_total"] == 1
        levels = {"sessions", "search_backlog"}
        levels |= {"disk_bytes_logs", "disk_bytes_archive", "disk_bytes_values"}
        assert before.keys() - stats.keys() == levels
        proxy.heal()
        await answers_again(store)
        assert (await store.stats())["sessions"] == 1


async def test_a_commit_whose_answer_is_lost_waits_for_the_truth_and_others_do_not(
    through_proxy: str, proxy: PostgresProxy
):
    one, other = Writer("one", T0), Writer("other", T0)
    async with open_store(through_proxy) as store:
        await committed(store, one.commit(message("m1")))
        lost = one.commit(message("m2"))

        def cut_and_refuse(statement: bytes) -> Cut | None:
            if b"unnest" not in statement:
                return None
            proxy.refuse_new()
            return Cut.AFTER

        proxy.cut_when(cut_and_refuse)
        answer = append(store, lost)
        await until_true(lambda: store.refusal is not None, DEADLINE_SECONDS)
        behind = append(store, other.commit(message("n1")))
        assert_retryable(await answer_to(behind))
        assert not answer.done()
        proxy.heal()
        assert await answer_to(answer) is None
        assert len(await everything(store, "one")) == 3
        assert await store.load("other") is None


async def test_a_commit_whose_first_statement_still_goes_on_is_not_refused(
    postgres_url: str,
    through_proxy: str,
    proxy: PostgresProxy,
    monkeypatch: pytest.MonkeyPatch,
):
    """R1, R3: the server executes a statement to its end though its connection is gone."""
    monkeypatch.setattr(group_commit, "_BEGIN_WAITING", "BEGIN; SET LOCAL lock_timeout = 50")
    writer = Writer("s1", T0)
    slow = (
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM pg_advisory_xact_lock_shared(42); RETURN NEW; END $$; "
        "CREATE TRIGGER wait BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION wait()"
    )
    async with open_store(through_proxy) as store:
        await committed(store, writer.commit(message("m1")))
        execute(postgres_url, slow)
        with psycopg.connect(postgres_url, autocommit=True) as holder:
            holder.execute("SELECT pg_advisory_lock(42)")
            proxy.cut_when(lambda statement: Cut.BETWEEN if b"unnest" in statement else None)
            lost = writer.commit(message("m2"))
            answer = append(store, lost)
            await until_true(lambda: bool(proxy.cuts), DEADLINE_SECONDS)
            proxy.heal()
            # It is sent again, and finds the session locked by itself, again and again.
            sent = proxy.statements
            await until_true(lambda: proxy.statements > sent + 20, DEADLINE_SECONDS)
            assert not answer.done()
        assert await answer_to(answer) is None
        assert len(await everything(store, "s1")) == 3


async def test_nobody_waits_for_a_connection_once_the_database_is_known_to_be_away(
    through_proxy: str, proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connections, "_WAIT_SECONDS", 1000.0)
    async with open_store(through_proxy) as store:
        pool = store._database._connections  # type: ignore[attr-defined]
        # Nobody has noticed yet that there is no database.
        pool.stop_watching()
        proxy.refuse()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_refused, store)
            await until_true(
                lambda: pool._pool.get_stats().get("requests_waiting", 0) > 0, DEADLINE_SECONDS
            )
            pool._found(answers=False, refusal=not_there())


@pytest.mark.parametrize("connects", [False, True], ids=["lost packets", "kept statements"])
async def test_nobody_waits_for_a_database_that_says_nothing(
    through_proxy: str, proxy: PostgresProxy, connects: bool
):
    """R1: reads are refused, a commit that was sent waits for the truth, and all goes on by itself.

    PgBouncer lets clients connect and keeps their statements while it looks for a server.
    """
    writer = Writer("s1", T0)
    flows = Event()
    async with open_store(through_proxy, silent_seconds=1.0) as store:
        await committed(store, writer.commit(message("m1")))
        if connects:

            def keep(_: bytes) -> None:
                flows.wait()

            proxy.cut_when(keep)
        else:
            proxy.hold()
        answer = append(store, writer.commit(message("m2")))
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(_refused, store)
        assert_retryable(store.refusal)
        flows.set()
        proxy.heal()
        outcome = await answer_to(answer)
        await answers_again(store)
        assert len(await everything(store, "s1")) == (3 if outcome is None else 2)


async def _refused(store: SqlStore) -> None:
    with anyio.fail_after(DEADLINE_SECONDS), pytest.raises(Unavailable):
        await store.load("s1")


async def test_a_store_closes_though_the_database_is_gone(
    through_proxy: str, proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("bamboo_gateway.storage.sql.store._CLOSING_SECONDS", 0.2)
    writer = Writer("s1", T0)
    store = make_store(through_proxy)
    await store.open()

    def cut_and_refuse(_: bytes) -> Cut:
        proxy.refuse_new()
        return Cut.AFTER

    proxy.cut_when(cut_and_refuse)
    answer = append(store, writer.commit(message("m1")))
    await until_true(lambda: store.refusal is not None, DEADLINE_SECONDS)
    await store.aclose()
    error = await answer_to(answer)
    assert error is not None
    assert "unknown" in error.detail


async def test_a_statement_that_takes_too_long_is_refused_whole(
    postgres_url: str, postgres_database: str
):
    writer = Writer("s1", T0)
    async with open_store(postgres_url) as store:
        await committed(store, writer.commit(message("m1")))
        slow = (
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$; "
            "CREATE TRIGGER slow BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION slow()"
        )
        execute(postgres_url, slow)
        execute(postgres_url, f"ALTER DATABASE {postgres_database} SET statement_timeout = '100ms'")
        _end_other_connections(postgres_url)
        late = writer.commit(token())
        assert_retryable(await answer_to(append(store, late)))
        execute(postgres_url, "DROP TRIGGER slow ON events")
        await answers_again(store)
        await committed(store, late)
        assert len(await everything(store, "s1")) == 3


async def test_a_read_only_database_serves_reads_and_refuses_writes(
    postgres_url: str, postgres_database: str
):
    writer = Writer("s1", T0)
    async with open_store(postgres_url) as store:
        await committed(store, writer.commit(message("m1")))
        name = postgres_database
        execute(postgres_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        _end_other_connections(postgres_url)
        await until_true(lambda: store.refusal is not None, DEADLINE_SECONDS)
        refused = writer.commit(message("m2"))
        assert_retryable(await answer_to(append(store, refused)))
        assert len(await everything(store, "s1")) == 2
        writable = f"{postgres_url}?options=-cdefault_transaction_read_only%3Doff"
        execute(writable, f"ALTER DATABASE {name} RESET ALL")
        await answers_again(store)
        await committed(store, refused)


async def test_a_row_that_cannot_be_written_fails_its_own_commit_alone(postgres_url: str):
    writers = [Writer(f"s{number}", T0) for number in range(5)]
    async with open_store(postgres_url) as store:
        for writer in writers:
            await committed(store, writer.commit(message("m1")))
        execute(
            postgres_url,
            "ALTER TABLE events ADD CONSTRAINT bad CHECK (position('evil'::bytea IN body) = 0)",
        )
        answers = [
            append(store, writer.commit(token("evil" if number == 3 else "good")))
            for number, writer in enumerate(writers)
        ]
        errors = [await answer_to(answer) for answer in answers]
        assert [error is None for error in errors] == [True, True, True, False, True]
        assert [len(await everything(store, writer.head.id)) for writer in writers] == [
            3,
            3,
            3,
            2,
            3,
        ]


async def test_a_full_disk_refuses_writes_and_serves_reads(postgres_url: str):
    # The server itself says so, as it does when a file cannot be extended.
    full = (
        "CREATE FUNCTION is_full() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'no space' USING ERRCODE = '53100'; END $$; "
        "CREATE TRIGGER is_full BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION is_full()"
    )
    writer = Writer("s1", T0)
    async with open_store(postgres_url) as store:
        await committed(store, writer.commit(message("m1")))
        execute(postgres_url, full)
        refused = writer.commit(message("m2"))
        assert isinstance(await answer_to(append(store, refused)), StorageFull)
        assert len(await everything(store, "s1")) == 2
        execute(postgres_url, "DROP TRIGGER is_full ON events")
        await committed(store, refused)


# -- what cannot be opened --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://bamboo:wrong-secret@127.0.0.1:{port}/postgres", "password authentication"),
        ("postgresql://127.0.0.1:1/none", "cannot be used"),
        ("{good}-none", "does not exist"),
    ],
)
async def test_what_cannot_be_opened_is_said_in_one_line_without_a_secret(
    own_postgres: PostgresServer, url: str, reason: str
):
    text = url.format(port=own_postgres.port, good=own_postgres.url("missing"))
    with pytest.raises(StoreUnusable, match=reason) as error:
        await make_store(text).open()
    assert "\n" not in error.value.detail
    assert "secret" not in error.value.detail
    assert "a%20pass" not in error.value.detail


def _end_other_connections(url: str) -> None:
    """End all connections to the database, so that its new settings hold."""
    execute(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
