"""Lists of sessions, over every store."""

from dataclasses import replace
from typing import Any

import pytest

from bamboo_gateway.domain.errors import InvalidInput
from bamboo_gateway.domain.sessions import SessionHead, SessionState
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.reports import SessionPage, SessionQuery
from tests.contract.conftest import Reopen, both_paths
from tests.storage.writing import T0, Writer, committed, message, run_start, token


def state_of(head: SessionHead) -> SessionState:
    return "active" if head.active else "idle"


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
        page = await store.query(SessionQuery(cursor=cursor, limit=limit, **options), state_of)
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
        page = await seen.query(SessionQuery(**options), state_of)
        assert ids(page) == expected
        assert page.total == len(expected)
        assert page.heads == [writers[name].head for name in expected]
        assert await all_pages(seen, 2, **options) == expected


async def test_cursor_pages_neither_repeat_nor_skip_while_sessions_come_and_go(
    store: SessionStore,
) -> None:
    writers = await fill(store)
    query = SessionQuery(sort_by="created_at", descending=False, limit=5)
    page = await store.query(query, state_of)
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
            state_of,
        )
        found += ids(page)
        cursor = page.next_cursor
    return found


async def test_a_list_follows_what_was_committed_since(store: SessionStore) -> None:
    writers = await fill(store, 6)
    newest = await store.query(SessionQuery(limit=1), state_of)
    assert ids(newest) == ["s-005"]
    writer = writers["s-002"]
    writer.now_ms = T0 + 99_000
    await committed(store, writer.commit(message("m9")))
    assert ids(await store.query(SessionQuery(limit=1), state_of)) == ["s-002"]
    store.touch("s-001", writers["s-001"].head.epoch, T0 + 100_000)
    assert ids(await store.query(SessionQuery(limit=1), state_of)) == ["s-001"]
    await store.delete("s-001", writers["s-001"].head.epoch)
    page = await store.query(SessionQuery(limit=1), state_of)
    assert ids(page) == ["s-002"]
    assert page.total == 5
    mine = await store.query(SessionQuery(user_id="odd"), state_of)
    assert sorted(ids(mine)) == ["s-003", "s-005"]


async def test_offset_counts_from_the_start(store: SessionStore) -> None:
    await fill(store, 10)
    query = SessionQuery(sort_by="created_at", descending=False, offset=8, limit=5)
    page = await store.query(query, state_of)
    assert ids(page) == ["s-008", "s-009"]
    assert (page.total, page.has_more, page.next_cursor) == (10, False, None)
    page = await store.query(SessionQuery(offset=80, count=False), state_of)
    assert (page.heads, page.total, page.has_more) == ([], None, False)


@pytest.mark.parametrize("cursor", ["x", "", "AAAA", "é", "W10", "bnVsbA", "WzFd"])
async def test_a_cursor_that_the_store_did_not_make_is_refused(
    store: SessionStore, cursor: str
) -> None:
    await fill(store, 3)
    with pytest.raises(InvalidInput):
        await store.query(SessionQuery(cursor=cursor), state_of)


async def test_a_cursor_of_another_order_is_refused(store: SessionStore) -> None:
    await fill(store, 3)
    page = await store.query(SessionQuery(limit=1), state_of)
    for options in ({"sort_by": "title"}, {"descending": False}):
        with pytest.raises(InvalidInput):
            await store.query(SessionQuery(cursor=page.next_cursor, **options), state_of)


async def test_heads_in_a_page_are_copies(store: SessionStore) -> None:
    await fill(store, 1)
    [head] = (await store.query(SessionQuery(), state_of)).heads
    head.title = "changed"
    [again] = (await store.query(SessionQuery(), state_of)).heads
    assert again.title is None


class Knowing:
    """As the pool does: some sessions are connected or were, whatever their heads say."""

    def __init__(self, **noted: SessionState) -> None:
        self._noted = noted

    def __call__(self, head: SessionHead) -> SessionState:
        if head.logged_state is not None:
            return head.logged_state
        if head.active:
            return "active"
        if head.ttl_seconds is not None and head.ttl_seconds < 100:
            return "expired"
        return self._noted.get(head.id.replace("-", "_"), "idle")

    def noted(self) -> list[str]:
        return [name.replace("_", "-") for name in self._noted]


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
    return writers


@pytest.mark.parametrize(
    "state", ["idle", "active", "disconnected", "closed", "expired", "archived"]
)
@pytest.mark.parametrize("turn", [1, 1000])
async def test_lists_by_state_are_the_same_whether_each_session_is_asked_about_or_only_some(
    store: SessionStore, state: SessionState, turn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bamboo_gateway.storage.jsonl.index.views._BATCH_ENTRIES", turn)
    writers = await fill_with_states(store)
    knowing = Knowing(
        s_000="active", s_001="disconnected", s_004="active", s_005="disconnected", s_013="active",
        s_044="disconnected", s_999="active",
    )  # fmt: skip

    assert (await store.query(SessionQuery(state=state), knowing)).heads

    async def compare() -> None:
        for user_id in (None, "odd"):
            for descending in (True, False):
                query = SessionQuery(
                    state=state, user_id=user_id, descending=descending, sort_by="title", limit=7
                )
                seen = 0
                while True:
                    asked = await store.query(query, lambda head: knowing(head))
                    assert await store.query(query, knowing) == asked
                    seen += len(asked.heads)
                    if not asked.has_more:
                        break
                    query = replace(query, cursor=asked.next_cursor)
                assert seen == asked.total
                skipping = replace(query, cursor=None, offset=3, count=False)
                asked = await store.query(skipping, lambda head: knowing(head))
                assert await store.query(skipping, knowing) == asked
        parent = SessionQuery(state=state, user_id="odd", parent_id="s-000")
        asked = await store.query(parent, lambda head: knowing(head))
        assert await store.query(parent, knowing) == asked

    await compare()
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
    await compare()
