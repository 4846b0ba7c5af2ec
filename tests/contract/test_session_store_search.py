"""Searches over every store: they find what comparing every message finds."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.errors import InvalidCursor
from bamboo_gateway.domain.limits import PAGE_BYTES_MAX
from bamboo_gateway.domain.search import fold
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.reports import SearchQuery, SessionQuery
from bamboo_gateway.storage.searching import (
    SearchKey,
    admits_message,
    admits_session,
    searched_message,
)
from tests.contract.conftest import Reopen, both_paths
from tests.contract.test_session_store_trees import state_change
from tests.storage.writing import NOBODY, T0, Writer, committed, token
from tests.support.scripts import SPACES, WORDS
from tests.support.waiting import until_true

USERS = (None, "ann", "bob")
ROLES = ("user", "user", "assistant", "tool", "system")


def said(text: Any, role: str = "user", time: int = T0, name: str = "m") -> dict[str, Any]:
    """Return a message of any role and time."""
    message = {"id": name, "role": role, "content": text, "created_at": format_ms(time)}
    return {"type": "message", "message": {**message, "status": "complete", "metadata": {}}}


def created(user_id: str | None = None, title: str | None = None) -> dict[str, Any]:
    return {"type": "session_created", "user_id": user_id, "title": title}


async def begin(store: SessionStore, session_id: str, *events: dict[str, Any]) -> Writer:
    writer = Writer(session_id, store.next_epoch())
    await committed(store, writer.commit(*events))
    return writer


async def pages(store: SessionStore, query: SearchQuery) -> list[SearchKey]:
    """Return what all pages of a search have, after a look at each page."""
    keys: list[SearchKey] = []
    while True:
        page = await store.search(query)
        assert len(page.hits) <= query.limit
        assert page.has_more == (page.next_cursor is not None)
        for hit in page.hits:
            [record] = await store.find(
                hit.session_id, hit.epoch, "message", after=hit.seq - 1, before=hit.seq + 1
            )
            assert hit.body == record.body
            message = searched_message(hit.body)
            assert message is not None
            keys.append(SearchKey(message.created_at, hit.session_id, hit.seq))
        if not page.has_more:
            return keys
        query = replace(query, cursor=page.next_cursor)


async def compared(store: SessionStore, query: SearchQuery) -> list[SearchKey]:
    """Return what is found by looking at every message of every session."""
    keys: list[SearchKey] = []
    listed = await store.query(SessionQuery(archived="include", limit=1000), NOBODY)
    for head in listed.heads:
        if not admits_session(query, head):
            continue
        for seq, body in await store.find(head.id, head.epoch, "message", after=head.history_from):
            message = searched_message(body)
            if message is not None and admits_message(query, message):
                keys.append(SearchKey(message.created_at, head.id, seq))
    return sorted(keys, reverse=True)


async def finds(
    store: SessionStore, words: str, *expected: tuple[str, int], **filters: Any
) -> None:
    """Wait until a search finds these messages: it may be behind for a moment."""
    query = SearchQuery(tuple(map(fold, words.split())), **filters)

    async def is_found() -> bool:
        return [(key.session_id, key.seq) for key in await pages(store, query)] == [*expected]

    await until_true(is_found)


def chance_text(chance: random.Random) -> str:
    count = chance.randrange(1, 9)
    return "".join(chance.choice(WORDS) + chance.choice(SPACES) for _ in range(count))


def chance_query(chance: random.Random, text: str) -> SearchQuery:
    folded = fold(text)
    terms = []
    for _ in range(chance.randrange(1, 4)):
        start = chance.randrange(len(folded))
        terms.append(folded[start : start + chance.choice((1, 1, 2, 2, 3, 4, 9, 40))])
    filters: dict[str, Any] = {
        "user_id": chance.choice((None, None, "ann", "bob", "nobody")),
        "role": chance.choice((None, None, "user", "tool")),
        "session_id": chance.choice((None, None, None, "s-3", "none")),
        "created_after": chance.choice((None, None, T0 - 1, T0)),
        "created_before": chance.choice((None, None, T0 + 1, T0 + 2)),
        "archived": chance.choice(("exclude", "only", "include")),
    }
    return SearchQuery(tuple(dict.fromkeys(terms)), **filters, limit=chance.choice((1, 2, 5, 100)))


@pytest.mark.parametrize("seed", range(3))
async def test_a_search_finds_what_comparing_every_message_finds(
    store: SessionStore, second_path: Reopen, seed: int
) -> None:
    chance = random.Random(seed)
    texts: list[str] = []
    for number in range(9):
        writer = await begin(store, f"s-{number}", created(chance.choice(USERS), "a title"))
        for _ in range(chance.randrange(12)):
            texts.append(chance_text(chance))
            time = T0 + chance.randrange(-2, 3)
            event = said(texts[-1], chance.choice(ROLES), time, f"m{len(texts)}")
            await committed(store, writer.commit(event, token()))
        if chance.randrange(3) == 0:
            await committed(store, writer.commit(state_change("archived")))
    last = SearchQuery((fold(texts[-1]),), archived="include")
    await until_true(lambda: _agrees(store, last))
    queries = [chance_query(chance, chance.choice(texts)) for _ in range(60)]
    async for seen in both_paths(store, second_path):
        await until_true(lambda seen=seen: _agrees(seen, last))  # type: ignore[misc]
        for query in queries:
            assert await pages(seen, query) == await compared(seen, query), query
            await _lists_agree(seen, query.terms)


async def _agrees(store: SessionStore, query: SearchQuery) -> bool:
    return await pages(store, query) == await compared(store, query)


async def _lists_agree(store: SessionStore, terms: Sequence[str]) -> None:
    found = await compared(store, SearchQuery(tuple(terms), archived="include"))
    wanted = SessionQuery(
        terms=tuple(terms), archived="include", sort_by="created_at", descending=False, limit=1000
    )
    page = await store.query(wanted, NOBODY)
    assert {head.id for head in page.heads} == {key.session_id for key in found}
    assert page.total == len(page.heads)
    mine = await store.query(replace(wanted, user_id="ann", archived="exclude"), NOBODY)
    assert {head.id for head in mine.heads} == {
        head.id for head in page.heads if head.user_id == "ann" and head.logged_state != "archived"
    }


async def test_a_found_message_has_the_epoch_title_and_body_of_now(
    store: SessionStore, second_path: Reopen
) -> None:
    writer = await begin(store, "s", created(title="one"), said("some words"))
    await finds(store, "words", ("s", 2))
    await committed(store, writer.commit({"type": "session_updated", "title": "a\0b"}))
    async for seen in both_paths(store, second_path):
        await finds(seen, "words", ("s", 2))
        [hit] = (await seen.search(SearchQuery(("words",)))).hits
        head = cast("SessionHead", await seen.load("s"))
        assert (hit.epoch, hit.title) == (writer.head.epoch, head.title)


async def test_a_deleted_session_is_not_found_and_its_successor_is(
    store: SessionStore, second_path: Reopen
) -> None:
    writer = await begin(store, "s", said("old words"))
    await begin(store, "other", said("other words"))
    await finds(store, "words", ("s", 2), ("other", 2))
    await store.delete("s", writer.head.epoch)
    # At once, and not a moment later.
    for terms in (("words",), ("old",), ("o",)):
        found = await store.search(SearchQuery(terms, archived="include"))
        assert {hit.session_id for hit in found.hits} <= {"other"}
        listed = await store.query(SessionQuery(terms=terms), NOBODY)
        assert {head.id for head in listed.heads} <= {"other"}
    await begin(store, "s", created("ann"), said("new words"))
    async for seen in both_paths(store, second_path):
        await finds(seen, "words", ("s", 2), ("other", 2))
        await finds(seen, "words", ("s", 2), user_id="ann")
        await finds(seen, "old")


async def test_messages_of_creations_and_extensions_are_found_once_they_are_published(
    store: SessionStore, second_path: Reopen
) -> None:
    writer = Writer("s", store.next_epoch())
    commit = writer.commit(created("ann"), *[said(f"many words {n}") for n in range(700)])
    async with store.creation("s", writer.head.epoch) as creation:
        await creation.write(commit.events)
        assert (await store.search(SearchQuery(("words",)))).hits == []
        await creation.publish(writer.head)
    await finds(store, "699", ("s", 701))
    before = writer.head.seq
    more = writer.commit(*[said(f"more words {n}") for n in range(3)])
    async with store.extension("s", writer.head.epoch, before) as extension:
        await extension.write(more.events)
        await finds(store, "more")
        await extension.publish(writer.head)
    async for seen in both_paths(store, second_path):
        await finds(seen, "more 2", ("s", before + 3), user_id="ann")
        await finds(seen, "many words 5", *_those("5"), limit=7)


def _those(part: str) -> list[tuple[str, int]]:
    return [("s", n + 2) for n in reversed(range(700)) if part in str(n)]


async def test_a_discarded_creation_is_never_found(
    store: SessionStore, second_path: Reopen
) -> None:
    writer = Writer("s", store.next_epoch())
    commit = writer.commit(said("lost words"))
    async with store.creation("s", writer.head.epoch) as creation:
        await creation.write(commit.events)
    await begin(store, "t", said("kept words"))
    async for seen in both_paths(store, second_path):
        await finds(seen, "words", ("t", 2))


async def test_what_a_merge_replaced_is_not_found(store: SessionStore, second_path: Reopen) -> None:
    writer = await begin(store, "s", said("first words"), said("second words"))
    await finds(store, "words", ("s", 3), ("s", 2))
    before = writer.head.seq
    merged = {"type": "session_merged", "replaces": True, "source": {"session_id": "x"}}
    commit = writer.commit(merged, said("third words"))
    assert writer.head.history_from == before + 1
    async with store.extension("s", writer.head.epoch, before) as extension:
        await extension.write(commit.events)
        await extension.publish(writer.head)
    async for seen in both_paths(store, second_path):
        await finds(seen, "words", ("s", writer.head.seq))


async def test_packing_and_compaction_change_nothing_that_is_found(
    store: SessionStore, second_path: Reopen
) -> None:
    writer = await begin(store, "s", token("a" * 200), said("some words"), token("b" * 200))
    await committed(store, writer.commit(said("more words")))
    await store.compact("s", writer.head.epoch, writer.head.seq)
    await finds(store, "words", ("s", 5), ("s", 3))
    await committed(store, writer.commit(state_change("archived")))
    await store.pack("s", writer.head.epoch)
    async for seen in both_paths(store, second_path):
        await finds(seen, "words")
        await finds(seen, "words", ("s", 5), ("s", 3), archived="only")
        await finds(seen, "words", ("s", 5), ("s", 3), archived="include", limit=1)
        store = seen
    await store.unpack("s", writer.head.epoch)
    head = cast("SessionHead", await store.load("s"))
    await committed(store, Writer.of(head).commit(state_change("idle")))
    await finds(store, "words", ("s", 5), ("s", 3))


async def test_a_page_of_large_messages_ends_early(store: SessionStore) -> None:
    writer = await begin(store, "s", created())
    for _ in range(12):
        await committed(store, writer.commit(said("words " + "x" * 900_000)))
    await finds(store, "words", *[("s", n) for n in range(13, 1, -1)])
    page = await store.search(SearchQuery(("words",)))
    assert sum(len(hit.body) for hit in page.hits) <= PAGE_BYTES_MAX
    assert page.has_more


@pytest.mark.parametrize("cursor", ["", "x", "WzFd", "A" * 5000])
async def test_a_cursor_that_no_search_made_is_refused(store: SessionStore, cursor: str) -> None:
    with pytest.raises(InvalidCursor):
        await store.search(SearchQuery(("word",), cursor=cursor))


def odd(number: int, **members: Any) -> dict[str, Any]:
    """Return a message as no route takes it: other programs' documents have brought some."""
    return {"type": "message", "message": {"id": f"odd-{number}", **members}}


async def test_messages_of_an_unknown_shape_are_left_out_and_all_others_found(
    store: SessionStore,
) -> None:
    """R10."""
    shapes: list[dict[str, Any]] = [
        {"role": "user", "content": "apple"},
        {"role": "user", "content": 7, "created_at": format_ms(T0)},
        {"role": "user", "content": [{"text": "apple"}], "created_at": format_ms(T0)},
        {"role": "user\0", "content": "apple", "created_at": format_ms(T0)},
    ]
    await begin(store, "s-0", created(), said("an apple"))
    writer = await begin(store, "s-1", created(), said("apple", name="m"))
    await committed(
        store, writer.commit(*(odd(number, **shape) for number, shape in enumerate(shapes)))
    )
    await committed(store, writer.commit(said("apple pie", name="last")))
    await begin(store, "s-2", created(), said("apples"))
    last = writer.head.seq
    await finds(store, "apple", ("s-2", 2), ("s-1", last), ("s-1", 2), ("s-0", 2))
    stats = await store.stats()
    # A store in memory keeps no index.
    assert stats.get("search_skipped_total", len(shapes)) == len(shapes)
    assert stats.get("search_working", 1) == 1
