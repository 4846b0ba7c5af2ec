"""Lists of sessions from the tables, with the meaning of `storage.listing.list_page`."""

from collections.abc import Generator
from typing import Any

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.sessions import Presence, SessionHead
from bamboo_gateway.storage.index.plan import ListPlan
from bamboo_gateway.storage.index.search import session_keys
from bamboo_gateway.storage.index.statement import DialectName, Statement
from bamboo_gateway.storage.index.steps import Request, Rows, run_steps
from bamboo_gateway.storage.listing import make_page
from bamboo_gateway.storage.reports import SessionPage, SessionQuery

__all__ = ["Request", "Rows", "Steps", "list_sessions", "run_steps"]

Steps = Generator[Request, Rows, SessionPage]


def list_sessions(query: SessionQuery, presence: Presence, dialect: DialectName) -> Steps:
    """List sessions, in up to three statements: what leads to them, the page, the total.

    With terms, the search index looks first for the sessions that have them.

    Raises:
        InvalidCursor: The cursor cannot be decoded, or belongs to another order.
    """
    # Imported late, as it imports SQLAlchemy: nothing lists sessions while a gateway starts.
    from bamboo_gateway.storage.index import list_statements as make  # noqa: PLC0415

    found = None
    if query.terms:
        found = yield from session_keys(query.terms, query.user_id, dialect)
    plan = ListPlan(query, presence, found)
    if plan.is_impossible:
        return make_page([], query, 0 if query.count else None)
    values = plan.values
    if dialect == "sqlite":
        values = {name: _for_sqlite(value) for name, value in values.items()}
    else:
        values = {name: _for_postgresql(value) for name, value in values.items()}

    def request(statement: Statement) -> Request:
        return Request(statement.text, statement.with_values(values))

    counts: dict[str, int] = {}
    if plan.leaders:
        [row] = yield request(make.counts_statement(plan.leaders, dialect))
        counts = dict(zip(plan.leaders, row, strict=True))
    rows = yield request(make.page_statement(plan.page(counts), dialect))
    heads = [_head_of(*row) for row in rows]
    total = None
    if query.count:
        if len(heads) <= query.limit and plan.start is None and (heads or not query.offset):
            total = (query.offset or 0) + len(heads)
        else:
            [[total]] = yield request(make.total_statement(plan.total(counts), dialect))
    return make_page(heads, query, total)


def _head_of(head: bytes, seq: int, activity_ms: int) -> SessionHead:
    found = SessionHead.of(codec.decode(head))
    found.seq = seq
    found.last_activity_at = max(found.last_activity_at, activity_ms)
    return found


def _for_sqlite(value: Any) -> Any:
    # The ids of presence: one JSON array.
    if isinstance(value, int | str | bytes | None):
        return value
    return codec.encode(list(value)).decode()


def _for_postgresql(value: Any) -> Any:
    return value if isinstance(value, int | str | bytes | None) else list(value)
