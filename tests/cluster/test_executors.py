"""Processes that share a database: who lives, who leads, who may be beside whom.

Real processes, a real server. What is "dead" follows from counters, so the tests count renewals and
look at no clock.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from bamboo_gateway.domain.errors import Conflict, Unavailable
from bamboo_gateway.storage.base import StoreBusy
from bamboo_gateway.storage.sql import leftovers
from bamboo_gateway.storage.sql.postgresql import migrate, processes
from bamboo_gateway.storage.sql.postgresql.doctor import check
from bamboo_gateway.storage.sql.postgresql.heartbeat import Heartbeat, Timing
from bamboo_gateway.storage.sql.postgresql.store import PostgresStore
from bamboo_gateway.storage.sql.postgresql.target import Target
from tests.cluster.processes import TIMING, member
from tests.processes import lacking
from tests.storage.postgresql.conftest import make_database, make_store
from tests.storage.writing import T0, StepClock, Writer, committed, everything, message
from tests.support.pgbouncer import pgbouncer
from tests.support.postgres import GivenServer, PostgresServer, execute
from tests.support.postgres_proxy import PostgresProxy
from tests.support.waiting import until, until_true

EXECUTORS = "SELECT executor, slot FROM executors ORDER BY slot"


@pytest.fixture
def proxy(postgres_server: PostgresServer | GivenServer) -> Iterator[PostgresProxy]:
    if not isinstance(postgres_server, PostgresServer):
        lacking("a PostgreSQL server of the tests' own, for a proxy in front of it")
    with PostgresProxy(postgres_server.port) as made:
        yield made


@asynccontextmanager
async def open_store(url: str, timing: Timing = TIMING) -> AsyncIterator[PostgresStore]:
    store = make_store(url, timing)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


def beat_of(store: PostgresStore) -> Heartbeat:
    return store._keeper.heartbeat


async def renewals(store: PostgresStore, more: int) -> None:
    """Wait until a process has renewed its counter this often."""
    beat = beat_of(store)
    wanted = beat.renewals + more
    await until_true(lambda: beat.renewals >= wanted)


async def failures(store: PostgresStore, more: int) -> None:
    """Wait until a process has failed to renew its counter this often."""
    beat = beat_of(store)
    wanted = beat.failures + more
    await until_true(lambda: beat.failures >= wanted)


async def moved(store: PostgresStore, executor: str) -> None:
    """Wait until a process has seen the counter of another one move."""
    judgement = beat_of(store)._judgement
    seen = judgement._watches[executor].counter
    await until_true(lambda: judgement._watches[executor].counter != seen)


# -- beginning and ending ---------------------------------------------------------------------


def test_processes_that_find_an_empty_database_at_the_same_moment_all_serve(
    postgres_url: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        members = [stack.enter_context(member(postgres_url, tmp_path)) for _ in range(4)]
        said = [one.answer() for one in members]
        assert sorted(one["slot"] for one in said) == [0, 1, 2, 3]
        assert {one["executor"] for one in said} == {
            row[0] for row in execute(postgres_url, EXECUTORS)
        }
        assert sum(one.ask("leads")["leads"] for one in members) == 1
        assert [one.end() for one in members] == [0, 0, 0, 0]
    assert execute(postgres_url, EXECUTORS) == []
    assert execute(postgres_url, "SELECT FROM meta WHERE name = 'leader'") == []


async def test_a_slot_is_used_again_when_its_process_has_ended(postgres_url: str):
    async with open_store(postgres_url) as first:
        second = make_store(postgres_url, TIMING)
        await second.open()
        assert (beat_of(first).slot, beat_of(second).slot) == (0, 1)
        await second.aclose()
        async with open_store(postgres_url) as third:
            assert beat_of(third).slot == 1


async def test_the_row_is_there_until_the_last_commit_is_stored(
    postgres_url: str, proxy: PostgresProxy, postgres_server: PostgresServer, postgres_database: str
):
    """A process that ends is taken for dead by nobody while it still writes."""
    store = make_store(postgres_server.url(postgres_database, proxy.port), TIMING)
    await store.open()
    seen: list[tuple[int, int]] = []

    def look(statement: bytes) -> None:
        if b"unnest" in statement:
            [counts] = execute(
                postgres_url,
                "SELECT (SELECT count(*) FROM executors), (SELECT count(*) FROM sessions)",
            )
            seen.append(counts)

    proxy.cut_when(look)
    answers: list[object] = []
    store.append(Writer("s1", T0).commit(message("m1")), answers.append)
    await store.aclose()
    assert answers == [None]
    assert seen[0] == (1, 0)
    assert execute(postgres_url, "SELECT count(*) FROM executors") == [(0,)]


async def test_processes_behind_pgbouncer_see_one_another(
    postgres_server: PostgresServer | GivenServer, postgres_database: str
):
    with pgbouncer(postgres_server) as port:
        url = postgres_server.url(postgres_database, port)
        async with open_store(url) as one, open_store(url) as other:
            await renewals(one, 2)
            await renewals(other, 2)
            assert not one.replicas.is_dead(other.replicas.executor)
            assert [one.replicas.is_leader, other.replicas.is_leader] == [True, False]


# -- dying, stopping, going on ----------------------------------------------------------------


async def test_a_process_of_this_machine_that_was_killed_is_dead_at_once(
    postgres_url: str, tmp_path: Path
):
    """So a restart after `kill -9` closes its runs without waiting."""
    patient = TIMING._replace(silent_rounds=1_000_000)
    async with open_store(postgres_url, patient) as store:
        with member(postgres_url, tmp_path, patient) as other:
            executor = other.answer()["executor"]
            await renewals(store, 2)
            assert not store.replicas.is_dead(executor)
            other.kill()
            await until_true(lambda: store.replicas.is_dead(executor))
        # Nothing is left of it to do, so its row goes too.
        await until_true(lambda: len(execute(postgres_url, EXECUTORS)) == 1)
        assert store.replicas.is_dead(executor)


async def test_a_start_after_a_kill_knows_what_was_left(postgres_url: str, tmp_path: Path):
    with member(postgres_url, tmp_path) as other:
        executor = other.answer()["executor"]
        async with open_store(postgres_url) as store:
            await committed(store, Writer("s1", T0).commit(message("m1")))
        execute(
            postgres_url,
            f"UPDATE sessions SET has_active = true, executor = '{executor}', run_id = 'r'",
        )
        async with open_store(postgres_url) as store:
            assert await store.unfinished() == [], "its process lives"
        other.kill()
    store = make_store(postgres_url, TIMING)
    assert not (await store.open()).clean
    try:
        assert await store.unfinished() == ["s1"]
        assert store.replicas.is_dead(executor)
        due = await store.replicas.due(0, 0)
        assert due.abandoned == ["s1"]
        await renewals(store, 3)
        assert execute(postgres_url, "SELECT count(*) FROM executors") == [(2,)], (
            "the row stays while a session names it"
        )
    finally:
        await store.aclose()


async def test_a_process_that_stands_still_is_dead_after_some_rounds_and_lives_when_it_goes_on(
    postgres_url: str, tmp_path: Path
):
    async with open_store(postgres_url) as store:
        with member(postgres_url, tmp_path) as other:
            executor = other.answer()["executor"]
            await renewals(store, 2)
            other.stop()
            await until_true(lambda: store.replicas.is_dead(executor))
            judged = beat_of(store).judged(executor)
            [(counter,)] = execute(
                postgres_url, f"SELECT counter FROM executors WHERE executor = '{executor}'"
            )
            assert judged == counter
            other.go_on()
            await until_true(lambda: not store.replicas.is_dead(executor))
            assert other.end() == 0


async def test_a_process_that_stands_still_for_two_rounds_is_not_dead(
    postgres_url: str, tmp_path: Path
):
    async with open_store(postgres_url) as store:
        with member(postgres_url, tmp_path) as other:
            executor = other.answer()["executor"]
            await renewals(store, 2)
            deaths = beat_of(store).deaths
            for _ in range(3):
                other.stop()
                await renewals(store, 2)
                other.go_on()
                await moved(store, executor)
            assert beat_of(store).deaths == deaths


async def test_an_outage_of_the_database_leaves_nobody_dead(
    postgres_server: PostgresServer, postgres_database: str, proxy: PostgresProxy, tmp_path: Path
):
    """Longer than a dead one is waited for: each one's own renewals fail as well."""
    url = postgres_server.url(postgres_database, proxy.port)
    async with open_store(url) as store:
        with member(url, tmp_path) as other:
            executor = other.answer()["executor"]
            await renewals(store, 2)
            for failed in (2, 4 * TIMING.silent_rounds):
                proxy.refuse()
                await failures(store, failed)
                assert not store.replicas.is_dead(executor)
                proxy.heal()
                await renewals(store, TIMING.silent_rounds + 2)
            assert beat_of(store).deaths == beat_of(store).losses == 0
            assert store.replicas.executor != executor


