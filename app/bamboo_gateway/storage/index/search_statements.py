"""The statements of searches, made of their shapes and compiled once for each.

The planner of PostgreSQL expects every part of a text about as often as any other. So each
statement can be executed in one way only: `HINTS` has the settings that leave it, for the
transaction.
"""

from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    Text,
    and_,
    bindparam,
    column,
    exists,
    func,
    literal_column,
    select,
    table,
    text,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite

from bamboo_gateway.storage.index.rows import HEAD_STATES
from bamboo_gateway.storage.index.search_tables import search_messages as messages
from bamboo_gateway.storage.index.statement import DialectName, Statement, compiled
from bamboo_gateway.storage.index.tables import IdText, sessions

Archived = Literal["exclude", "only", "include"]


class Shape(NamedTuple):
    """What the text of a statement depends on."""

    terms: int
    # Of the terms, those of two letters (`search_code.grams`).
    pairs: tuple[int, ...]
    by_owner: bool
    by_role: bool
    archived: Archived


# Rows in the order of an index, until there are enough.
WALK_HINTS: Final = "enable_bitmapscan enable_seqscan enable_hashjoin enable_mergejoin jit"
# Rows that the trigram index finds, in any order.
FIND_HINTS: Final = "enable_indexscan enable_indexonlyscan enable_seqscan jit"
_ALL_HINTS: Final = tuple(sorted({*WALK_HINTS.split(), *FIND_HINTS.split()}))

_KEY = (messages.c.created_at, messages.c.session_id, messages.c.seq)
_NEWEST_FIRST = tuple(part.desc() for part in _KEY)


@lru_cache
def hints_statement(hints: str) -> Statement:
    """Set, for this transaction, what PostgreSQL's planner may use."""
    off = hints.split()
    calls = (
        f"set_config('{name}', '{'off' if name in off else 'on'}', true)" for name in _ALL_HINTS
    )
    return Statement("SELECT " + ", ".join(calls), {})


@lru_cache
def boundary_statement(dialect: DialectName, *, by_owner: bool) -> Statement:
    """Find the message behind `skipped` others, in the order of searches."""
    query = (
        select(*_KEY)
        .where(*_scope(by_owner=by_owner))
        .order_by(*_NEWEST_FIRST)
        .limit(1)
        .offset(bindparam("skipped", type_=BigInteger))
    )
    return compiled(query, dialect)


@lru_cache(256)
def walk_statement(shape: Shape, dialect: DialectName) -> Statement:
    """Compare the messages from one place to another one by one, the newest first."""
    query = (
        _found()
        .where(
            # The one lower bound: SQLite's index takes the first that it meets.
            tuple_(*_KEY) >= _tuple("boundary"),
            *_behind(by_owner=shape.by_owner),
            *_admitted(shape),
            *_compared(shape, dialect),
        )
        .order_by(*_NEWEST_FIRST)
        .limit(bindparam("rows", type_=BigInteger))
    )
    return compiled(query, dialect)


@lru_cache(256)
def session_statement(shape: Shape, dialect: DialectName) -> Statement:
    """Compare all messages of one session."""
    # The index in the order of a search would be the wrong one.
    found = (
        _found()
        .where(
            sessions.c.id == bindparam("session_id", type_=IdText),
            *_scope(by_owner=shape.by_owner),
            *_admitted(shape),
            *_compared(shape, dialect),
        )
        .cte("found")
        .prefix_with("MATERIALIZED")
    )
    order = (found.c.created_at.desc(), found.c.seq.desc())
    query = select(found).order_by(*order).limit(bindparam("rows", type_=BigInteger))
    return compiled(query, dialect)


@lru_cache(256)
def candidates_statement(shape: Shape, dialect: DialectName) -> Statement:
    """Find messages with the terms through the trigram index, in any order.

    The rows also have whether the message is visible, since that filter comes behind the limit.
    """
    found = (
        select(messages.c.session_key, *_KEY)
        .where(
            *_scope(by_owner=shape.by_owner),
            *_role(shape),
            *_indexed(shape, dialect),
            *_compared(shape, dialect),
        )
        .limit(bindparam("rows", type_=BigInteger))
        .cte("found")
        .prefix_with("MATERIALIZED")
    )
    query = select(
        sessions.c.id,
        sessions.c.epoch,
        sessions.c.title_key,
        found.c.seq,
        found.c.created_at,
        and_(found.c.seq <= sessions.c.seq, *_archived(shape)).label("is_visible"),
        found.c.session_key,
    ).select_from(found.outerjoin(sessions, sessions.c.key == found.c.session_key))
    return compiled(query, dialect)


@lru_cache
def add_statement(dialect: DialectName) -> Statement:
    """Add the row of a message (`search.message_row`); one that is there already stays."""
    names = [name for name in messages.c.keys() if name != "number"]  # noqa: SIM118 - columns
    # Both dialects have the same clause, and each an insert of its own.
    insert = postgresql.insert(messages) if dialect == "postgresql" else sqlite.insert(messages)
    row = insert.values({name: bindparam(name) for name in names}).inline()
    return compiled(row.on_conflict_do_nothing(index_elements=["session_key", "seq"]), dialect)


