"""What a deletion leaves: the epoch of the session, and its idempotency keys.

Several processes use the database, and each may send a commit again whose answer it lost, or send
it late. A creation that comes after the deletion of its session finds the epoch used, and creates
nothing. A request with a key that was answered before the deletion finds the key spent.
"""

from typing import Final

from bamboo_gateway.domain.errors import Conflict
from bamboo_gateway.domain.limits import IDEMPOTENCY_RETENTION_MS
from bamboo_gateway.storage.sql.postgresql.connections import Driver
from bamboo_gateway.storage.sql.postgresql.statements import NEWER_EPOCH

NOW_MS: Final = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
WISH_KEY: Final = "wish:"
"""The keys of notes that are no idempotency keys begin with it."""

EPOCH_KEPT_MS: Final = 3_600_000
"""How long the epoch of a deleted session is kept: longer than any statement is on its way."""

# What one statement removes, so that it takes no longer than a few commits.
_SWEPT_MAX: Final = 1000

_CREATE: Final = f"""\
INSERT INTO session_epochs AS e (id, epoch) VALUES (%s, %s)
ON CONFLICT (id) {NEWER_EPOCH}
RETURNING id"""  # noqa: S608 - texts of ours, here and below
_DELETE: Final = f"""\
INSERT INTO session_epochs AS e (id, epoch, at) VALUES (%s, %s, {NOW_MS})
ON CONFLICT (id) DO UPDATE SET epoch = greatest(e.epoch, excluded.epoch), at = excluded.at"""  # noqa: S608
_FORGET: Final = "DELETE FROM session_epochs WHERE id = %s"
# The time of an answer is in the note's body, as its third member (`RequestKey.note`).
_KEEP_KEYS: Final = f"""\
INSERT INTO gone_keys (session_id, digest, expires_at)
SELECT %(id)s, key, max({IDEMPOTENCY_RETENTION_MS} + coalesce(
  substring(encode(substr(body, 1, 256), 'escape') from '"time":([0-9]{{1,15}})')::bigint,
  {NOW_MS}))
FROM notes
WHERE session_key = %(key)s AND version <= %(version)s
  AND substr(key, 1, {len(WISH_KEY)}) <> %(wish)s
GROUP BY key
ON CONFLICT (session_id, digest) DO UPDATE
  SET expires_at = greatest(gone_keys.expires_at, excluded.expires_at)"""  # noqa: S608
_IS_SPENT: Final = f"""\
SELECT 1 FROM gone_keys WHERE session_id = %s AND digest = %s AND expires_at >= {NOW_MS}"""  # noqa: S608
_SWEEP_EPOCHS: Final = f"""\
DELETE FROM session_epochs e USING (
  SELECT id, at FROM session_epochs WHERE at < {NOW_MS} - {EPOCH_KEPT_MS} LIMIT {_SWEPT_MAX}
  FOR UPDATE SKIP LOCKED
) AS old WHERE e.id = old.id"""  # noqa: S608
_SWEEP_KEYS: Final = f"""\
DELETE FROM gone_keys g USING (
  SELECT session_id, digest FROM gone_keys WHERE expires_at < {NOW_MS} LIMIT {_SWEPT_MAX}
  FOR UPDATE SKIP LOCKED
) AS old WHERE g.session_id = old.session_id AND g.digest = old.digest"""  # noqa: S608


def note_creation(connection: Driver, session_id: str, epoch: int) -> None:
    """Use an epoch for a session, in the transaction that creates it.

    Raises:
        Conflict: A session of this id was created with this epoch or a later one.
    """
    if not connection.execute(_CREATE, [session_id, epoch]).fetchone():
        raise Conflict("The session was created and deleted meanwhile.", head=None)


def keep(connection: Driver, session_id: str, epoch: int, key: int, version: int) -> None:
    """Keep the epoch and the keys of a session, in the transaction that deletes it."""
    connection.execute(_DELETE, [session_id, epoch])
    values = {"id": session_id, "key": key, "version": version, "wish": WISH_KEY.encode()}
    connection.execute(_KEEP_KEYS, values)


def forget(connection: Driver, session_id: str) -> None:
    """Forget the epoch of a session: it may come again under it."""
    connection.execute(_FORGET, [session_id])


def is_spent(connection: Driver, session_id: str, key: str) -> bool:
    """Return whether a key was used in a deleted session of this id, as `SessionStore.is_spent`."""
    return connection.execute(_IS_SPENT, [session_id, key.encode()]).fetchone() is not None


def sweep(connection: Driver) -> int:
    """Remove what is over, some of it; return how much that was."""
    return sum(connection.execute(text).rowcount for text in (_SWEEP_EPOCHS, _SWEEP_KEYS))