async def test_a_crash_of_the_server_leaves_nobody_dead(
    own_postgres: PostgresServer, tmp_path: Path
):
    with own_postgres.database() as name:
        url = own_postgres.url(name)
        async with open_store(url) as store:
            with member(url, tmp_path) as other:
                executor = other.answer()["executor"]
                await renewals(store, 2)
                own_postgres.stop()
                await failures(store, 4 * TIMING.silent_rounds)
                own_postgres.start()
                await renewals(store, TIMING.silent_rounds + 2)
                assert not store.replicas.is_dead(executor)
                assert beat_of(store).deaths == beat_of(store).losses == 0
                assert other.end() == 0


async def test_a_process_that_alone_cannot_reach_the_database_is_dead_and_comes_back(
    postgres_server: PostgresServer, postgres_database: str, proxy: PostgresProxy
):
    lost: list[str] = []
    async with AsyncExitStack() as stack:
        url = postgres_server.url(postgres_database, proxy.port)
        cut_off = await stack.enter_async_context(open_store(url))
        store = await stack.enter_async_context(open_store(postgres_server.url(postgres_database)))
        executor = cut_off.replicas.executor
        cut_off.replicas.when_lost(lambda: lost.append("lost"))
        proxy.refuse()
        await until_true(lambda: store.replicas.is_dead(executor))
        await until_true(lambda: store.replicas.is_leader)
        assert not cut_off.replicas.is_dead(store.replicas.executor)
        proxy.heal()
        await until_true(lambda: not store.replicas.is_dead(executor))
        assert cut_off.replicas.executor == executor
        assert not lost
        assert not cut_off.replicas.is_leader