@lru_cache
def delete_statement(dialect: DialectName) -> Statement:
    """Delete up to `rows` messages of a session, by key, with seqs up to `upto`.

    For all messages of a deleted session, and those that a merge replaced: what is no part of the
    conversation any more is not found. A session of 100,000 messages takes seconds, so whoever has
    other work waiting deletes in portions.
    """
    numbers = (
        select(messages.c.number)
        .where(
            messages.c.session_key == bindparam("session_key", type_=BigInteger),
            messages.c.seq <= bindparam("upto", type_=BigInteger),
        )
        .limit(bindparam("rows", type_=BigInteger))
    )
    return compiled(messages.delete().where(messages.c.number.in_(numbers)), dialect)


@lru_cache
def own_statement(dialect: DialectName) -> Statement:
    """Give the messages of a session another owner; `mark` is `search_code.owner_mark`."""
    position = func.instr if dialect == "sqlite" else func.strpos
    mark: ColumnElement[str] = literal_column("'W'")
    code = func.substr(
        messages.c.code,
        literal_column("1"),
        position(messages.c.code.concat(mark), mark) - literal_column("1"),
    )
    user_id = bindparam("user_id", type_=IdText)
    changed = (
        messages.update()
        .where(
            messages.c.session_key == bindparam("session_key", type_=BigInteger),
            messages.c.user_id.is_distinct_from(user_id),
        )
        .values(user_id=user_id, code=code.concat(bindparam("mark", type_=Text)))
    )
    return compiled(changed, dialect)


def has_message(terms: int, dialect: DialectName) -> ColumnElement[bool]:
    """Return the condition that a session has a message that is found: it looks at each one."""
    shape = Shape(terms, (), by_owner=False, by_role=False, archived="include")
    return exists().where(
        messages.c.session_key == sessions.c.key,
        messages.c.seq <= sessions.c.seq,
        *_role(shape),
        *_compared(shape, dialect),
    )


def _found() -> Select[Any]:
    return select(
        sessions.c.id, sessions.c.epoch, sessions.c.title_key, messages.c.seq, messages.c.created_at
    ).select_from(messages.join(sessions, sessions.c.key == messages.c.session_key))


def _tuple(name: str) -> Any:
    """Return three parameters that are compared with the order of searches."""
    return tuple_(
        bindparam(f"{name}_at", type_=BigInteger),
        bindparam(f"{name}_id", type_=IdText),
        bindparam(f"{name}_seq", type_=BigInteger),
    )


def _scope(*, by_owner: bool) -> list[ColumnElement[bool]]:
    """Return the conditions that an index leads to: the owner, the times, behind the cursor."""
    after: ColumnElement[bool] = messages.c.created_at > bindparam(
        "created_after", type_=BigInteger
    )
    return [after, *_behind(by_owner=by_owner)]


def _behind(*, by_owner: bool) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [tuple_(*_KEY) < _tuple("before")]
    if by_owner:
        conditions.append(messages.c.user_id == bindparam("user_id", type_=IdText))
    return conditions


def _role(shape: Shape) -> list[ColumnElement[bool]]:
    if shape.by_role:
        return [messages.c.role == bindparam("role", type_=IdText)]
    return [messages.c.role != literal_column("'tool'")]


def _archived(shape: Shape) -> list[ColumnElement[bool]]:
    archived: ColumnElement[int] = literal_column(str(HEAD_STATES["archived"]))
    match shape.archived:
        case "include":
            return []
        case "only":
            return [sessions.c.head_state == archived]
        case "exclude":
            return [sessions.c.head_state != archived]


def _admitted(shape: Shape) -> list[ColumnElement[bool]]:
    return [messages.c.seq <= sessions.c.seq, *_role(shape), *_archived(shape)]


def _compared(shape: Shape, dialect: DialectName) -> list[ColumnElement[bool]]:
    """Return the conditions that decide: each term is in the text."""
    position = func.instr if dialect == "sqlite" else func.strpos
    return [
        position(messages.c.code, bindparam(f"term{number}", type_=Text)) > literal_column("0")
        for number in range(shape.terms)
    ]


def _indexed(shape: Shape, dialect: DialectName) -> list[ColumnElement[bool]]:
    """Return the conditions that the trigram index answers."""
    if dialect == "sqlite":
        index = table("search_grams", column("rowid"))
        # The plus: the index leads to the rows, and is never looked at for each row.
        return [
            messages.c.number == literal_column("+search_grams.rowid"),
            index.c.rowid.is_not(None),
            text("search_grams MATCH :grams").bindparams(bindparam("grams", type_=Text)),  # type: ignore[list-item]
        ]
    conditions: list[ColumnElement[bool]] = [
        messages.c.code.regexp_match(bindparam(f"gram{number}", type_=Text))
        if number in shape.pairs
        else messages.c.code.like(bindparam(f"gram{number}", type_=Text))
        for number in range(shape.terms)
    ]
    if shape.by_owner:
        conditions.append(messages.c.code.like(bindparam("owner_gram", type_=Text)))
    return conditions
