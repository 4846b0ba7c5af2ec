"""Searches for messages from the tables, with the meaning of `storage.searching`.

A search compares the newest messages first, one by one: a term that many messages have is found
at once, and no list of all that have it is read. When those are not enough, the trigram index finds
the messages with the terms, if they are few. Else the search goes on comparing.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, Final

import structlog

from bamboo_gateway.storage.index.search_code import encoded, encoded_message, grams, owner_mark
from bamboo_gateway.storage.index.statement import DialectName, Statement
from bamboo_gateway.storage.index.steps import Request, Rows
from bamboo_gateway.storage.reports import SearchQuery
from bamboo_gateway.storage.searching import (
    FoundMessage,
    FoundMessages,
    SearchKey,
    UnsearchableError,
    make_search_cursor,
    read_search_cursor,
    searched_message,
)

logger = structlog.get_logger(__name__)

WALK: Final = 1000
"""How many messages are compared before the index is asked: some milliseconds."""

CANDIDATES_MAX: Final = 3000
"""How many messages the index may find. When there are more, one in a few hundred of the messages
of a large store has the terms, so that comparing finds a page soon."""

WALK_MAX: Final = 200_000
"""How many messages a page compares before it ends without being full: about half a second."""

# Before and behind every message.
_TIME_MAX: Final = 1 << 62
_FIRST: Final = SearchKey(-_TIME_MAX, "", 0)
_LAST: Final = SearchKey(_TIME_MAX, "", 0)


Steps = Generator[Request, Rows, FoundMessages]
KeySteps = Generator[Request, Rows, list[int] | None]


def message_row(
    session_key: int, session_id: str, user_id: str | None, seq: int, body: bytes
) -> dict[str, Any] | None:
    """Return the row of a `message` event by its columns; None when it has no text.

    Raises:
        UnsearchableError: It is not of a shape that searches know.
    """
    message = searched_message(body)
    if message is None:
        return None
    return {
        "session_key": session_key,
        "session_id": session_id,
        "seq": seq,
        "user_id": user_id,
        "role": message.role,
        "created_at": message.created_at,
        "code": encoded_message(message.text, user_id),
    }


class MessageRows:
    """Makes the rows of messages. One that cannot be searched is logged, counted and left out."""

    def __init__(self) -> None:
        self.skipped = 0

    def row(
        self, session_key: int, session_id: str, user_id: str | None, seq: int, body: bytes
    ) -> dict[str, Any] | None:
        """Return the row of a message; None when it has no text, or cannot be searched."""
        try:
            return message_row(session_key, session_id, user_id, seq, body)
        except UnsearchableError as error:
            self.skipped += 1
            logger.warning(
                "message_not_searchable", session_id=session_id, seq=seq, reason=str(error)
            )
            return None


def search_messages(query: SearchQuery, dialect: DialectName) -> Steps:
    """Find messages, newest first.

    Raises:
        InvalidCursor: The cursor cannot be decoded.
    """
    # Imported late, as it imports SQLAlchemy: nothing searches while a gateway starts.
    from bamboo_gateway.storage.index import search_statements as make  # noqa: PLC0415

    search = _Search(query, dialect)
    if search.is_impossible:
        return FoundMessages([], None)
    if query.session_id is not None:
        yield from search.hint(make.hints_statement(make.WALK_HINTS))
        rows = yield search.request(
            make.session_statement(search.shape, dialect), rows=query.limit + 1
        )
        return search.page(map(_found_of, rows))
    found: list[FoundMessage] = []
    walked, step = 0, WALK
    is_few = False
    while not is_few:
        yield from search.hint(make.hints_statement(make.WALK_HINTS))
        rows = yield search.request(
            make.boundary_statement(dialect, by_owner=search.shape.by_owner), skipped=step - 1
        )
        boundary = SearchKey(*rows[0]) if rows else _FIRST
        rows = yield search.request(
            make.walk_statement(search.shape, dialect),
            rows=query.limit + 1 - len(found),
            **_named("boundary", max(boundary, search.lowest)),
        )
        found += map(_found_of, rows)
        walked += step
        if len(found) > query.limit or boundary == _FIRST:
            break
        if walked >= WALK_MAX:
            return FoundMessages(found, make_search_cursor(boundary))
        search.go_behind(boundary)
        if walked == WALK:
            yield from search.hint(make.hints_statement(make.FIND_HINTS))
            rows = yield search.request(
                make.candidates_statement(search.shape, dialect), rows=CANDIDATES_MAX + 1
            )
            is_few = len(rows) <= CANDIDATES_MAX
            found += _visible(rows) if is_few else ()
        step *= 4
    return search.page(found)


def session_keys(terms: Sequence[str], user_id: str | None, dialect: DialectName) -> KeySteps:
    """Find the keys of the sessions with a message that has the terms, archived ones too.

    Returns:
        The keys; None when more than `CANDIDATES_MAX` messages have the terms. The condition
        `search_statements.has_message` is for that.
    """
    from bamboo_gateway.storage.index import search_statements as make  # noqa: PLC0415

    search = _Search(SearchQuery(tuple(terms), user_id=user_id, archived="include"), dialect)
    if search.is_impossible:
        return []
    yield from search.hint(make.hints_statement(make.FIND_HINTS))
    rows = yield search.request(
        make.candidates_statement(search.shape, dialect), rows=CANDIDATES_MAX + 1
    )
    yield from search.hint(make.hints_statement(""))
    if len(rows) > CANDIDATES_MAX:
        return None
    return sorted({row[6] for row in rows if row[5]})


def term_values(terms: Sequence[str]) -> dict[str, str]:
    """Return the values of `search_statements.has_message`."""
    return {f"term{number}": encoded(term) for number, term in enumerate(terms)}


class _Search:
    """The shape of a search's statements, and their values."""

    def __init__(self, query: SearchQuery, dialect: DialectName) -> None:
        from bamboo_gateway.storage.index.search_statements import Shape  # noqa: PLC0415

        codes = [encoded(term) for term in query.terms]
        by_owner = query.user_id is not None
        pairs = tuple(number for number, code in enumerate(codes) if len(code) == 2)
        self.shape = Shape(len(codes), pairs, by_owner, query.role is not None, query.archived)
        self._dialect = dialect
        self._query = query
        before = SearchKey(_bounded(query.created_before, _TIME_MAX), "", 0)
        start = read_search_cursor(query.cursor)
        after = _bounded(query.created_after, -_TIME_MAX)
        # The first place that may be found.
        self.lowest = SearchKey(after + 1, "", 0)
        self._values: dict[str, Any] = {
            "user_id": query.user_id,
            "role": query.role,
            "session_id": query.session_id,
            "created_after": after,
            **term_values(query.terms),
            **_named("before", before if start is None else min(before, start)),
        }
        marks = [owner_mark(query.user_id)] if query.user_id is not None else []
        if dialect == "sqlite":
            self._values["grams"] = _match([*codes, *marks])
        else:
            self._values |= {f"gram{n}": _pattern(code) for n, code in enumerate(codes)}
            self._values["owner_gram"] = _pattern(marks[0]) if marks else None

    @property
    def is_impossible(self) -> bool:
        """Whether no message can match: ids are never like that, and databases may refuse it."""
        ids = (self._query.user_id, self._query.session_id)
        return any(text and not (text.isascii() and text.isprintable()) for text in ids)

    def request(self, statement: Statement, **values: Any) -> Request:
        """Return a request with the search's values and these."""
        return Request(statement.text, statement.with_values({**self._values, **values}))

    def hint(self, statement: Statement) -> Iterator[Request]:
        """Tell PostgreSQL's planner how the next statements are executed."""
        if self._dialect == "postgresql":
            yield Request(statement.text, {})

    def go_behind(self, key: SearchKey) -> None:
        """Go on behind a message."""
        self._values.update(_named("before", key))

    def page(self, found: Iterable[FoundMessage]) -> FoundMessages:
        """Return the page of what was found."""
        ordered = sorted(found, key=lambda one: one.key, reverse=True)
        shown = ordered[: self._query.limit]
        has_more = len(ordered) > len(shown)
        return FoundMessages(shown, make_search_cursor(shown[-1].key) if has_more else None)