async def test_a_renewal_that_gets_no_answer_fails_within_its_time(
    postgres_server: PostgresServer, postgres_database: str, proxy: PostgresProxy
):
    """A network that loses every packet says nothing."""
    url = postgres_server.url(postgres_database, proxy.port)
    async with open_store(url, TIMING._replace(answer_seconds=0.2)) as store:
        await renewals(store, 1)
        proxy.hold()
        await until_true(lambda: beat_of(store).failures > 0)
        proxy.heal()
        await renewals(store, 2)


async def test_who_finds_its_row_removed_begins_anew_and_says_so(postgres_url: str):
    lost: list[str] = []
    async with open_store(postgres_url) as store:
        before = store.replicas.executor
        store.replicas.when_lost(lambda: lost.append(store.replicas.executor))
        execute(postgres_url, "DELETE FROM executors")
        await until_true(lambda: bool(lost))
        after = store.replicas.executor
        assert lost == [after]
        assert after != before
        await until_true(lambda: execute(postgres_url, EXECUTORS) == [(after, 0)])
        assert store.replicas.is_dead(before)
        assert not store.replicas.is_dead(after)
        assert lost == [after]


async def test_nobody_alive_is_removed_because_the_clock_of_the_database_has_stepped(
    postgres_url: str,
):
    """Its row looks as if nobody had touched it for an hour."""
    patient = TIMING._replace(silent_rounds=1000)
    async with (
        open_store(postgres_url, patient) as leader,
        open_store(postgres_url, TIMING._replace(renew_seconds=3600)) as other,
    ):
        await renewals(leader, 1)
        assert leader.replicas.is_leader
        execute(postgres_url, "UPDATE executors SET touched_at = 1")
        await renewals(leader, 3)
        alive = {executor for executor, _ in execute(postgres_url, EXECUTORS)}
        assert alive == {leader.replicas.executor, other.replicas.executor}


async def test_a_start_that_finds_no_row_lets_it_be_noticed_at_once(postgres_url: str):
    """Its process does not wait for the next renewal."""
    async with open_store(postgres_url, TIMING._replace(renew_seconds=3600)) as store:
        lost = asyncio.Event()
        store.replicas.when_lost(lost.set)
        execute(postgres_url, "DELETE FROM executors")
        beat_of(store).renew_now()
        async with asyncio.timeout(60):
            await lost.wait()


