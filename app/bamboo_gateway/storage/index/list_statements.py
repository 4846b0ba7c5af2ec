"""The statements of lists, made of their shapes. They are compiled once for each shape.

The plan chooses the index: a database's own choice depends on statistics that it may not have. A
scan names its index for SQLite. In a branch with a leader all other columns are hidden from indexes
in an expression (`+ 0`, `|| ''`).
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    Text,
    and_,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    tuple_,
    type_coerce,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import TypeEngine

from bamboo_gateway.storage.index.plan import Branch, Condition, Leader, Shape
from bamboo_gateway.storage.index.rows import HEAD_STATES
from bamboo_gateway.storage.index.search_statements import has_message
from bamboo_gateway.storage.index.statement import DialectName, Statement, compiled
from bamboo_gateway.storage.index.tables import (
    SORT_COLUMNS,
    session_metadata,
    session_shares,
    sessions,
)

# Lists have few shapes; a client that tries all combinations of filters only makes them slower.
_SHAPES_MAX = 512

# The filters by columns that the indexes of scans have.
_SCANNED = {"user_id", "id_prefix"}

_Sql = ColumnElement[Any]
_TEXT = Text()
_c = sessions.c


@lru_cache(_SHAPES_MAX)
def page_statement(shape: Shape, dialect: DialectName) -> Statement:
    """Return the statement of a page: `head`, `seq` and `last_activity_at` of its sessions."""
    builder = _Builder(shape, dialect)
    order = _order(shape)
    names = [f"sort_{number}" for number in range(len(order))]
    branches = []
    for branch in shape.branches:
        columns = [column.label(name) for column, name in zip(order, names, strict=True)]
        query = select(_c.key.label("key"), *columns).where(*builder.conditions(branch))
        if shape.is_continued:
            query = query.where(*builder.behind_cursor(branch))
        sorted_by = order if branch.leader is None else [_unindexed(column) for column in order]
        query = _hinted(query, builder.index_of(branch))
        query = query.order_by(*(builder.directed(column) for column in sorted_by))
        branches.append(query.limit(bindparam("rows_to")).subquery())
    found = union_all(*(select(branch) for branch in branches)).subquery("found")
    by_order = [builder.directed(found.c[name]) for name in names]
    page = select(found).order_by(*by_order).limit(bindparam("rows")).offset(bindparam("skipped"))
    shown = page.subquery("page")
    statement = (
        select(_c.head, _c.seq, _c.last_activity_at)
        .select_from(shown.join(sessions, _c.key == shown.c.key))
        .order_by(*(builder.directed(shown.c[name]) for name in names))
    )
    return compiled(statement, dialect)


@lru_cache(_SHAPES_MAX)
def total_statement(shape: Shape, dialect: DialectName) -> Statement:
    """Return the statement that counts the sessions of all branches, which have none in common."""
    builder = _Builder(shape, dialect)
    total: _Sql = literal_column("0")
    for branch in shape.branches:
        count = select(func.count()).select_from(sessions).where(*builder.conditions(branch))
        count = _hinted(count, builder.index_of(branch, for_total=True))
        total = total + count.scalar_subquery()
    return compiled(select(total), dialect)


@lru_cache(_SHAPES_MAX)
def counts_statement(leaders: tuple[Leader, ...], dialect: DialectName) -> Statement:
    """Return the statement that counts to how many sessions each filter leads, up to a limit."""
    builder = _Builder(Shape((), (), "created_at", descending=False, is_continued=False), dialect)
    counts = []
    for leader in leaders:
        led: Select[Any] = (
            select(literal_column("1")).where(*builder.leading(leader)).limit(bindparam("led"))
        )
        counts.append(select(func.count()).select_from(led.subquery()).scalar_subquery())
    return compiled(select(*counts), dialect)


class _Builder:
    """Makes the conditions of one shape's branches."""

    def __init__(self, shape: Shape, dialect: DialectName) -> None:
        self._shape = shape
        self._dialect = dialect

    def conditions(self, branch: Branch) -> list[_Sql]:
        """Return the conditions of a branch: its leader's, its groups', those of all filters."""
        is_scan = branch.leader is None
        found = [] if branch.leader is None else self.leading(branch.leader)
        groups = [
            and_(
                (_c.head_state if is_scan else _unindexed(_c.head_state)) == HEAD_STATES[group],
                *(self._condition(name) for name in conditions),
            )
            for group, conditions in branch.groups
        ]
        found.append(or_(*groups))
        for name in self._shape.filters:
            if name != branch.leader:
                found += self._filter(name, (lambda column: column) if is_scan else _unindexed)
        return found

    def index_of(self, branch: Branch, *, for_total: bool = False) -> str | None:
        """Name the index of a branch, for SQLite, which knows too little to choose it."""
        column = SORT_COLUMNS[self._shape.sort_by].name
        filters = self._shape.filters
        if branch.leader == "title_contains" or (for_total and filters == ("title_contains",)):
            return "ix_sessions_title_folded_head_state"
        if branch.leader is not None or (for_total and not _SCANNED.issuperset(filters)):
            return None
        owner = "user_id_" if "user_id" in filters else ""
        return f"ix_sessions_{owner}head_state_{column}_id_expires_slot"

    def leading(self, leader: Leader) -> list[_Sql]:
        """Return the conditions that an index is used for."""
        match leader:
            case "watched" | "disconnected":
                return [self._is_in(_c.id, leader)]
            case "shared_with":
                return [_c.key.in_(_shared())]
            case "found":
                return [self._is_in(_c.key, "found", BigInteger())]
            case _ if leader.startswith("metadata_"):
                return [_c.key.in_(_with_pair(leader))]
            case "title_contains":
                return [self._has_title()]
            case "created" | "active_after":
                # Their indexes begin with the group.
                by_group = _c.head_state.in_(literal_column(str(n)) for n in HEAD_STATES.values())
                return [by_group, *_plain_filter(leader, lambda column: column)]
            case _:
                return _plain_filter(leader, lambda column: column)

    def _filter(self, name: str, of: Callable[[_Sql], _Sql]) -> list[_Sql]:
        """Return the conditions of a filter that does not lead."""
        match name:
            case "title_contains":
                return [self._has_title()]
            case "shared_with":
                return [_shared(key=_c.key).exists()]
            case "found":
                return [self._is_in(_unindexed(_c.key), "found", BigInteger())]
            case _ if name.startswith("metadata_"):
                return [_with_pair(name, key=_c.key).exists()]
            case _ if name.startswith("terms_"):
                return [has_message(int(name.removeprefix("terms_")), self._dialect)]
            case _:
                return _plain_filter(name, of)

    def _has_title(self) -> _Sql:
        part = bindparam("title_contains", type_=_c.title_folded.type)
        if self._dialect == "sqlite":
            return func.instr(_c.title_folded, part) > 0
        # As a function: the grammar of `position(… in …)` is not one of Core.
        return cast("_Sql", func.pg_catalog.position(_c.title_folded, part)) > 0

    def _is_in(self, column: _Sql, name: str, kind: TypeEngine[Any] = _TEXT) -> _Sql:
        """Return whether a column is in a list, which is one parameter."""
        if self._dialect == "sqlite":
            values = func.json_each(bindparam(name, type_=Text())).table_valued("value")
            return column.in_(select(values.c.value))
        return column == func.any(bindparam(name, type_=ARRAY(kind)))

    def _condition(self, condition: Condition) -> _Sql:
        slot: _Sql = bindparam("now_slot")
        now: _Sql = bindparam("now")
        match condition:
            case "active":
                return _c.has_active
            case "inactive":
                return ~_c.has_active
            case "active_or_watched":
                return or_(_c.has_active, self._is_in(_c.id, "watched"))
            case "watched":
                return self._is_in(_c.id, "watched")
            case "unwatched":
                return ~self._is_in(_c.id, "watched")
            case "disconnected":
                return self._is_in(_c.id, "disconnected")
            case "absent":
                return ~self._is_in(_c.id, "present")
            case "watched_or_unexpired":
                return or_(self._is_in(_c.id, "watched"), self._condition("unexpired"))
            # The slots are in the index that a scan uses; then most rows are not looked at.
            case "expired":
                return and_(
                    _c.expires_slot <= slot, or_(_c.expires_slot < slot, _c.expires_at <= now)
                )
            case "unexpired":
                return and_(
                    _c.expires_slot >= slot, or_(_c.expires_slot > slot, _c.expires_at > now)
                )

    def behind_cursor(self, branch: Branch) -> list[_Sql]:
        """Return the conditions that select what follows the cursor."""
        of_index = (lambda column: column) if branch.leader is None else _unindexed
        columns = _order(self._shape)
        names = ["from_slot", "from_value", "from_id"][-len(columns) :]
        place = [
            bindparam(name, type_=column.type) for name, column in zip(names, columns, strict=True)
        ]
        left = tuple_(*(of_index(column) for column in columns))
        first = of_index(columns[0])
        if self._shape.descending:
            return [first <= place[0], left < tuple_(*place)]
        return [first >= place[0], left > tuple_(*place)]

    def directed(self, column: _Sql) -> _Sql:
        """Return a column with the direction of the list."""
        return column.desc() if self._shape.descending else column.asc()


