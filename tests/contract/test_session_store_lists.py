"""Lists of sessions, over every store."""

from dataclasses import replace
from typing import Any

import pytest

from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.errors import InvalidInput
from bamboo_gateway.domain.sessions import Presence, SessionState, state_of
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.reports import SessionPage, SessionQuery
from tests.contract.conftest import Reopen, both_paths
from tests.storage.writing import NOBODY, T0, Writer, committed, message, run_start, token


async def fill(store: SessionStore, count: int = 25) -> dict[str, Writer]:
    epoch = store.next_epoch()
    writers = {}
    for number in range(count):
        # Pairs share their times, so that ties are part of every order.
        writer = Writer(f"s-{number:03d}", epoch, T0 + number // 2 * 1000)
        created = {
            "type": "session_created",
            "user_id": "even" if number % 2 == 0 else "odd",
            "title": f"Title {number % 5} %_" if number % 5 else None,
            "session_type": "sub_agent" if number % 3 == 0 else "user",
            "parent": {"session_id": "s-000"} if number % 4 == 1 else None,
        }
        await committed(store, writer.commit(created))
        for said in range(number % 4):
            await committed(store, writer.commit(message(f"m{said}")))
        if number % 6 == 0:
            await committed(store, writer.commit(run_start("run_1")))
        writers[writer.head.id] = writer
    return writers


def ids(page: SessionPage) -> list[str]:
    return [head.id for head in page.heads]


async def all_pages(store: SessionStore, limit: int, **options) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        page = await store.query(SessionQuery(cursor=cursor, limit=limit, **options), NOBODY)
        found += ids(page)
        assert page.has_more == (page.next_cursor is not None)
        if not page.has_more:
            return found
        assert len(page.heads) == limit
        cursor = page.next_cursor


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize(
    "sort_by", ["last_activity_at", "created_at", "updated_at", "message_count", "title"]
)
async def test_pages_by_cursor_are_the_whole_order_once(
    store: SessionStore, second_path: Reopen, sort_by: str, descending: bool
) -> None:
    writers = await fill(store)

    def key(name: str):
        return (getattr(writers[name].head, sort_by) or (0 if sort_by != "title" else ""), name)

    expected = sorted(writers, key=key, reverse=descending)
    async for seen in both_paths(store, second_path):
        for limit in (1, 7, 25, 100):
            assert await all_pages(seen, limit, sort_by=sort_by, descending=descending) == expected


@pytest.mark.parametrize(
    ("filters", "admitted"),
    [
        ({"user_id": "odd"}, lambda n: n % 2 == 1),
        ({"user_id": "nobody"}, lambda n: False),
        ({"session_type": "sub_agent"}, lambda n: n % 3 == 0),
        ({"title_contains": "tITLE 3"}, lambda n: n % 5 == 3),
        ({"title_contains": "%"}, lambda n: n % 5 != 0),
        ({"title_contains": "T%e"}, lambda n: False),
        ({"id_prefix": "s-01"}, lambda n: 10 <= n < 20),
        ({"id_prefix": "s-014"}, lambda n: n == 14),
        ({"id_prefix": "-01"}, lambda n: False),
        ({"id_prefix": "s-01", "user_id": "even"}, lambda n: 10 <= n < 20 and n % 2 == 0),
        ({"id_prefix": "s-01", "state": "active"}, lambda n: n in {12, 18}),
        ({"parent_id": "s-000"}, lambda n: n % 4 == 1),
        ({"state": "active"}, lambda n: n % 6 == 0),
        ({"created_after": T0 + 5000}, lambda n: n // 2 > 5),
        ({"created_before": T0 + 5000}, lambda n: n // 2 < 5),
        ({"active_after": T0 + 5000}, lambda n: n // 2 > 5),
        ({"user_id": "even", "state": "idle", "session_type": "user"},
         lambda n: n % 2 == 0 and n % 6 != 0 and n % 3 != 0),
    ],
)  # fmt: skip
async def test_filters_admit_exactly_what_they_say(
    store: SessionStore, second_path: Reopen, filters: dict[str, Any], admitted
) -> None:
    writers = await fill(store)
    expected = [name for n, name in enumerate(writers) if admitted(n)]
    options = {"sort_by": "created_at", "descending": False, **filters}
    async for seen in both_paths(store, second_path):
        page = await seen.query(SessionQuery(**options), NOBODY)
        assert ids(page) == expected
        assert page.total == len(expected)
        assert page.heads == [writers[name].head for name in expected]
        assert await all_pages(seen, 2, **options) == expected


async def test_cursor_pages_neither_repeat_nor_skip_while_sessions_come_and_go(
    store: SessionStore,
) -> None:
    writers = await fill(store)
    query = SessionQuery(sort_by="created_at", descending=False, limit=5)
    page = await store.query(query, NOBODY)
    assert ids(page) == [f"s-{n:03d}" for n in range(5)]
    # The entry the cursor stands for goes, one before it comes, one after it moves elsewhere.
    await store.delete("s-004", writers["s-004"].head.epoch)
    early = Writer("aaa", store.next_epoch(), T0 - 1000)
    await committed(store, early.commit())
    await committed(store, writers["s-010"].commit(token()))
    rest = await all_pages_from(store, query, page.next_cursor)
    assert rest == [f"s-{n:03d}" for n in range(5, 25)]


async def all_pages_from(store: SessionStore, query: SessionQuery, cursor) -> list[str]:
    found: list[str] = []
    while cursor:
        page = await store.query(
            SessionQuery(
                sort_by=query.sort_by, descending=query.descending, limit=4, cursor=cursor
            ),
            NOBODY,
        )
        found += ids(page)
        cursor = page.next_cursor
    return found


async def test_a_list_follows_what_was_committed_since(store: SessionStore) -> None:
    writers = await fill(store, 6)
    newest = await store.query(SessionQuery(limit=1), NOBODY)
    assert ids(newest) == ["s-005"]
    writer = writers["s-002"]
    writer.now_ms = T0 + 99_000
    await committed(store, writer.commit(message("m9")))
    assert ids(await store.query(SessionQuery(limit=1), NOBODY)) == ["s-002"]
    store.touch("s-001", writers["s-001"].head.epoch, T0 + 100_000)
    assert ids(await store.query(SessionQuery(limit=1), NOBODY)) == ["s-001"]
    await store.delete("s-001", writers["s-001"].head.epoch)
    page = await store.query(SessionQuery(limit=1), NOBODY)
    assert ids(page) == ["s-002"]
    assert page.total == 5
    mine = await store.query(SessionQuery(user_id="odd"), NOBODY)
    assert sorted(ids(mine)) == ["s-003", "s-005"]


async def test_offset_counts_from_the_start(store: SessionStore) -> None:
    await fill(store, 10)
    query = SessionQuery(sort_by="created_at", descending=False, offset=8, limit=5)
    page = await store.query(query, NOBODY)
    assert ids(page) == ["s-008", "s-009"]
    assert (page.total, page.has_more, page.next_cursor) == (10, False, None)
    page = await store.query(SessionQuery(offset=80, count=False), NOBODY)
    assert (page.heads, page.total, page.has_more) == ([], None, False)


@pytest.mark.parametrize("cursor", ["x", "", "AAAA", "é", "W10", "bnVsbA", "WzFd"])
async def test_a_cursor_that_the_store_did_not_make_is_refused(
    store: SessionStore, cursor: str
) -> None:
    await fill(store, 3)
    with pytest.raises(InvalidInput):
        await store.query(SessionQuery(cursor=cursor), NOBODY)


async def test_a_cursor_of_another_order_is_refused(store: SessionStore) -> None:
    await fill(store, 3)
    page = await store.query(SessionQuery(limit=1), NOBODY)
    for options in ({"sort_by": "title"}, {"descending": False}):
        with pytest.raises(InvalidInput):
            await store.query(SessionQuery(cursor=page.next_cursor, **options), NOBODY)


async def test_heads_in_a_page_are_copies(store: SessionStore) -> None:
    await fill(store, 1)
    [head] = (await store.query(SessionQuery(), NOBODY)).heads
    head.title = "changed"
    [again] = (await store.query(SessionQuery(), NOBODY)).heads
    assert again.title is None


async def fill_with_states(store: SessionStore) -> dict[str, Writer]:
    writers = await fill(store, 45)
    for number, writer in enumerate(writers.values()):
        if number % 5 == 1:
            to = ("closed", "expired", "archived")[number // 5 % 3]
            change = {"type": "state_change", "from": "idle", "to": to}
            await committed(store, writer.commit(change))
        elif number % 5 == 2:
            ttl = {"type": "session_updated", "ttl_seconds": 50 + number * 2}
            await committed(store, writer.commit(ttl))
        elif number % 5 == 3:
            await committed(store, writer.commit(*asking(number // 5 % 4, 50 + number * 2)))
    return writers


def asking(variant: int, ttl_seconds: int) -> list[dict[str, Any]]:
    """Return the events of a run that asks: it is still active, or waits in several ways."""
    asked = {
        "type": "input_required",
        "request_id": "req",
        "kind": "confirm",
        "run_id": "run_asks",
        "prompt": "May I?",
        "expires_at": format_ms(T0 + 10_000_000) if variant % 2 else None,
    }
    ended = {"type": "complete", "run_id": "run_asks", "finish_reason": "input_required"}
    ttl = {"type": "session_updated", "ttl_seconds": ttl_seconds}
    queued = {"type": "run_queued", "run_id": "r2", "agent": "a", "messages": [], "options": {}}
    begun = [run_start("run_asks"), asked]
    return [*begun, *([], [ended], [ended, ttl], [ended, ttl, queued])[variant]]


PRESENCE = Presence(
    # Half of the times to live have passed.
    now_ms=T0 + 110_000,
    # Some of these are closed, expired or active anyway, and one does not exist.
    watched=["s-000", "s-004", "s-013", "s-021", "s-033", "s-042", "s-999"],
    disconnected={"s-001", "s-005", "s-006", "s-017", "s-044", "s-998"},
)


async def expected_of(store: SessionStore, query: SessionQuery) -> list[str]:
    """Return what a list by state has to show, from all heads and the definition of the state."""
    everything = replace(query, state=None, archived="include", cursor=None, limit=1000)
    heads = (await store.query(everything, PRESENCE)).heads
    return [head.id for head in heads if state_of(head, PRESENCE) == query.state]


@pytest.mark.parametrize(
    "state", ["idle", "active", "needs_input", "disconnected", "closed", "expired", "archived"]
)
@pytest.mark.parametrize("turn", [1, 1000])
async def test_lists_by_state_have_the_sessions_of_which_the_definition_says_so(
    store: SessionStore,
    second_path: Reopen,
    state: SessionState,
    turn: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bamboo_gateway.storage.jsonl.index.views._BATCH_ENTRIES", turn)
    writers = await fill_with_states(store)
    assert (await store.query(SessionQuery(state=state), PRESENCE)).heads

    async def compare(seen: SessionStore) -> None:
        filters: list[dict[str, Any]] = [
            {},
            {"user_id": "odd"},
            {"user_id": "odd", "parent_id": "s-000"},
            {"session_type": "user", "active_after": T0 + 8000},
        ]
        for options in filters:
            for descending in (True, False):
                query = SessionQuery(
                    state=state, descending=descending, sort_by="title", limit=7, **options
                )
                expected = await expected_of(seen, query)
                pages: list[str] = []
                while True:
                    page = await seen.query(query, PRESENCE)
                    assert page.total == len(expected)
                    pages += ids(page)
                    if not page.has_more:
                        break
                    query = replace(query, cursor=page.next_cursor)
                assert pages == expected
                skipping = replace(query, cursor=None, offset=3, count=False)
                assert ids(await seen.query(skipping, PRESENCE)) == expected[3:10]

    await compare(store)
    # Sessions come, go, and change their states while the lists are kept.
    await committed(store, writers["s-003"].commit(run_start("run_2")))
    await committed(
        store,
        writers["s-009"].commit({"type": "state_change", "from": "idle", "to": "closed"}),
    )
    await committed(
        store,
        writers["s-011"].commit({"type": "state_change", "from": "closed", "to": "idle"}),
    )
    await store.delete("s-014", writers["s-014"].head.epoch)
    await committed(store, Writer("s-new", store.next_epoch()).commit())
    await compare(store)
    await compare(await second_path(store))


async def test_an_open_stream_keeps_a_session_from_expiring_and_so_does_a_queued_run(
    store: SessionStore,
) -> None:
    ttl = {"type": "session_created", "user_id": "u", "title": None, "ttl_seconds": 1}
    queued = {"type": "run_queued", "run_id": "r", "agent": "a", "messages": [], "options": {}}
    for name in ("alone", "queued", "seen", "watched"):
        writer = Writer(name, store.next_epoch())
        await committed(store, writer.commit(ttl))
        if name == "queued":
            await committed(store, writer.commit(queued))
    later = Presence(T0 + 1000, watched={"watched"}, disconnected={"seen"})
    expected: dict[SessionState, list[str]] = {
        "expired": ["alone", "seen"],
        "active": ["watched"],
        "idle": ["queued"],
        "disconnected": [],
    }
    for state, names in expected.items():
        page = await store.query(SessionQuery(state=state), later)
        assert sorted(ids(page)) == names
    before = Presence(T0 + 999, disconnected={"seen"})
    page = await store.query(SessionQuery(state="disconnected"), before)
    assert ids(page) == ["seen"]


async def test_sessions_whose_requests_expire_are_unfinished(
    store: SessionStore, second_path: Reopen
) -> None:
    for variant in range(4):
        writer = Writer(f"asks-{variant}", store.next_epoch())
        await committed(store, writer.commit(*asking(variant, 600)))
    # The first has a run, the last a queue; the request of the second expires.
    unfinished = ["asks-0", "asks-1", "asks-3"]
    assert sorted(await store.unfinished()) == unfinished
    store = await second_path(store)
    assert sorted(await store.unfinished()) == unfinished
    waiting = await store.query(SessionQuery(state="needs_input"), NOBODY)
    assert sorted(ids(waiting)) == ["asks-1", "asks-2", "asks-3"]
    writer = Writer.of(waiting.heads[0])
    given = {"type": "input_given", "request_id": "req", "value": True}
    await committed(store, writer.commit(given))
    page = await store.query(SessionQuery(state="needs_input"), NOBODY)
    assert len(page.heads) == 2
