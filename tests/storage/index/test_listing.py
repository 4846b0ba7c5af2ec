"""Lists by SQL have the sessions, the order and the total of `list_page`, on every database."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bamboo_gateway.domain.sessions import (
    ActiveRun,
    LoggedState,
    Presence,
    QueuedRun,
    SessionHead,
    SessionState,
    Share,
)
from bamboo_gateway.storage.index import plan
from bamboo_gateway.storage.listing import list_page
from bamboo_gateway.storage.reports import SessionQuery
from tests.storage.index.databases import Database, PostgresDatabase, SqliteDatabase

NOW = 1_700_000_000_000
IDS = [f"s{number}" for number in range(12)] + ["S1", "s", "t.1", "~not-an-id\0"]
USERS = ["ann", "bob", "Ann"]
# Times within one slot, in the next ones, and far away.
TIMES = st.sampled_from([NOW - 40_000_000, NOW - 20_000, NOW - 3, NOW - 2, NOW - 1, NOW])
TITLES = [
    "",
    "a",
    "Straße",
    "STRASSE",
    "İstanbul",
    "i̇stanbul",
    "京都",
    "100 %_",
    "a\0b",
    "🙂",
    "\\",
]
TITLE_PARTS = ["", "ss", "ß", "i", "京", "%", "_", "\0", "\\", "🙂", "A"]


@st.composite
def heads(draw: st.DrawFn) -> list[SessionHead]:
    found = []
    for session_id in draw(st.sets(st.sampled_from(IDS[:-1]), min_size=6)):
        above = draw(st.none() | st.sampled_from(IDS[:4]))
        shares = draw(
            st.lists(
                st.tuples(
                    st.none() | st.sampled_from(USERS), st.none() | st.sampled_from([NOW, NOW + 1])
                ),
                max_size=3,
            )
        )
        found.append(
            SessionHead(
                session_id,
                7,
                seq=draw(st.integers(1, 9)),
                title=draw(st.none() | st.sampled_from(TITLES)),
                user_id=draw(st.none() | st.sampled_from(USERS)),
                session_type=draw(st.sampled_from(["user", "sub_agent", "scheduled"])),
                ttl_seconds=draw(st.none() | st.sampled_from([1, 20, 10_000])),
                created_at=draw(TIMES),
                updated_at=draw(TIMES),
                last_activity_at=draw(TIMES),
                message_count=draw(st.integers(0, 2)),
                parent={"session_id": above} if above else None,
                ancestors=[{"session_id": above}] if above else [],
                logged_state=draw(st.none() | st.sampled_from(get_args(LoggedState))),
                active=draw(st.none() | st.just(ActiveRun("r1", "default", 1, 0))),
                queue=draw(st.just([]) | st.just([QueuedRun("r2", 2)])),
                shares=[
                    Share(f"share-{number}", user_id, 0, expires_at)
                    for number, (user_id, expires_at) in enumerate(shares)
                ],
            )
        )
    return found


FILTERS: dict[str, st.SearchStrategy[Any]] = {
    "user_id": st.sampled_from(USERS),
    "session_type": st.sampled_from(["user", "sub_agent", "scheduled"]),
    "created_after": TIMES,
    "created_before": TIMES,
    "active_after": TIMES,
    "title_contains": st.sampled_from(TITLE_PARTS),
    "id_prefix": st.sampled_from(["", "s", "s1", "S", "t.", "z", "é"]),
    "parent_id": st.sampled_from(IDS),
    "root_id": st.sampled_from(IDS),
    "shared_with": st.sampled_from(USERS),
}


@st.composite
def queries(draw: st.DrawFn) -> SessionQuery:
    # Few filters at a time: with many of them no session matches, whatever each of them does.
    names = draw(st.lists(st.sampled_from(sorted(FILTERS)), max_size=2))
    return SessionQuery(
        **{name: draw(FILTERS[name]) for name in names},
        state=draw(st.none() | st.sampled_from(get_args(SessionState))),
        shared_at=draw(st.sampled_from([NOW - 1, NOW, NOW + 1])),
        archived=draw(st.sampled_from(["exclude", "only", "include"])),
        sort_by=draw(st.sampled_from(SORTS)),
        descending=draw(st.booleans()),
        limit=draw(st.integers(1, 4)),
        count=draw(st.booleans()),
    )


SORTS = ["last_activity_at", "created_at", "updated_at", "message_count", "title"]
PRESENCES = st.builds(
    Presence,
    st.just(NOW),
    st.sets(st.sampled_from(IDS[:6]), max_size=3),
    st.sets(st.sampled_from(IDS[3:9]), max_size=3),
)


@pytest.fixture(scope="module")
def databases(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Database]]:
    with ExitStack() as stack:
        found: list[Database] = [SqliteDatabase(tmp_path_factory.mktemp("index") / "a.sqlite")]
        server = request.getfixturevalue("postgres_server")
        name = stack.enter_context(server.database("LOCALE 'C'"))
        found.append(PostgresDatabase(server.url(name)))
        for database in found:
            stack.callback(database.close)
        yield found


@pytest.mark.parametrize("led_max", [0, 1, plan.LED_MAX])
def test_every_database_lists_as_the_reference_does(
    databases: list[Database], led_max: int
) -> None:
    @settings(max_examples=60)
    @given(heads(), st.lists(queries(), min_size=10, max_size=10), PRESENCES, st.integers(0, 4))
    def lists_agree(
        stored: list[SessionHead], asked: list[SessionQuery], presence: Presence, offset: int
    ) -> None:
        for database in databases:
            database.fill(stored)
        for first in asked:
            for query in pages(stored, first, presence, offset):
                expected = list_page(stored, query, presence)
                for database in databases:
                    assert database.query(query, presence) == expected

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "LED_MAX", led_max)
        lists_agree()


def pages(
    stored: list[SessionHead], query: SessionQuery, presence: Presence, offset: int
) -> Iterator[SessionQuery]:
    """Yield the queries of all pages, one after the other, then that of a page by offset."""
    while True:
        yield query
        cursor = list_page(stored, query, presence).next_cursor
        if cursor is None:
            break
        query = replace(query, cursor=cursor)
    yield replace(query, cursor=None, offset=offset)
