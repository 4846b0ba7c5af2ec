"""What is read of sessions: each answer is one statement, so it sees one state of the database.

Only packed sessions take several, in one snapshot. A session is named by id and epoch: a statement
that returns no row at all means that there is none.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import (
    ColumnElement,
    FromClause,
    LargeBinary,
    Select,
    Table,
    and_,
    bindparam,
    func,
    select,
    true,
)

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.errors import Conflict, StorageFailed
from bamboo_gateway.domain.sessions import Presence, SessionHead
from bamboo_gateway.storage.commits import Found, MarkKind, Record
from bamboo_gateway.storage.index.listing import list_sessions, run_steps
from bamboo_gateway.storage.index.rows import HEAD_STATES
from bamboo_gateway.storage.index.statement import DialectName
from bamboo_gateway.storage.index.tables import sessions
from bamboo_gateway.storage.reports import SessionPage, SessionQuery, StoredSize, StoreUsage
from bamboo_gateway.storage.sql.database import Connection, Database
from bamboo_gateway.storage.sql.packing import records_in
from bamboo_gateway.storage.sql.tables import MARK_KINDS, archives, events, marks, notes, usage

NO_END = (1 << 62) - 1
"""The seq that is behind every other one."""

# How many keys one statement looks for.
_KEYS = 64
# Between two looks at a session it may be packed or unpacked; more often than this it is not.
_LOOKS_MAX = 8

_session = and_(sessions.c.id == bindparam("id"), sessions.c.epoch == bindparam("epoch"))

HEAD = select(sessions.c.epoch, sessions.c.seq, sessions.c.last_activity_at, sessions.c.head)
"""The columns of `head_of`."""

_LOAD = HEAD.add_columns(sessions.c.version).where(sessions.c.id == bindparam("id"))

_PIECES = (
    select(sessions.c.is_packed, archives.c.last_seq, archives.c.body)
    .select_from(
        sessions.outerjoin(
            archives,
            and_(
                archives.c.session_key == sessions.c.key,
                archives.c.last_seq > bindparam("after"),
                sessions.c.is_packed.is_(True),
            ),
        )
    )
    .where(_session)
    .order_by(archives.c.last_seq)
)


class Search(NamedTuple):
    """The arguments of `SessionStore.find`, with `before` as a number."""

    kind: MarkKind
    key: str | None = None
    after: int = 0
    before: int = NO_END
    limit: int = 1000
    max_bytes: int = 0
    reverse: bool = False


def _marks_in_range(*, by_key: bool) -> Any:
    return and_(
        marks.c.session_key == sessions.c.key,
        marks.c.kind == bindparam("kind"),
        marks.c.seq > bindparam("after"),
        marks.c.seq < bindparam("before"),
        marks.c.seq <= sessions.c.seq,
        *([marks.c.key == bindparam("key", type_=LargeBinary)] if by_key else []),
    )


def _notes_in_range(*, by_key: bool) -> Any:
    return and_(
        notes.c.session_key == sessions.c.key,
        notes.c.seq > bindparam("after"),
        notes.c.seq < bindparam("before"),
        notes.c.version <= sessions.c.version,
        *([notes.c.key == bindparam("key", type_=LargeBinary)] if by_key else []),
    )


def _first_of_session(
    dialect: DialectName,
    table: Table,
    within: ColumnElement[bool],
    order: Sequence[str],
    *,
    reverse: bool = False,
) -> tuple[FromClause, FromClause, list[ColumnElement[Any]]]:
    """Join the session with the first `limit` rows of a table that are within it.

    PostgreSQL sorts all rows within it, unless they are limited before the join. SQLite, which has
    no such join (LATERAL), reads them in their order by itself.

    Returns:
        The join, the rows in it, and their order.
    """

    def ordered(rows: FromClause) -> list[ColumnElement[Any]]:
        return [rows.c[name].desc() if reverse else rows.c[name] for name in order]

    if dialect == "sqlite":
        return sessions.outerjoin(table, within), table, ordered(table)
    query = select(table).where(within).correlate(sessions).order_by(*ordered(table))
    rows = query.limit(bindparam("limit")).lateral("rows")
    return sessions.outerjoin(rows, true()), rows, ordered(rows)


@cache
def _events_after(dialect: DialectName) -> Select[Any]:
    within = and_(
        events.c.session_key == sessions.c.key,
        events.c.seq > bindparam("after"),
        events.c.seq <= sessions.c.seq,
        sessions.c.is_packed.is_(False),
    )
    joined, rows, order = _first_of_session(dialect, events, within, ("seq",))
    query = select(sessions.c.is_packed, rows.c.seq, rows.c.body).select_from(joined)
    return query.where(_session).order_by(*order).limit(bindparam("limit"))


@cache
def _find_events(dialect: DialectName, *, by_key: bool, reverse: bool) -> Select[Any]:
    within = _marks_in_range(by_key=by_key)
    joined, rows, order = _first_of_session(dialect, marks, within, ("seq",), reverse=reverse)
    body = and_(
        events.c.session_key == rows.c.session_key,
        events.c.seq == rows.c.seq,
        sessions.c.is_packed.is_(False),
    )
    query = select(sessions.c.is_packed, rows.c.seq, events.c.body)
    query = query.select_from(joined.outerjoin(events, body)).where(_session)
    return query.order_by(*order).limit(bindparam("limit"))


@cache
def _find_notes(dialect: DialectName, *, by_key: bool, reverse: bool) -> Select[Any]:
    names = ("seq", "version", "number")
    within = _notes_in_range(by_key=by_key)
    joined, rows, order = _first_of_session(dialect, notes, within, names, reverse=reverse)
    query = select(sessions.c.is_packed, rows.c.seq, rows.c.body).select_from(joined)
    return query.where(_session).order_by(*order).limit(bindparam("limit"))


_COUNT_MARKS = (
    select(func.count(marks.c.seq))
    .select_from(sessions.outerjoin(marks, _marks_in_range(by_key=False)))
    .where(_session)
    .group_by(sessions.c.key)
)
_COUNT_NOTES = (
    select(func.count(notes.c.seq))
    .select_from(sessions.outerjoin(notes, _notes_in_range(by_key=False)))
    .where(_session)
    .group_by(sessions.c.key)
)

_keys = [bindparam(f"key{number}", type_=LargeBinary) for number in range(_KEYS)]
_MARK_KEYS = (
    select(marks.c.key)
    .select_from(
        sessions.outerjoin(
            marks,
            and_(
                marks.c.session_key == sessions.c.key,
                marks.c.kind == bindparam("kind"),
                marks.c.key.in_(_keys),
                marks.c.seq <= sessions.c.seq,
            ),
        )
    )
    .where(_session)
    .distinct()
)
_NOTE_KEYS = (
    select(notes.c.key)
    .select_from(
        sessions.outerjoin(
            notes,
            and_(
                notes.c.session_key == sessions.c.key,
                notes.c.key.in_(_keys),
                notes.c.version <= sessions.c.version,
            ),
        )
    )
    .where(_session)
    .distinct()
)

_SIZE = select(sessions.c.stored_bytes, sessions.c.log_bytes).where(
    sessions.c.id == bindparam("id")
)
# How many sessions one statement looks for: most pages of a list have no more.
_SIZES = 50
_SIZES_OF = select(sessions.c.id, sessions.c.stored_bytes, sessions.c.log_bytes).where(
    sessions.c.id.in_([bindparam(f"id{number}") for number in range(_SIZES)])
)
_DELTA_BYTES = select(sessions.c.delta_bytes).where(sessions.c.id == bindparam("id"))
_HOLDING_DELTAS = select(sessions.c.id, sessions.c.last_activity_at).where(
    sessions.c.delta_bytes >= bindparam("bytes_min"), sessions.c.is_packed.is_(False)
)
_UNPACKED_ARCHIVES = (
    select(sessions.c.id)
    .where(sessions.c.head_state == HEAD_STATES["archived"], sessions.c.is_packed.is_(False))
    .order_by(sessions.c.id)
)
_UNFINISHED = (
    select(sessions.c.id)
    .where(sessions.c.has_active.is_(True) | sessions.c.has_queue.is_(True))
    .order_by(sessions.c.id)
)
_USAGE = select(func.sum(usage.c.sessions), func.sum(usage.c.stored_bytes)).where(
    usage.c.scope == bindparam("scope", type_=LargeBinary)
)
_PACKED_BYTES = select(func.sum(sessions.c.stored_bytes)).where(sessions.c.is_packed.is_(True))

T = TypeVar("T")


def head_of(epoch: int, seq: int, activity_ms: int, body: bytes) -> SessionHead:
    """Read a head: the stored one, with what has moved since."""
    head = SessionHead.of(codec.decode(body))
    head.epoch = epoch
    head.seq = seq
    head.last_activity_at = activity_ms
    return head


def scope_of(user_id: str | None) -> bytes:
    """Return the `usage.scope` of a user, or of all."""
    return b"" if user_id is None else b"u" + user_id.encode()


class Reads:
    """The reads of a store. All of them block."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self, session_id: str) -> SessionHead | None:
        """Read a head, as `SessionStore.load`."""
        for *row, version in self._rows(_LOAD, {"id": session_id}):
            head = head_of(*row)
            if self._database.has_replicas:
                head.version = version
            return head
        return None

    def query(self, query: SessionQuery, presence: Presence) -> SessionPage:
        """List sessions, as `SessionStore.query`."""
        # Several statements: between them sessions may come and go, so they see one state.
        with self._database.reading(snapshot=True) as connection:
            return run_steps(
                list_sessions(query, presence, self._database.dialect),
                lambda request: connection.execute(request.text, request.values),
            )

    def read(
        self, session_id: str, epoch: int, after: int, limit: int, max_bytes: int
    ) -> list[Record]:
        """Read events, as `SessionStore.read`."""
        names = {"id": session_id, "epoch": epoch, "after": after}
        statement = _events_after(self._database.dialect)

        def plain() -> list[Record] | None:
            with self._database.reading() as connection:
                rows = connection.each(statement, names | {"limit": limit})
                return _taken(_found_in(rows), limit, max_bytes)

        def packed() -> list[Record] | None:
            with self._database.reading() as connection:
                rows = connection.each(_PIECES, names)
                bodies = _bodies_in(rows)
                if bodies is None:
                    return None
                with _damage_is_said():
                    return _taken(records_in(bodies, after), limit, max_bytes)

        found = _first_of(plain, packed)
        return list(found)

    def find(self, session_id: str, epoch: int, search: Search) -> Found:
        """Find marked entries, as `SessionStore.find`."""
        names: dict[str, Any] = {"id": session_id, "epoch": epoch}
        names |= {"after": search.after, "before": search.before, "limit": search.limit + 1}
        if search.key is not None:
            names["key"] = search.key.encode()
        dialect, by_key = self._database.dialect, search.key is not None
        if search.kind == "note":
            statement = _find_notes(dialect, by_key=by_key, reverse=search.reverse)
            with self._database.reading() as connection:
                rows = connection.each(statement, names)
                return _found(
                    (Record(seq, body) for _, seq, body in _existing(rows) if seq is not None),
                    search,
                )
        names["kind"] = MARK_KINDS[search.kind]
        statement = _find_events(dialect, by_key=by_key, reverse=search.reverse)

        def plain() -> Found | None:
            with self._database.reading() as connection:
                records = _found_in(connection.each(statement, names))
                return None if records is None else _found(records, search)

        def packed() -> Found | None:
            with self._database.reading(snapshot=True) as connection:
                rows = list(_existing(connection.each(statement, names)))
                if not rows[0][0]:
                    return None
                seqs = [seq for _, seq, _ in rows if seq is not None]
                with _damage_is_said():
                    return _found(_packed_events(connection, session_id, epoch, seqs), search)

        return _first_of(plain, packed)

    def count_marks(self, session_id: str, epoch: int, search: Search) -> int:
        """Count marked entries, as `SessionStore.count_marks`."""
        names: dict[str, Any] = {"id": session_id, "epoch": epoch}
        names |= {"after": search.after, "before": search.before}
        if search.kind == "note":
            rows = self._rows(_COUNT_NOTES, names)
        else:
            rows = self._rows(_COUNT_MARKS, names | {"kind": MARK_KINDS[search.kind]})
        if not rows:
            raise _no_session()
        count: int = rows[0][0]
        return count

    def keys_in_use(
        self, session_id: str, epoch: int, kind: MarkKind, keys: Collection[str]
    ) -> set[str]:
        """Return the keys that are in use, as `SessionStore.keys_in_use`."""
        statement = _NOTE_KEYS if kind == "note" else _MARK_KEYS
        names: dict[str, Any] = {"id": session_id, "epoch": epoch}
        if kind != "note":
            names["kind"] = MARK_KINDS[kind]
        wanted = [key.encode() for key in keys]
        used: set[str] = set()
        with self._database.reading() as connection:
            for start in range(0, max(len(wanted), 1), _KEYS):
                some = wanted[start : start + _KEYS]
                # Fewer keys than parameters: the rest repeats one that is looked for anyway.
                filled = some + (some[:1] or [b""]) * (_KEYS - len(some))
                values = {f"key{number}": key for number, key in enumerate(filled)}
                rows = connection.rows(statement, names | values)
                if not rows:
                    raise _no_session()
                used |= {key.decode() for (key,) in rows if key is not None}
        return used & set(keys)

    def size(self, session_id: str) -> StoredSize:
        """Return the size of a log, as `SessionStore.size`."""
        for stored, original in self._rows(_SIZE, {"id": session_id}):
            return StoredSize(stored, original)
        raise Conflict("There is no such session.", head=None)

    def sizes(self, session_ids: Collection[str]) -> dict[str, StoredSize]:
        """Return the sizes of logs, as `SessionStore.sizes`."""
        found: dict[str, StoredSize] = {}
        ids = list(session_ids)
        with self._database.reading() as connection:
            for start in range(0, len(ids), _SIZES):
                # One text for every number of ids: what is missing is the first one again.
                some = ids[start : start + _SIZES]
                names = {f"id{n}": (some[n] if n < len(some) else some[0]) for n in range(_SIZES)}
                for session_id, stored, original in connection.rows(_SIZES_OF, names):
                    found[session_id] = StoredSize(stored, original)
        return found

    def usage(self, user_id: str | None) -> StoreUsage:
        """Return what is stored, as `SessionStore.usage`."""
        [(count, stored)] = self._rows(_USAGE, {"scope": scope_of(user_id)})
        return StoreUsage(int(count or 0), int(stored or 0))

    def packed_bytes(self) -> int:
        """Return the bytes of all packed logs."""
        [(stored,)] = self._rows(_PACKED_BYTES)
        return int(stored or 0)

    def delta_bytes(self, session_id: str) -> int:
        """Return the bytes of deltas, as `SessionStore.delta_bytes`."""
        rows = self._rows(_DELTA_BYTES, {"id": session_id})
        return int(rows[0][0]) if rows else 0

    def holding_deltas(self, bytes_min: int) -> dict[str, int]:
        """Return sessions with deltas, as `SessionStore.holding_deltas`."""
        return dict(self._rows(_HOLDING_DELTAS, {"bytes_min": bytes_min}))

    def unpacked_archives(self) -> list[str]:
        """List archives that are not packed, as `SessionStore.unpacked_archives`."""
        return [session_id for (session_id,) in self._rows(_UNPACKED_ARCHIVES)]

    def unfinished(self) -> list[str]:
        """List sessions with runs, as `SessionStore.unfinished`."""
        return [session_id for (session_id,) in self._rows(_UNFINISHED)]

    def _rows(self, statement: Any, names: Mapping[str, Any] | None = None) -> list[Any]:
        with self._database.reading() as connection:
            return connection.rows(statement, names)


