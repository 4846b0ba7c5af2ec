"""Searches by SQL find what comparing every message finds, on every database."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bamboo_gateway.domain.errors import InvalidCursor
from bamboo_gateway.domain.search import TERMS_MAX, fold
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.index import search
from bamboo_gateway.storage.index import search_statements as make
from bamboo_gateway.storage.index.search_code import encoded, encoded_message, grams, owner_mark
from bamboo_gateway.storage.index.search_tables import SQLITE_ERASE
from bamboo_gateway.storage.listing import list_page
from bamboo_gateway.storage.reports import SearchQuery, SessionQuery
from bamboo_gateway.storage.searching import (
    FoundMessage,
    SearchKey,
    admits_message,
    admits_session,
    searched_message,
)
from tests.storage.index.databases import PostgresDatabase, SqliteDatabase
from tests.storage.index.searching import Said, Searched, rows_of
from tests.storage.writing import NOBODY
from tests.support.scripts import WORDS, texts

NOW = 1_700_000_000_000
TIMES = st.sampled_from([NOW - 2, NOW - 1, NOW, NOW + 1])
USERS = ["ann", "bob", "Ann"]
ROLES = ["user", "assistant", "tool", "system"]


@pytest.fixture(scope="module")
def databases(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Searched]]:
    with ExitStack() as stack:
        sqlite = SqliteDatabase(tmp_path_factory.mktemp("search") / "a.sqlite")
        stack.callback(sqlite.close)
        server = request.getfixturevalue("postgres_server")
        # Under this locale, PostgreSQL's own functions know the letters of ASCII alone.
        name = stack.enter_context(server.database("LOCALE 'C'"))
        postgres = PostgresDatabase(server.url(name))
        stack.callback(postgres.close)
        yield [Searched(sqlite), Searched(postgres)]


HEADS = st.lists(
    st.builds(
        lambda user, state: SessionHead("", 7, 100, user_id=user, logged_state=state),
        st.none() | st.sampled_from(USERS),
        st.sampled_from([None, "closed", "archived"]),
    ),
    min_size=1,
    max_size=4,
).map(lambda heads: [replace(head, id=f"s{9 - n}") for n, head in enumerate(heads)])


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[SessionHead], list[Said]]:
    heads = draw(HEADS)
    places = draw(st.lists(st.integers(0, len(heads) - 1), min_size=1, max_size=12))
    said = [
        Said(place, seq, draw(st.sampled_from(ROLES)), draw(TIMES), draw(texts(5)))
        for seq, place in enumerate(places, start=1)
    ]
    return heads, said


@st.composite
def terms(draw: st.DrawFn, said: list[Said]) -> tuple[str, ...]:
    found = []
    for _ in range(draw(st.integers(1, 3))):
        folded = fold(draw(st.sampled_from(said)).text) or fold(draw(st.sampled_from(WORDS)))
        start = draw(st.integers(0, len(folded) - 1))
        found.append(folded[start : start + draw(st.sampled_from([1, 1, 2, 2, 3, 4, 30]))])
    return tuple(dict.fromkeys(found))


@st.composite
def queries(draw: st.DrawFn, said: list[Said]) -> SearchQuery:
    filters: dict[str, st.SearchStrategy[Any]] = {
        "user_id": st.sampled_from(USERS),
        "role": st.sampled_from(ROLES),
        "session_id": st.sampled_from(["s9", "s8", "s7", "none"]),
        "created_after": TIMES,
        "created_before": TIMES,
    }
    names = draw(st.lists(st.sampled_from(sorted(filters)), max_size=2))
    return SearchQuery(
        draw(terms(said)),
        **{name: draw(filters[name]) for name in names},
        archived=draw(st.sampled_from(["exclude", "only", "include"])),
        limit=draw(st.integers(1, 5)),
    )


def compared(heads: list[SessionHead], said: list[Said], query: SearchQuery) -> list[SearchKey]:
    """Return what is found, by looking at everything."""
    found = []
    for one in said:
        head = heads[one.session]
        message = searched_message(one.body)
        if message and admits_session(query, head) and admits_message(query, message):
            found.append(SearchKey(one.created_at, head.id, one.seq))
    return sorted(found, reverse=True)


# All found by comparing, in several steps or one, with pages that end early; by the index; by both.
@pytest.mark.parametrize(
    ("walk", "candidates_max", "walk_max"),
    [(1, 0, 4), (1, 0, 1000), (1000, 0, 1000), (1, 3000, 1000), (2, 2, 1000)],
)
def test_all_pages_of_a_search_are_what_comparing_every_message_finds(
    databases, walk, candidates_max, walk_max, monkeypatch
):
    monkeypatch.setattr(search, "WALK", walk)
    monkeypatch.setattr(search, "CANDIDATES_MAX", candidates_max)
    monkeypatch.setattr(search, "WALK_MAX", walk_max)

    @settings(max_examples=30)
    @given(conversations(), st.data())
    def agrees(conversation, data):
        heads, said = conversation
        for database in databases:
            database.database.fill(heads)
            database.fill(rows_of(heads, said))
        for _ in range(3):
            query = data.draw(queries(said))
            expected = compared(heads, said, query)
            for database in databases:
                found, page = [], query
                while True:
                    answer = database.search(page)
                    assert len(answer.found) <= query.limit
                    found += [one.key for one in answer.found]
                    if answer.next_cursor is None:
                        break
                    page = replace(query, cursor=answer.next_cursor)
                assert found == expected

    agrees()


@pytest.mark.parametrize("candidates_max", [0, 3000])
def test_a_list_by_terms_has_the_sessions_with_a_message_that_is_found(
    databases, candidates_max, monkeypatch
):
    monkeypatch.setattr(search, "CANDIDATES_MAX", candidates_max)

    @settings(max_examples=60)
    @given(conversations(), st.data())
    def agrees(conversation, data):
        heads, said = conversation
        wanted = data.draw(terms(said))
        for database in databases:
            database.database.fill(heads)
            database.fill(rows_of(heads, said))
        names = compared(heads, said, SearchQuery(wanted, archived="include"))
        having = {key.session_id for key in names}
        query = SessionQuery(
            user_id=data.draw(st.none() | st.sampled_from(USERS)),
            archived=data.draw(st.sampled_from(["exclude", "only", "include"])),
            sort_by=data.draw(st.sampled_from(["created_at", "last_activity_at", "title"])),
            limit=data.draw(st.integers(1, 3)),
            count=data.draw(st.booleans()),
        )
        expected = list_page([head for head in heads if head.id in having], query, NOBODY)
        for database in databases:
            asked = replace(query, terms=wanted)
            assert database.list(asked) == expected
            if expected.next_cursor is not None:
                further = replace(query, cursor=expected.next_cursor)
                rest = list_page([h for h in heads if h.id in having], further, NOBODY)
                assert database.list(replace(further, terms=wanted)) == rest

    agrees()


def fill(databases, head, *said):
    for database in databases:
        database.database.fill([head])
        database.fill(rows_of([head], said))


def found(database, query, **filters):
    page = database.search(SearchQuery(tuple(map(fold, query.split())), **filters))
    return [one.key.seq for one in page.found]


HEAD = SessionHead("s1", 7, 100, title="a\0b", user_id="ann")


def said(*texts):
    return [Said(0, seq, "user", NOW + seq, text) for seq, text in enumerate(texts, start=1)]


def test_a_found_message_has_the_epoch_and_title_of_its_session(databases):
    fill(databases, HEAD, *said("hello"))
    for database in databases:
        [one] = database.search(SearchQuery(("hell",))).found
        assert one == FoundMessage(SearchKey(NOW + 1, "s1", 1), 7, "a\0b")


def test_messages_behind_the_head_of_their_session_are_not_found(databases):
    fill(databases, replace(HEAD, seq=1), *said("word", "word"))
    for database in databases:
        assert found(database, "word") == [1]
        assert database.session_keys(["word"]) == [1]


def test_messages_of_no_session_are_not_found(databases):
    fill(databases, HEAD)
    orphans = [row | {"session_key": 99} for row in rows_of([HEAD], said("word"))]
    for database in databases:
        database.add(orphans)
        assert found(database, "word") == []
        assert database.session_keys(["word"]) == []


def test_adding_a_message_again_changes_nothing(databases):
    fill(databases, HEAD, *said("word"))
    for database in databases:
        database.add(rows_of([HEAD], said("word")))
        assert found(database, "word") == [1]


def test_deleted_messages_are_not_found_and_leave_the_index(databases, monkeypatch):
    # The index alone answers.
    monkeypatch.setattr(search, "WALK", 1)
    fill(databases, HEAD, *said("one word", "two words", "three words", "four words", "none"))
    for database in databases:
        statement = make.delete_statement(database.dialect)
        values = {"session_key": 1, "upto": 3, "rows": 2}
        for left in ([4, 3], [4], [4]):
            database.execute(statement.text, statement.with_values(values))
            assert found(database, "words") == left
        if database.dialect == "sqlite":
            database.execute(SQLITE_ERASE)
            [[index]] = database.execute(
                "SELECT hex(group_concat(block, '')) FROM search_grams_data"
            )
            assert b"hre".hex().upper() not in index


def test_messages_get_another_owner_and_are_found_as_before(databases, monkeypatch):
    monkeypatch.setattr(search, "WALK", 1)
    fill(databases, HEAD, *said("some words", "no words", "x"))
    for database in databases:
        for user_id, other in (("bob", "ann"), (None, "bob"), ("ann", "bob")):
            statement = make.own_statement(database.dialect)
            values = {"session_key": 1, "user_id": user_id, "mark": owner_mark(user_id)}
            database.execute(statement.text, statement.with_values(values))
            if user_id is not None:
                assert found(database, "words", user_id=user_id) == [2, 1]
            assert found(database, "words", user_id=other) == []
            assert found(database, "words") == [2, 1]
            codes = [code for (code,) in database.execute("SELECT code FROM search_messages")]
            assert encoded_message("x", user_id) in codes


def test_the_longest_queries_are_answered(databases, monkeypatch):
    monkeypatch.setattr(search, "WALK", 1)
    text = " ".join(f"{chr(0x4E00 + n)}{chr(0xAC00 + 7 * n)}word{n}" * 3 for n in range(TERMS_MAX))
    fill(databases, HEAD, *said(text, "x", "y"))
    for database in databases:
        assert found(database, text) == [1]
        assert found(database, "ﷺ" * 200) == []


def test_a_term_that_many_messages_have_is_found_without_the_index(databases):
    fill(databases, HEAD, *said(*["common word"] * 30))
    for database in databases:
        database.database.requests.clear()
        assert found(database, "common", limit=5) == [30, 29, 28, 27, 26]
        texts = [request.text for request in database.database.requests]
        assert not any("search_grams" in text or "LIKE" in text for text in texts)


@pytest.mark.parametrize("cursor", ["", "x", "WzFd", "W251bGwsbnVsbCxudWxsXQ", "A" * 1000])
def test_a_cursor_that_no_search_made_is_refused(databases, cursor):
    for database in databases:
        with pytest.raises(InvalidCursor):
            database.search(SearchQuery(("word",), cursor=cursor))


@pytest.mark.parametrize("text", ["é\0", "s\n"])
def test_filters_by_what_is_no_id_find_nothing(databases, text):
    fill(databases, HEAD, *said("word"))
    for database in databases:
        assert found(database, "word", user_id=text) == []
        assert found(database, "word", session_id=text) == []


@given(texts(), texts())
def test_a_code_is_in_another_one_when_its_text_is(text, part):
    for term in (fold(part), *fold(part).split(), fold(text)[1:3]):
        stored = encoded_message(fold(text), "ann")
        assert (encoded(term) in stored) == (term in fold(text))
        assert stored.isascii()
        if term and term in fold(text):
            assert all(any(gram in stored for gram in group) for group in grams(encoded(term)))


def test_every_character_has_a_code_of_its_own():
    codes = {encoded(chr(number)) for number in range(sys.maxunicode + 1)}
    # Folded text has no capitals; the code of `Y` is that of no other character either.
    assert len(codes) == sys.maxunicode + 1