def _hinted(query: Select[Any], index: str | None) -> Select[Any]:
    return query if index is None else query.with_hint(sessions, f"INDEXED BY {index}", "sqlite")


def _order(shape: Shape) -> Sequence[_Sql]:
    """Return the columns that a list is sorted by."""
    first = SORT_COLUMNS[shape.sort_by]
    if first is _c.activity_slot:
        return [first, _c.last_activity_at, _c.id]
    return [first, _c.id]


def _unindexed(column: _Sql) -> _Sql:
    """Return an expression with the column's value that no index serves."""
    if isinstance(column.type, Text):
        return type_coerce(column + literal_column("''", Text()), column.type)
    if column.type.python_type is int:
        return type_coerce(column + literal_column("0", column.type), column.type)
    return column


def _shared(key: _Sql | None = None) -> Select[Any]:
    """Select the keys of the sessions that are shared with the user, or only the one given."""
    shares = session_shares.c
    query = select(shares.key).where(
        shares.user_id == bindparam("shared_with"),
        or_(shares.expires_at.is_(None), shares.expires_at > bindparam("shared_at")),
    )
    return query if key is None else query.where(shares.key == key)


def _with_pair(name: str, key: _Sql | None = None) -> Select[Any]:
    """Select the keys of the sessions with a pair of metadata, or only the one given."""
    pairs = session_metadata.c
    query = select(pairs.key).where(pairs.pair == bindparam(name, type_=pairs.pair.type))
    return query if key is None else query.where(pairs.key == key)


def _plain_filter(name: str, of: Callable[[_Sql], _Sql]) -> list[_Sql]:
    """Return the conditions of a filter by columns, each of which `of` may hide from indexes."""
    match name:
        case "id_prefix":
            session_id = of(_c.id)
            return [session_id >= bindparam("id_from"), session_id < bindparam("id_to")]
        case "root_id":
            wanted: _Sql = bindparam("root_id")
            return [or_(of(_c.root_id) == wanted, of(_c.id) == wanted)]
        case "created":
            created = of(_c.created_at)
            return [
                created > bindparam("created_after"),
                created < bindparam("created_before"),
            ]
        case "active_after":
            after: _Sql = bindparam("active_after_slot")
            return [
                of(_c.activity_slot) >= after,
                or_(_c.activity_slot > after, _c.last_activity_at > bindparam("active_after")),
            ]
        case _:
            return [of(_c[name]) == bindparam(name)]