class _damage_is_said:  # noqa: N801 - used as a function
    """Translate what decompressing damaged pieces raises."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ValueError):
            raise StorageFailed(f"The packed log cannot be read: {error}.") from error


def _first_of(plain: Callable[[], T | None], packed: Callable[[], T | None]) -> T:
    """Return what the session's form at the moment answers; None is "it has the other form"."""
    for _ in range(_LOOKS_MAX):
        for look in (plain, packed):
            found = look()
            if found is not None:
                return found
    raise StorageFailed("The session is packed and unpacked all the time.")


def _existing(rows: Iterator[Any]) -> Iterator[Any]:
    first = next(rows, None)
    if first is None:
        raise _no_session()
    yield first
    yield from rows


def _found_in(rows: Iterator[Any]) -> Iterator[Record] | None:
    """Return the entries of an unpacked session; None when it is packed."""
    existing = _existing(rows)
    first = next(existing)
    if first[0]:
        return None

    def records() -> Iterator[Record]:
        if first[1] is not None:
            yield Record(first[1], first[2])
        for _, seq, body in existing:
            yield Record(seq, body)

    return records()


def _bodies_in(rows: Iterator[Any]) -> Iterator[bytes] | None:
    existing = _existing(rows)
    first = next(existing)
    if not first[0]:
        return None

    def bodies() -> Iterator[bytes]:
        if first[1] is not None:
            yield first[2]
        for _, _, body in existing:
            yield body

    return bodies()