async def test_renewals_are_told_on_the_event_loop(postgres_url: str):
    told = asyncio.Event()
    async with open_store(postgres_url) as store:
        store.replicas.when_renewed(told.set)
        async with asyncio.timeout(60):
            await told.wait()


def test_a_process_whose_event_loop_stands_still_ends_itself(
    postgres_url: str, tmp_path: Path
) -> None:
    with member(postgres_url, tmp_path, TIMING._replace(loop_seconds=1.0)) as one:
        one.answer()
        assert one.ask("hang") == {"hangs": True}
        assert one.process.wait(60) == 70
    assert "the event loop stands still" in (tmp_path / "member-0").read_text()


def test_a_process_that_was_stopped_as_a_whole_does_not_end_itself(
    postgres_url: str, tmp_path: Path
) -> None:
    """Its event loop did not stand still: nothing of it ran."""
    with member(postgres_url, tmp_path, TIMING._replace(loop_seconds=0.6)) as one:
        executor = one.answer()["executor"]
        counter = f"SELECT counter FROM executors WHERE executor = '{executor}'"
        for _ in range(3):
            one.stop()
            [(stopped_at,)] = execute(postgres_url, counter)
            # Longer than its loop may stand still.
            with psycopg.connect(postgres_url) as connection:
                connection.execute("SELECT pg_sleep(1)")
            one.go_on()
            wanted = stopped_at + 1

            def renews(wanted: int = wanted) -> bool:
                return bool(execute(postgres_url, counter)[0][0] > wanted)

            until(renews, "it renews")
        assert one.end() == 0


# -- leading ----------------------------------------------------------------------------------


async def test_the_lead_goes_to_another_one_when_the_leader_ends(postgres_url: str):
    first = make_store(postgres_url, TIMING)
    await first.open()
    async with open_store(postgres_url) as second:
        assert [first.replicas.is_leader, second.replicas.is_leader] == [True, False]
        await first.aclose()
        await until_true(lambda: second.replicas.is_leader)


async def test_the_lead_goes_to_another_one_when_the_leader_stands_still(
    postgres_url: str, tmp_path: Path
):
    with member(postgres_url, tmp_path) as first:
        first.answer()
        assert first.ask("leads") == {"leads": True}
        async with open_store(postgres_url) as second:
            await renewals(second, 1)
            assert second.replicas.is_leader is False
            first.stop()
            await until_true(lambda: second.replicas.is_leader)
            first.go_on()
            assert first.ask("leads") == {"leads": False}
            await renewals(second, 3)
            assert bool(second.replicas.is_leader)
            assert first.end() == 0


# -- being alone ------------------------------------------------------------------------------


async def test_commands_that_need_the_database_alone_name_a_process_that_lives(
    postgres_url: str, tmp_path: Path
):
    with member(postgres_url, tmp_path) as one:
        one.answer()
        busy = f"gateways use it: process {one.process.pid} on .*Stop them first"
        with pytest.raises(StoreBusy, match=busy):
            check(make_database(postgres_url), tmp_path, StepClock())
        with pytest.raises(StoreBusy, match=busy):
            migrate.give_new_epochs(make_database(postgres_url))
        with pytest.raises(StoreBusy, match=busy):
            migrate.migrate(Target(postgres_url), "0001", is_dry=False)
        assert len(execute(postgres_url, EXECUTORS)) == 1
        assert one.end() == 0
    assert check(make_database(postgres_url), tmp_path, StepClock()) == []


def test_no_gateway_begins_while_a_command_is_alone(postgres_url: str, tmp_path: Path) -> None:
    with member(postgres_url, tmp_path, alone=True) as command:
        command.answer()
        with member(postgres_url, tmp_path) as gateway:
            error = gateway.answer()["error"]
            assert f"at work: process {command.process.pid} on" in error
            assert error.endswith("Wait until it has ended.")
        # One that was killed keeps nobody out.
        command.kill()
    with member(postgres_url, tmp_path) as gateway:
        gateway.answer()
        assert gateway.end() == 0