def _bounded(time: int | None, default: int) -> int:
    return default if time is None else max(-_TIME_MAX, min(time, _TIME_MAX))


def _named(name: str, key: SearchKey) -> dict[str, Any]:
    return {f"{name}_at": key.created_at, f"{name}_id": key.session_id, f"{name}_seq": key.seq}


def _match(codes: Iterable[str]) -> str:
    """Return the query of FTS5: a trigram of each group."""
    groups = dict.fromkeys(group for code in codes for group in grams(code))
    quoted = ([f'"{gram}"' for gram in group] for group in groups)
    return " AND ".join(group[0] if len(group) == 1 else _either(group) for group in quoted)


def _either(texts: Sequence[str]) -> str:
    return f"({' OR '.join(texts)})"


def _pattern(code: str) -> str:
    """Return the pattern that pg_trgm looks for: of LIKE, or for two letters of a regular one."""
    if len(code) == 2:
        [group] = grams(code)
        return f"{code}[{''.join(gram[2] for gram in group)}]"
    [[gram], *others] = grams(code)
    return f"%{code if others else gram}%"


def _found_of(row: Sequence[Any]) -> FoundMessage:
    session_id, epoch, title, seq, created_at = row[:5]
    key = SearchKey(created_at, session_id, seq)
    return FoundMessage(key, epoch, bytes(title).decode() or None)


def _visible(rows: Rows) -> Iterator[FoundMessage]:
    return (_found_of(row) for row in rows if row[5])