def _packed_events(
    connection: Connection, session_id: str, epoch: int, seqs: list[int]
) -> Iterator[Record]:
    """Return the events of these seqs, in their order, decompressing neighbours' pieces once."""
    piece: dict[int, bytes] = {}
    for seq in seqs:
        if seq not in piece:
            names = {"id": session_id, "epoch": epoch, "after": seq - 1}
            rows = connection.each(_PIECES, names)
            _, last_seq, body = next(rows)
            if last_seq is None:
                raise ValueError(f"the event {seq} is missing")
            piece = {record.seq: record.body for record in records_in([body], 0)}
        yield Record(seq, piece[seq])


def _taken(records: Iterator[Record] | None, limit: int, max_bytes: int) -> list[Record] | None:
    if records is None:
        return None
    found: list[Record] = []
    size = 0
    if limit > 0:
        for record in records:
            size += len(record.body)
            if found and size > max_bytes:
                break
            found.append(record)
            if len(found) == limit:
                break
    return found


def _found(records: Iterator[Record], search: Search) -> Found:
    found = Found()
    size = 0
    for record in records:
        size += len(record.body)
        if len(found) >= search.limit or (found and size > search.max_bytes):
            found.has_more = bool(found)
            break
        found.append(record)
    return found


def _no_session() -> Conflict:
    return Conflict("There is no such session of that epoch.", head=None)