async def test_a_command_takes_the_place_of_a_gateway_that_stands_still(
    postgres_url: str, tmp_path: Path
):
    """When that goes on, it finds that others have taken it for dead, and waits."""
    with member(postgres_url, tmp_path) as gateway:
        before = gateway.answer()["executor"]
        gateway.stop()
        with member(postgres_url, tmp_path, alone=True) as command:
            executor = command.answer()["executor"]
            assert [row[0] for row in execute(postgres_url, EXECUTORS)] == [executor]
            gateway.go_on()
            until(
                lambda: "taken this process for dead" in (tmp_path / "member-0").read_text(),
                "it notices",
            )
            assert [row[0] for row in execute(postgres_url, EXECUTORS)] == [executor]
            assert command.end() == 0
        until(lambda: len(execute(postgres_url, EXECUTORS)) == 1, "the gateway begins anew")
        assert execute(postgres_url, EXECUTORS)[0][0] not in {before, executor}
        assert gateway.end() == 0


# -- what the dead leave ----------------------------------------------------------------------


async def test_work_of_a_living_process_is_left_alone_and_that_of_the_dead_is_removed(
    postgres_url: str, tmp_path: Path
):
    numbers = "SELECT executor FROM leftovers ORDER BY number"
    with member(postgres_url, tmp_path) as other:
        executor = other.answer()["executor"]
        async with open_store(postgres_url) as store, store.creation("s1", T0) as creation:
            await creation.write([])
            own = store.replicas.executor
            for whose in (f"'{executor}'", "'gone'", "NULL"):
                execute(
                    postgres_url,
                    "INSERT INTO leftovers (work, deltas_upto, touched_at, executor)"
                    f" VALUES ('creation', 0, 0, {whose})",
                )
            async with open_store(postgres_url):
                assert execute(postgres_url, numbers) == [(own,), (executor,)]
            other.kill()
            async with open_store(postgres_url):
                assert execute(postgres_url, numbers) == [(own,)]


async def test_a_process_without_a_database_is_refused_what_it_asks_of_others(postgres_url: str):
    store = make_store(postgres_url, TIMING)
    with pytest.raises(Unavailable):
        await store.replicas.look(["s1"])
    await store.open()
    await store.aclose()
    with pytest.raises(Unavailable):
        await store.replicas.look(["s1"])
    with pytest.raises(Unavailable):
        await store.replicas.due(0, 0)


def test_this_process_is_not_gone_and_one_that_never_was_is() -> None:
    own = processes.own_name()
    assert not processes.is_gone(own)
    assert processes.is_gone(own.replace('"pid":', '"pid":9999'))
    assert not processes.is_gone("{}")
    assert not processes.is_gone("no JSON")


async def test_the_leader_removes_what_the_dead_have_left_half_done(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
):
    """Not only a process that begins: in a cluster that may be weeks later."""
    monkeypatch.setattr("bamboo_gateway.storage.sql.postgresql.store._SWEEP_ROUNDS", 2)
    async with open_store(postgres_url):
        execute(
            postgres_url,
            "INSERT INTO leftovers (work, deltas_upto, touched_at, executor)"
            " VALUES ('creation', 0, 0, 'gone')",
        )
        await until_true(lambda: execute(postgres_url, "SELECT FROM leftovers") == [])


async def test_work_that_was_taken_from_a_process_is_not_published_by_it(postgres_url: str):
    """It was taken for dead, and lives: half of its rows are gone already."""
    async with open_store(postgres_url) as store, open_store(postgres_url) as other:
        writer = Writer("s1", T0)
        await committed(store, writer.commit(message("m1")))
        extended = writer.commit(message("m2"))
        assert extended.head is not None
        async with store.extension("s1", T0, 2) as extension:
            await extension.write(extended.events)
            [(number,)] = execute(postgres_url, "SELECT number FROM leftovers")
            with other._keeper.writing() as connection:
                connection.run(leftovers._TAKE, {"claim": number, "mine": "other"})
            with pytest.raises(Conflict):
                await extension.publish(extended.head)
        leftovers.evict(other._keeper, number)
        assert execute(postgres_url, "SELECT FROM leftovers") == []
        assert execute(postgres_url, "SELECT max(seq) FROM events") == [(2,)]
        async with other.extension("s1", T0, 2) as extension:
            await extension.write(extended.events)
            await extension.publish(extended.head)
        assert len(await everything(store, "s1")) == extended.head.seq
