"""The statement of the group commit, and the one that looks for the reason of a refusal.

They are written by hand: most of the gateway's writes go through here. A batch's commits go to the
server as arrays, one for each column, and become rows there (`unnest`). One statement is one
transaction, so it needs one round trip, and behind PgBouncer no connection of its own.

A commit is a row of `unit`. Its session's row is locked (`locked`), in the order of ids, and only
if it is what the commit expects. All else follows from what was locked or created (`applied`), so
a commit whose session is not as expected changes nothing at all. Parts that a batch does not need
are left out.

Other processes commit to the same sessions. When a statement waits for a locked row, PostgreSQL
looks at that row again, and at nothing else: subqueries keep the state of the statement's begin. So
each condition is one on a row that the statement locks (`tests/cluster/test_statements.py`):

* a creation raises the epoch of its id (`newer`), so one that is sent again creates nothing, also
  after a deletion;
* the start of a run moves the counter of its executor (`started`), so nobody takes the executor for
  dead meanwhile;
* a commit that ends the run of a dead executor leaves out a session that is locked, instead of
  waiting: it would not see that the executor has moved its counter meanwhile.

Rows are locked in this order: executors, sessions, `session_epochs`, `meta`, `usage`.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from sqlalchemy import BigInteger, Boolean, LargeBinary, SmallInteger

from bamboo_gateway.storage.index.metadata_pairs import pairs_of
from bamboo_gateway.storage.index.rows import SLOT_BITS, shares_of
from bamboo_gateway.storage.index.search_code import owner_mark
from bamboo_gateway.storage.index.tables import sessions
from bamboo_gateway.storage.sql.postgresql.arrays import (
    BoolArray,
    ByteaArray,
    Int8Array,
    TextArray,
)
from bamboo_gateway.storage.sql.postgresql.history import TIMELINE
from bamboo_gateway.storage.sql.prepared import HeadRow, PreparedCommit
from bamboo_gateway.storage.sql.rows import HEAD_COLUMNS

NOBODY: Final = "nobody"
"""The executor of an agent's run whose head names none, as heads of other stores: no process has
this id, so the run is closed as one of a dead process."""
EXTERNAL_AGENT: Final = "external"
"""The agent of runs that no process executes."""

JUDGED_ROWLESS: Final = -1
"""The counter of an executor that was taken for dead because it has no row."""

_MOVED = ("seq", "last_activity_at", "activity_slot", "expires_at", "expires_slot")
# What a head's row sets besides the columns that every commit moves.
_HEAD_ONLY = tuple(name for name in HEAD_COLUMNS if name not in _MOVED)
_HEAD_ARRAYS = (*_HEAD_ONLY, "last_activity_at", "expires_at")


class Parts(NamedTuple):
    """What a batch has, and so its statement."""

    heads: bool = False
    creations: bool = False
    events: bool = False
    marks: bool = False
    notes: bool = False
    unsearched: bool = False
    shares: bool = False
    changes: bool = False
    pairs: bool = False
    starts: bool = False
    closes: bool = False

    @staticmethod
    def of(batch: Sequence[PreparedCommit]) -> "Parts":
        """Return the parts that a batch needs."""
        heads = [one.head for one in batch if one.head is not None]
        return Parts(
            heads=any(not one.commit.create for one in batch if one.head is not None),
            creations=any(one.commit.create for one in batch),
            events=any(one.events for one in batch),
            marks=any(one.marks for one in batch),
            notes=any(one.notes for one in batch),
            unsearched=any(one.unsearched for one in batch),
            shares=any(row.head.shares for row in heads),
            changes=any(one.is_change for one in batch),
            pairs=any(row.columns["metadata_digest"] for row in heads),
            starts=any(one.commit.executor is not None for one in batch),
            closes=any(one.commit.closes is not None for one in batch),
        )


def commit_slot(slot: int) -> int:
    """Return the `usage.slot` that the commits of a process count in."""
    return 2 * slot


def change_slot(slot: int) -> int:
    """Return the slot for everything else that the process does: neither waits for the other."""
    return 2 * slot + 1


def run_columns(row: HeadRow) -> tuple[str | None, str | None]:
    """Return the columns `run_id` and `executor` of a head."""
    active = row.head.active
    if active is None:
        return None, None
    executor = active.executor
    if executor is None and active.agent != EXTERNAL_AGENT:
        executor = NOBODY
    return active.run_id, executor


@cache
def group_commit(parts: Parts, *, waits: bool = False) -> str:
    """Return the text of the statement; its rows are the numbers of the commits that applied.

    Args:
        parts: What the batch has.
        waits: Wait for sessions that are locked, instead of leaving them out. Not with `closes`.
    """
    assert not (waits and parts.closes)
    has_heads = parts.heads or parts.creations
    clauses = [_UNIT]
    if has_heads:
        clauses.append(_HEAD)
    if parts.starts:
        clauses.append(_STARTED)
    may_start = _MAY_START if parts.starts else ""
    clauses.append(
        _LOCKED.format(
            may_start=may_start,
            may_close=MAY_CLOSE if parts.closes else "",
            or_skip="" if waits else "SKIP LOCKED",
        )
    )
    if parts.creations:
        clauses.append(_NEWER.format(may_start=may_start))
    if parts.changes:
        clauses.append(_NUMBERED.format(and_newer=_AND_NEWER if parts.creations else ""))
    clauses.append(_MOVED_ROWS.format(without_heads="AND NOT l.has_head" if parts.heads else ""))
    applied = [_APPLIED_MOVED]
    if parts.heads:
        clauses.append(_CHANGED.replace("$change", _CHANGE if parts.changes else ""))
        applied.append(_APPLIED_CHANGED)
    if parts.creations:
        clauses.append(_CREATED.replace("$number", _NUMBER if parts.changes else "0"))
        applied.append(_APPLIED_CREATED)
    clauses.append("applied AS MATERIALIZED ({})".format(" UNION ALL ".join(applied)))
    clauses += _rows_of(parts)
    clauses.append(_USAGE)
    if parts.creations:
        clauses.append(_EPOCH)
    return "WITH {}\nSELECT number FROM applied".format(",\n".join(clauses))


def _rows_of(parts: Parts) -> list[str]:
    """Return the clauses that write the rows beside the sessions."""
    clauses = []
    if parts.events:
        clauses.append(_EVENTS)
    if parts.marks:
        clauses.append(_MARKS)
    if parts.notes:
        clauses.append(_NOTES)
    if parts.unsearched:
        clauses.append(_UNSEARCHED)
    if parts.heads:
        clauses.append(_OWNERS)
        clauses.append(_OLD_SHARES.format(not_new=_NOT_NEW if parts.shares else ""))
        clauses.append(_OLD_PAIRS.format(kept=_KEPT_PAIR if parts.pairs else ""))
    if parts.shares:
        clauses.append(_SHARES)
    if parts.pairs:
        clauses.append(_PAIRS)
    return clauses


def parameters(
    batch: Sequence[PreparedCommit], parts: Parts, slot: int, timeline: str | None
) -> dict[str, Any]:
    """Return the parameters of `group_commit`; no two commits are of one session.

    Args:
        batch: The commits.
        parts: What the batch has.
        slot: The slot of this process (`executors.slot`).
        timeline: The timeline that the server must be on; None: it does not tell.
    """
    numbers = Int8Array.of(range(len(batch)))
    found: dict[str, Any] = {
        "usage_slot": commit_slot(slot),
        "timeline": timeline,
        "number": numbers,
        "id": TextArray.of([one.commit.session_id for one in batch]),
        "epoch": Int8Array.of([one.commit.epoch for one in batch]),
        "first_seq": Int8Array.of([one.commit.first_seq for one in batch]),
        "version": Int8Array.of([one.version for one in batch]),
        "is_new": BoolArray.of([one.commit.create for one in batch]),
        "has_head": BoolArray.of([one.head is not None for one in batch]),
        "seq": Int8Array.of([one.last_seq for one in batch]),
        "time": Int8Array.of([one.commit.time_ms for one in batch]),
        "bytes": Int8Array.of([one.stored_bytes for one in batch]),
        "delta_bytes": Int8Array.of([one.delta_bytes for one in batch]),
        "commit_id": Int8Array.of([one.commit_id for one in batch]),
        "is_change": BoolArray.of([one.is_change for one in batch]),
        "executor": TextArray.of([one.commit.executor for one in batch]),
        "closes": TextArray.of([one.commit.closes for one in batch]),
        "judged": Int8Array.of([one.judged for one in batch]),
    }
    if parts.changes:
        found["numbers"] = len(batch)
    if parts.heads or parts.creations:
        found |= _head_parameters(
            [(number, one.head) for number, one in enumerate(batch) if one.head is not None],
            has_shares=parts.shares,
            has_pairs=parts.pairs,
        )
    if parts.events:
        names = ("number", "seq", "is_delta", "body")
        found |= _columns("event", names, _EVENT_TYPES, _numbered(one.events for one in batch))
    if parts.marks:
        names = ("number", "kind", "seq", "key")
        found |= _columns("mark", names, _MARK_TYPES, _numbered(one.marks for one in batch))
    if parts.notes:
        columns = ("number", "seq", "place", "key", "body")
        found |= _columns("note", columns, _NOTE_TYPES, _numbered(one.notes for one in batch))
    if parts.unsearched:
        rows = [(number, seq) for number, one in enumerate(batch) for seq in one.unsearched]
        found |= _columns("unsearched", ("number", "seq"), (Int8Array, Int8Array), rows)
    return found


def reason_parameters(batch: Sequence[PreparedCommit]) -> dict[str, Any]:
    """Return the parameters of `REASON`."""
    return {
        "id": TextArray.of([one.commit.session_id for one in batch]),
        "first_seq": Int8Array.of([one.commit.first_seq for one in batch]),
        "seq": Int8Array.of([one.last_seq for one in batch]),
        "note_key": ByteaArray.of([one.notes[0].key if one.notes else b"" for one in batch]),
        "commit_id": Int8Array.of([one.commit_id for one in batch]),
        "executor": TextArray.of([one.commit.executor for one in batch]),
        "closes": TextArray.of([one.commit.closes for one in batch]),
        "judged": Int8Array.of([one.judged for one in batch]),
    }


def _head_parameters(
    heads: Sequence[tuple[int, HeadRow]], *, has_shares: bool, has_pairs: bool
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "head_number": Int8Array.of([number for number, _ in heads]),
        "head_body": ByteaArray.of([row.body for _, row in heads]),
        "head_mark": TextArray.of([owner_mark(row.columns["user_id"]) for _, row in heads]),
    }
    runs = [run_columns(row) for _, row in heads]
    found["head_run_id"] = TextArray.of([run_id for run_id, _ in runs])
    found["head_executor"] = TextArray.of([executor for _, executor in runs])
    for name in _HEAD_ARRAYS:
        values = [row.columns[name] for _, row in heads]
        found[f"head_{name}"] = _array_of(name).of(values)
    if has_shares:
        rows = [
            (number, user_id, end)
            for number, row in heads
            for user_id, end in shares_of(row.head).items()
        ]
        names = ("number", "user_id", "expires_at")
        found |= _columns("share", names, (Int8Array, TextArray, Int8Array), rows)
    if has_pairs:
        pairs = [(number, pair) for number, row in heads for pair in pairs_of(row.head.metadata)]
        found |= _columns("pair", ("number", "digest"), (Int8Array, ByteaArray), pairs)
    return found


_EVENT_TYPES = (Int8Array, Int8Array, BoolArray, ByteaArray)
_MARK_TYPES = (Int8Array, Int8Array, Int8Array, ByteaArray)
_NOTE_TYPES = (Int8Array, Int8Array, Int8Array, ByteaArray, ByteaArray)


def _numbered(rows_of_each: Iterable[Sequence[tuple[Any, ...]]]) -> list[tuple[Any, ...]]:
    """Return all rows, each behind the number of its commit."""
    return [(number, *row) for number, rows in enumerate(rows_of_each) for row in rows]


def _columns(
    prefix: str, names: Sequence[str], types: Sequence[Any], rows: Iterable[Sequence[Any]]
) -> dict[str, Any]:
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    return {
        f"{prefix}_{name}": kind.of(column)
        for name, kind, column in zip(names, types, columns, strict=True)
    }


def _array_of(name: str) -> Any:
    kind = sessions.c[name].type
    if isinstance(kind, Boolean):
        return BoolArray
    if isinstance(kind, BigInteger | SmallInteger):
        return Int8Array
    return ByteaArray if isinstance(kind, LargeBinary) else TextArray


def _cast(name: str) -> str:
    return "::smallint" if isinstance(sessions.c[name].type, SmallInteger) else ""


# -- the parts of the statement -------------------------------------------------------------

_UNIT = """\
unit AS MATERIALIZED (
  SELECT * FROM unnest(
    %(number)s, %(id)s, %(epoch)s, %(first_seq)s, %(version)s, %(is_new)s, %(has_head)s, %(seq)s,
    %(time)s, %(bytes)s, %(delta_bytes)s, %(commit_id)s, %(is_change)s, %(executor)s, %(closes)s,
    %(judged)s
  ) AS u (number, id, epoch, first_seq, version, is_new, has_head, seq, time, bytes, delta_bytes,
    commit_id, is_change, executor, closes, judged)
  WHERE %(timeline)s::text IS NULL OR (SELECT $timeline) = %(timeline)s
)""".replace("$timeline", TIMELINE)

_HEAD = """\
head AS MATERIALIZED (
  SELECT * FROM unnest(%(head_number)s, %(head_body)s, %(head_mark)s, %(head_run_id)s,
    %(head_executor)s, {values})
  AS h (number, head, mark, run_id, executor, {names})
)""".format(
    values=", ".join(f"%(head_{name})s" for name in _HEAD_ARRAYS), names=", ".join(_HEAD_ARRAYS)
)

# The rows of all executors whose runs begin here: this process, under one id or two.
_STARTED = """\
started AS MATERIALIZED (
  UPDATE executors x SET counter = counter + 1
  WHERE x.executor IN (SELECT executor FROM unit WHERE executor IS NOT NULL)
  RETURNING x.executor
)"""
_MAY_START = """
    AND (u.executor IS NULL OR u.executor IN (SELECT executor FROM started))"""
MAY_CLOSE: Final = """
    AND (u.closes IS NULL OR NOT EXISTS (
      SELECT FROM executors x WHERE x.executor = u.closes AND x.counter <> u.judged
    ))"""
"""The condition of a commit that ends the run of a dead executor: it has not moved its counter."""

_LOCKED = """\
locked AS MATERIALIZED (
  SELECT u.*, s.key, s.user_id AS old_user, s.stored_bytes AS old_bytes,
    s.metadata_digest AS old_digest
  FROM unit u JOIN sessions s ON s.id = u.id
  WHERE NOT u.is_new AND s.epoch = u.epoch AND s.seq = u.first_seq - 1 AND NOT s.is_packed
    AND (u.version IS NULL OR s.version = u.version){may_start}{may_close}
  ORDER BY s.id
  FOR NO KEY UPDATE OF s {or_skip}
)"""

NEWER_EPOCH: Final = (
    "DO UPDATE SET epoch = excluded.epoch, at = NULL WHERE e.epoch < excluded.epoch"
)
"""Only a creation of a later epoch than all before is one. A deletion leaves the row."""

_NEWER = """\
newer AS MATERIALIZED (
  INSERT INTO session_epochs AS e (id, epoch)
  SELECT u.id, u.epoch FROM unit u WHERE u.is_new{may_start} ORDER BY u.id
  ON CONFLICT (id) $newer_epoch
  RETURNING id
)""".replace("$newer_epoch", NEWER_EPOCH)

# A number for each commit, whether it applies or not. The row stays locked until the end, so it is
# taken behind the locks of sessions (see `change_feed`).
_NUMBERED = """\
numbered AS MATERIALIZED (
  UPDATE meta SET number = number + %(numbers)s
  WHERE name = 'last_change' AND (SELECT count(*) FROM locked) >= 0{and_newer}
  RETURNING number - %(numbers)s + 1 AS first
)"""
_AND_NEWER = " AND (SELECT count(*) FROM newer) >= 0"
_NUMBER = "CASE WHEN u.is_change THEN (SELECT first FROM numbered) + u.number ELSE 0 END"
_CHANGE = """,
    change_number = CASE WHEN l.is_change THEN (SELECT first FROM numbered) + l.number
      ELSE s.change_number END"""

_COUNTED = """\
    version = s.version + 1, seq = l.seq, log_bytes = s.log_bytes + l.bytes,
    stored_bytes = s.stored_bytes + l.bytes, delta_bytes = s.delta_bytes + l.delta_bytes"""

# The last activity moves forward only, and the end of the time to live with it.
_MOVED_ROWS = f"""\
moved AS (
  UPDATE sessions s SET {_COUNTED},
    last_activity_at = greatest(s.last_activity_at, l.time),
    activity_slot = greatest(s.last_activity_at, l.time) >> {SLOT_BITS},
    expires_at = s.expires_at + greatest(l.time - s.last_activity_at, 0),
    expires_slot = (s.expires_at + greatest(l.time - s.last_activity_at, 0)) >> {SLOT_BITS}
  FROM locked l WHERE s.key = l.key {{without_heads}}
  RETURNING l.number, s.key, s.version, s.user_id
)"""
_APPLIED_MOVED = """\
SELECT m.number, m.key, m.version, m.user_id, m.user_id AS old_user, 0::bigint AS old_bytes,
  l.bytes, l.commit_id, l.epoch, 0 AS added
  FROM moved m JOIN locked l USING (number)"""

_ACTIVITY = "greatest(s.last_activity_at, h.last_activity_at)"
_EXPIRES = "h.expires_at + greatest(s.last_activity_at - h.last_activity_at, 0)"
_CHANGED = """\
changed AS (
  UPDATE sessions s SET {counted}, {columns}, head = h.head, run_id = h.run_id,
    executor = h.executor,
    last_activity_at = {activity}, activity_slot = ({activity}) >> {bits},
    expires_at = {expires}, expires_slot = ({expires}) >> {bits}$change
  FROM locked l JOIN head h USING (number) WHERE s.key = l.key
  RETURNING l.number, s.key, s.version, s.user_id
)""".format(
    counted=_COUNTED,
    columns=", ".join(f"{name} = h.{name}{_cast(name)}" for name in _HEAD_ONLY),
    activity=_ACTIVITY,
    expires=_EXPIRES,
    bits=SLOT_BITS,
)
_APPLIED_CHANGED = """\
SELECT c.number, c.key, c.version, c.user_id, l.old_user, l.old_bytes, l.bytes, l.commit_id,
  l.epoch, 0 FROM changed c JOIN locked l USING (number)"""

_CREATED = """\
created AS (
  INSERT INTO sessions (id, epoch, version, seq, log_bytes, stored_bytes, delta_bytes, is_packed,
    {names}, last_activity_at, activity_slot, expires_at, expires_slot, head, change_number, run_id,
    executor)
  SELECT u.id, u.epoch, 1, u.seq, u.bytes, u.bytes, u.delta_bytes, false,
    {values}, h.last_activity_at, h.last_activity_at >> {bits}, h.expires_at,
    h.expires_at >> {bits}, h.head, $number, h.run_id, h.executor
  FROM unit u JOIN head h USING (number) JOIN newer n ON n.id = u.id WHERE u.is_new ORDER BY u.id
  ON CONFLICT (id) DO NOTHING
  RETURNING id, key, version, user_id
)""".format(
    names=", ".join(_HEAD_ONLY),
    values=", ".join(f"h.{name}{_cast(name)}" for name in _HEAD_ONLY),
    bits=SLOT_BITS,
)
_APPLIED_CREATED = """\
SELECT u.number, c.key, c.version, c.user_id, NULL::text, 0::bigint, u.bytes, u.commit_id, u.epoch,
  1 FROM created c JOIN unit u USING (id)"""

_EVENTS = """\
new_events AS (
  INSERT INTO events (session_key, seq, is_delta, commit_id, body)
  SELECT a.key, e.seq, e.is_delta, a.commit_id, e.body
  FROM unnest(%(event_number)s, %(event_seq)s, %(event_is_delta)s, %(event_body)s)
    AS e (number, seq, is_delta, body)
  JOIN applied a USING (number)
)"""
_MARKS = """\
new_marks AS (
  INSERT INTO marks (session_key, kind, seq, key)
  SELECT a.key, e.kind, e.seq, e.key
  FROM unnest(%(mark_number)s, %(mark_kind)s, %(mark_seq)s, %(mark_key)s)
    AS e (number, kind, seq, key)
  JOIN applied a USING (number)
)"""
_NOTES = """\
new_notes AS (
  INSERT INTO notes (session_key, seq, version, number, key, commit_id, body)
  SELECT a.key, e.seq, a.version, e.place, e.key, a.commit_id, e.body
  FROM unnest(%(note_number)s, %(note_seq)s, %(note_place)s, %(note_key)s, %(note_body)s)
    AS e (number, seq, place, key, body)
  JOIN applied a USING (number)
)"""

_UNSEARCHED = """\
new_unsearched AS (
  INSERT INTO unsearched (session_key, seq)
  SELECT a.key, e.seq
  FROM unnest(%(unsearched_number)s, %(unsearched_seq)s) AS e (number, seq)
  JOIN applied a USING (number)
  ON CONFLICT DO NOTHING
)"""

# Nobody finds the messages any more who does not own them: `search_statements.own_statement`, for
# many sessions.
_OWNERS = """\
new_owners AS (
  UPDATE search_messages m SET user_id = c.user_id,
    code = substr(m.code, 1, strpos(m.code || 'W', 'W') - 1) || h.mark
  FROM changed c JOIN locked l USING (number) JOIN head h USING (number)
  WHERE m.session_key = c.key AND c.user_id IS DISTINCT FROM l.old_user
)"""

_SHARE = "unnest(%(share_number)s, %(share_user_id)s, %(share_expires_at)s)"
_NOT_NEW = f"""
    AND NOT EXISTS (
      SELECT FROM {_SHARE} AS e (number, user_id, expires_at)
      WHERE e.number = c.number AND e.user_id = o.user_id
    )"""
_OLD_SHARES = """\
old_shares AS (
  DELETE FROM session_shares o USING changed c WHERE o.key = c.key{not_new}
)"""
_SHARES = f"""\
new_shares AS (
  INSERT INTO session_shares (user_id, key, expires_at)
  SELECT e.user_id, a.key, e.expires_at
  FROM {_SHARE} AS e (number, user_id, expires_at) JOIN applied a USING (number)
  ON CONFLICT (user_id, key) DO UPDATE SET expires_at = excluded.expires_at
)"""

# Metadata seldom changes; then all pairs that the session has no more go, and those that it has
# come. What is the same on both sides is in neither: one statement cannot do both with a row.
_PAIR = "unnest(%(pair_number)s, %(pair_digest)s)"
_OLD_PAIRS = """\
old_pairs AS (
  DELETE FROM session_metadata o USING changed c JOIN locked l USING (number)
    JOIN head h USING (number)
  WHERE o.key = c.key AND h.metadata_digest <> l.old_digest{kept}
)"""
_KEPT_PAIR = f"""
    AND NOT EXISTS (
      SELECT FROM {_PAIR} AS e (number, pair) WHERE e.number = c.number AND e.pair = o.pair
    )"""
_PAIRS = f"""\
new_pairs AS (
  INSERT INTO session_metadata (pair, key)
  SELECT e.pair, a.key
  FROM {_PAIR} AS e (number, pair) JOIN applied a USING (number) JOIN head h USING (number)
    LEFT JOIN locked l USING (number)
  WHERE l.old_digest IS DISTINCT FROM h.metadata_digest
  ON CONFLICT DO NOTHING
)"""

# A session that changes its owner is taken from the one and given to the other, with all bytes.
_USAGE = """\
counted AS (
  INSERT INTO usage (scope, slot, sessions, stored_bytes)
  SELECT scope, %(usage_slot)s::smallint, sum(sessions), sum(stored_bytes) FROM (
    SELECT ''::bytea AS scope, added AS sessions, bytes AS stored_bytes FROM applied
    UNION ALL
    SELECT '\\x75'::bytea || convert_to(user_id, 'UTF8'),
      (user_id IS DISTINCT FROM old_user)::int,
      bytes + CASE WHEN user_id IS DISTINCT FROM old_user THEN old_bytes ELSE 0 END
      FROM applied WHERE user_id IS NOT NULL
    UNION ALL
    SELECT '\\x75'::bytea || convert_to(old_user, 'UTF8'), -1, -old_bytes
      FROM applied WHERE old_user IS NOT NULL AND user_id IS DISTINCT FROM old_user
  ) AS part
  GROUP BY scope ORDER BY scope
  ON CONFLICT (scope, slot) DO UPDATE SET
    sessions = usage.sessions + excluded.sessions,
    stored_bytes = usage.stored_bytes + excluded.stored_bytes
)"""

_EPOCH = """\
used_epoch AS (
  UPDATE meta SET number = new.epoch
  FROM (SELECT max(epoch) AS epoch FROM applied WHERE added = 1) AS new
  WHERE name = 'last_epoch' AND number < new.epoch
)"""

REASON: Final = """\
SELECT s.epoch, s.seq, s.version, s.is_packed, t.epoch,
  EXISTS (
    SELECT FROM events e WHERE e.session_key = s.key AND e.seq BETWEEN u.first_seq AND u.seq
      AND e.commit_id = u.commit_id
  ) OR EXISTS (
    SELECT FROM notes n
    WHERE n.session_key = s.key AND n.key = u.note_key AND n.commit_id = u.commit_id
  ),
  EXISTS (
    SELECT FROM events e WHERE e.session_key = s.key AND e.seq BETWEEN u.first_seq AND u.seq
      AND e.seq <= s.seq AND e.commit_id <> u.commit_id
  ),
  u.executor IS NULL OR EXISTS (SELECT FROM executors x WHERE x.executor = u.executor),
  u.closes IS NULL OR NOT EXISTS (
    SELECT FROM executors x WHERE x.executor = u.closes AND x.counter <> u.judged
  )
FROM unnest(
  %(id)s, %(first_seq)s, %(seq)s, %(note_key)s, %(commit_id)s, %(executor)s, %(closes)s, %(judged)s
) WITH ORDINALITY
  AS u (id, first_seq, seq, note_key, commit_id, executor, closes, judged, place)
LEFT JOIN sessions s ON s.id = u.id
LEFT JOIN session_epochs t ON t.id = u.id
ORDER BY u.place"""
"""For each commit the columns of `Reason`."""


class Reason(NamedTuple):
    """Why a commit did not apply.

    Attributes:
        epoch, seq, version, is_packed: Of the session's row; all None without one.
        used_epoch: The greatest epoch that a session of this id was created with; None: unknown.
        is_stored: Whether the rows of the commit are there.
        is_replaced: Whether another commit's event is where one of the commit's would be.
        may_start: Whether the executor that the commit names has a row.
        may_close: Whether the executor whose run the commit ends is still the dead one.
    """

    epoch: int | None
    seq: int | None
    version: int | None
    is_packed: bool | None
    used_epoch: int | None
    is_stored: bool
    is_replaced: bool
    may_start: bool
    may_close: bool
