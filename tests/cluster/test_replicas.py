"""What a process asks of the database about the others: looks, due work, presences."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from bamboo_gateway.domain.errors import Unavailable
from bamboo_gateway.domain.sessions import OpenRequest
from bamboo_gateway.storage.replicas import DueWork, Look, Presence
from bamboo_gateway.storage.sql.postgresql import due_work
from bamboo_gateway.storage.sql.postgresql.store import PostgresStore
from tests.cluster.processes import TIMING
from tests.processes import lacking
from tests.storage.postgresql.conftest import make_store
from tests.storage.writing import T0, Writer, committed, message, token
from tests.support.postgres import GivenServer, PostgresServer, execute
from tests.support.postgres_proxy import PostgresProxy
from tests.support.waiting import until_true

# Nobody dies by chance while a busy machine runs these.
PATIENT = TIMING._replace(silent_rounds=1_000_000)


class Pair(NamedTuple):
    """Two processes over one database."""

    one: PostgresStore
    other: PostgresStore
    url: str

    def update(self, session_id: str, values: str) -> None:
        execute(self.url, f"UPDATE sessions SET {values} WHERE id = '{session_id}'")

    def stream(self, of: PostgresStore, name: str = "c1", **others: str) -> Presence:
        fields = {"kind": "stream", **others}
        return Presence("s1", fields["kind"], name, of.replicas.executor, b'{"at":1}')


@pytest.fixture
async def pair(postgres_url: str) -> AsyncIterator[Pair]:
    one, other = make_store(postgres_url, PATIENT), make_store(postgres_url, PATIENT)
    await one.open()
    await other.open()
    yield Pair(one, other, postgres_url)
    await other.aclose()
    await one.aclose()


async def filled(store: PostgresStore, *session_ids: str) -> None:
    for session_id in session_ids:
        await committed(store, Writer(session_id, T0).commit(message("m1")))


# -- looks ------------------------------------------------------------------------------------


def places(looks: dict[str, Look]) -> dict[str, Look]:
    """Return looks without the time of the last activity."""
    return {name: look._replace(activity_ms=0) for name, look in looks.items()}


async def test_a_look_sees_what_another_process_has_committed(pair: Pair):
    writer = Writer("s1", T0)
    await committed(pair.one, writer.commit(message("m1")))
    assert places(await pair.other.replicas.look(["s1", "none"])) == {"s1": Look(T0, 1, 2)}
    await committed(pair.one, writer.commit(token()))
    assert places(await pair.other.replicas.look(["s1"])) == {"s1": Look(T0, 2, 3)}
    assert await pair.other.replicas.look([]) == {}


async def test_the_looks_of_one_turn_are_one_statement(
    postgres_server: PostgresServer | GivenServer, postgres_database: str
):
    if not isinstance(postgres_server, PostgresServer):
        lacking("a PostgreSQL server of the tests' own, for a proxy in front of it")
    looks = 0

    def count(statement: bytes) -> None:
        nonlocal looks
        looks += b"SELECT id, epoch, version, seq, last_activity_at FROM sessions" in statement

    with PostgresProxy(postgres_server.port) as proxy:
        store = make_store(postgres_server.url(postgres_database, proxy.port), PATIENT)
        await store.open()
        await filled(store, "s1", "s2")
        proxy.cut_when(count)
        found = await asyncio.gather(
            *(store.replicas.look([f"s{number % 3}"]) for number in range(100))
        )
        assert looks == 1
        assert places(found[1]) == {"s1": Look(T0, 1, 2)}
        assert places(found[2]) == {"s2": Look(T0, 1, 2)}
        assert found[0] == {}
        proxy.refuse()
        with pytest.raises(Unavailable):
            await store.replicas.look(["s1"])
        proxy.heal()
        await until_true(lambda: store.refusal is None)
        assert places(await store.replicas.look(["s1"])) == {"s1": Look(T0, 1, 2)}
        await store.aclose()


async def test_a_look_is_never_answered_by_a_statement_that_was_sent_before(pair: Pair):
    """While a request waits for a look, what it asks for is committed: it has to see that."""
    looks = pair.one.replicas._looks
    begun: list[asyncio.Task[dict[str, Look]]] = []
    writer = Writer("s1", T0)
    await committed(pair.other, writer.commit(message("m1")))
    for _ in range(20):
        begun += [asyncio.create_task(looks.look(["s1"])) for _ in range(3)]
        await asyncio.sleep(0)
        await committed(pair.other, writer.commit(token()))
        found = await looks.look(["s1"])
        assert found["s1"].seq == writer.head.seq
    await asyncio.gather(*begun)


async def test_who_gives_up_a_look_takes_nobody_elses_answer(pair: Pair):
    await filled(pair.one, "s1")
    looks = [asyncio.create_task(pair.one.replicas.look(["s1"])) for _ in range(3)]
    await asyncio.sleep(0)
    looks[0].cancel()
    assert await looks[1] == await looks[2]
    assert places(await looks[1]) == {"s1": Look(T0, 1, 2)}
    with pytest.raises(asyncio.CancelledError):
        await looks[0]


# -- due work ---------------------------------------------------------------------------------

EMPTY = DueWork([], [], [], [], [])


async def test_runs_are_due_by_who_executes_them(pair: Pair):
    one, other = pair.one.replicas, pair.other.replicas
    await filled(pair.one, "idle", "gone", "mine", "theirs", "outside")
    assert await one.due(T0, T0) == EMPTY
    for name, executor in (("gone", "nobody"), ("mine", one.executor), ("theirs", other.executor)):
        pair.update(name, f"has_active = true, run_id = 'r', executor = '{executor}'")
    pair.update("outside", f"has_active = true, run_id = 'r', last_activity_at = {T0 - 5}")
    due = await one.due(T0 - 5, T0)
    assert due == EMPTY._replace(abandoned=["gone"], mine=["mine"])
    # Its process has no row, as the statement saw; so it is dead without another look.
    assert one.is_dead("nobody")
    assert await other.due(T0 - 4, T0) == EMPTY._replace(
        abandoned=["gone"], mine=["theirs"], silent=["outside"]
    )


async def test_a_run_of_a_process_whose_row_is_gone_is_abandoned(pair: Pair):
    await filled(pair.one, "s1")
    executor = pair.other.replicas.executor
    pair.update("s1", f"has_active = true, run_id = 'r', executor = '{executor}'")
    assert await pair.one.replicas.due(0, 0) == EMPTY
    execute(pair.url, f"DELETE FROM executors WHERE executor = '{executor}'")
    assert (await pair.one.replicas.due(0, 0)).abandoned == ["s1"]


async def test_queues_are_due_and_requests_when_they_have_expired(pair: Pair):
    await filled(pair.one, "queue")
    pair.update("queue", "has_queue = true")
    await _asking(pair.one, "soon", T0 + 10)
    await _asking(pair.one, "later", T0 + 20)
    replicas = pair.other.replicas
    assert await replicas.due(0, T0) == EMPTY._replace(queued=["queue"])
    assert (await replicas.due(0, T0 + 10)).asking == ["soon"]
    assert (await replicas.due(0, T0 + 20)).asking == ["later", "soon"]
    # Heads are read again only when the session has moved.
    pair.update("soon", "head = '{}'")
    assert (await replicas.due(0, T0 + 10)).asking == ["soon"]


async def test_a_full_list_goes_on_behind_its_end(pair: Pair, monkeypatch: pytest.MonkeyPatch):
    """A session that nobody here can start does not keep the others out."""
    scans = due_work._SCANS.replace(f"LIMIT {due_work._LIST_MAX}", "LIMIT 2")
    monkeypatch.setattr(due_work, "_SCANS", scans)
    monkeypatch.setattr(due_work, "_LIST_MAX", 2)
    await filled(pair.one, *"abcde")
    for name in "abcde":
        pair.update(name, "has_queue = true")
    found = [(await pair.one.replicas.due(0, 0)).queued for _ in range(4)]
    assert found == [["a", "b"], ["c", "d"], ["e"], ["a", "b"]]


async def _asking(store: PostgresStore, session_id: str, expires_at: int) -> None:
    """Make a session with a request that expires."""
    writer = Writer(session_id, T0)
    commit = writer.commit(message("m1"))
    assert commit.head is not None
    commit.head.open_requests.append(
        OpenRequest("i1", "question", "r1", "default", 2, T0, expires_at=expires_at)
    )
    await committed(store, commit)


# -- presences --------------------------------------------------------------------------------


async def test_a_stream_is_written_and_those_of_its_name_elsewhere_are_superseded(pair: Pair):
    one, other = pair.one.replicas, pair.other.replicas
    assert await one.claim(pair.stream(pair.one))
    assert await one.wishes() == []
    assert await other.claim(pair.stream(pair.other))
    assert await one.wishes() == [pair.stream(pair.one)._replace(wish="superseded")]
    assert await one.wishes() == [], "a wish is taken once"
    assert await other.wishes() == []
    found = await one.present("stream", None)
    assert sorted(found) == sorted([pair.stream(pair.one), pair.stream(pair.other)])
    assert await one.present("stream", ["s2"]) == []
    assert await one.present("posting", None) == []
    await one.unclaim("s1", "stream", "c1")
    assert await other.present("stream", ["s1"]) == [pair.stream(pair.other)]


async def test_of_streams_that_begin_at_once_under_one_name_one_stays(pair: Pair):
    one, other = pair.one.replicas, pair.other.replicas
    for number in range(10):
        name = f"c{number}"
        await asyncio.gather(
            one.claim(pair.stream(pair.one, name)), other.claim(pair.stream(pair.other, name))
        )
        wishes = [*await one.wishes(), *await other.wishes()]
        assert [(wish.name, wish.wish) for wish in wishes] == [(name, "superseded")]


async def test_a_name_of_another_kind_belongs_to_one_living_process(pair: Pair):
    one, other = pair.one.replicas, pair.other.replicas
    mine = pair.stream(pair.one, "r1", kind="posting")
    theirs = pair.stream(pair.other, "r1", kind="posting")
    assert await one.claim(mine)
    assert not await other.claim(theirs)
    assert await one.claim(mine._replace(body=b"[]")), "it is its own"
    assert [found.body for found in await other.present("posting", None)] == [b"[]"]
    execute(pair.url, f"DELETE FROM executors WHERE executor = '{one.executor}'")
    assert await other.present("posting", None) == []
    assert await other.claim(theirs)


async def test_of_claims_that_come_at_once_one_wins(pair: Pair):
    for number in range(10):
        won = await asyncio.gather(
            *(
                store.replicas.claim(pair.stream(store, f"r{number}", kind="posting"))
                for store in (pair.one, pair.other)
            )
        )
        assert sorted(won) == [False, True]


async def test_something_can_be_asked_of_the_presence_of_another_process(pair: Pair):
    one, other = pair.one.replicas, pair.other.replicas
    await one.claim(pair.stream(pair.one))
    assert await other.wish("s1", "stream", "c1", "disconnect")
    assert not await other.wish("s1", "stream", "c2", "disconnect")
    assert not await one.wish("s1", "stream", "c1", "disconnect"), "it is its own"
    assert [asked.wish for asked in await one.wishes()] == ["disconnect"]
    await other.wish("s1", "stream", "c1", "disconnect")
    await one.claim(pair.stream(pair.one))
    assert await one.wishes() == [], "who claims anew begins without a wish"


async def test_who_has_no_row_any_more_can_claim_nothing_until_it_begins_anew(pair: Pair):
    replicas = pair.one.replicas
    before = replicas.executor
    execute(pair.url, f"DELETE FROM executors WHERE executor = '{before}'")
    with pytest.raises(Unavailable, match="taken this one for dead"):
        await replicas.claim(pair.stream(pair.one))
    await until_true(lambda: replicas.executor != before)
    assert await replicas.claim(pair.stream(pair.one))


async def test_presences_go_with_their_process(pair: Pair):
    await pair.one.replicas.claim(pair.stream(pair.one))
    await pair.other.replicas.claim(pair.stream(pair.other, "c2"))
    store = make_store(pair.url, PATIENT)
    await store.open()
    await store.replicas.claim(pair.stream(store, "c3"))
    await store.aclose()
    names = "SELECT name FROM presence ORDER BY name"
    assert execute(pair.url, names) == [("c1",), ("c2",)]
