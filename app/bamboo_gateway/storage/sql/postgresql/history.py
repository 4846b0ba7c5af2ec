"""Whether the server's history is the one that clients have seen (R3).

A standby that was promoted, or a backup restored up to a point in time, may lack the last commits.
Their positions are free then, though clients have seen them with other content. PostgreSQL begins a
new timeline in both cases, and another server has another identifier. A row of `meta` has what the
sessions' epochs belong to. Where the server's differs, every session gets a new epoch, so that
clients load it again.

A gateway may keep running while its server changes. So each commit checks in its own statement that
the server is still on the timeline (`statements`), and none goes through before the epochs are new.
"""

from secrets import token_hex
from typing import Final, NamedTuple

import psycopg
import structlog

from bamboo_gateway.storage.sql.epochs import give_new_epochs
from bamboo_gateway.storage.sql.postgresql.connection import PostgresConnection
from bamboo_gateway.storage.sql.postgresql.connections import Driver

log = structlog.get_logger(__name__)

TIMELINE: Final = "left(pg_walfile_name(pg_current_wal_lsn()), 8)"
"""The timeline that the server writes. `pg_control_checkpoint` would say it only after the first
checkpoint of a promoted standby."""

_LOOK: Final = f"""\
SELECT system_identifier || '/' || {TIMELINE}, {TIMELINE},
  (SELECT text FROM meta WHERE name = 'history'),
  (SELECT text FROM meta WHERE name = 'deployment')
FROM pg_control_system()"""  # noqa: S608 - texts of ours
_LOCK: Final = "SELECT FROM meta WHERE name = 'last_epoch' FOR UPDATE"
_NOTE: Final = """\
INSERT INTO meta (name, text) VALUES ('history', %s)
ON CONFLICT (name) DO UPDATE SET text = excluded.text"""
_DEPLOYMENT: Final = "SELECT text FROM meta WHERE name = 'deployment'"
_NAME: Final = (
    "INSERT INTO meta (name, text) VALUES ('deployment', %s) ON CONFLICT (name) DO NOTHING"
)
_RENAME: Final = """\
INSERT INTO meta (name, text) VALUES ('deployment', %s)
ON CONFLICT (name) DO UPDATE SET text = excluded.text"""
_NOW_MS: Final = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_RAISE: Final = f"""\
INSERT INTO meta (name, number) VALUES ('last_epoch', greatest(%s, {_NOW_MS}))
ON CONFLICT (name) DO UPDATE SET number = greatest(meta.number, excluded.number)
RETURNING number"""  # noqa: S608 - a text of ours
# One message, so one round trip. A crash of the server may lose it, but never without the commits
# behind it.
_TAKE: Final = f"""\
BEGIN; SET LOCAL synchronous_commit = off; SET LOCAL lock_timeout = '5s';
INSERT INTO meta (name, number) VALUES ('last_epoch', {_NOW_MS})
ON CONFLICT (name) DO UPDATE SET number = greatest(meta.number + 1, excluded.number)
RETURNING number;
COMMIT"""  # noqa: S608 - a text of ours

# Of some services that speak as PostgreSQL does.
_NOT_TOLD: Final = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.FeatureNotSupported,
)


class _Look(NamedTuple):
    now: str
    timeline: str
    # None in a database that nobody has told its history yet: epochs belong to this one then.
    known: str | None
    # None in a database that nobody has used yet.
    deployment: str | None


class History:
    """What this process knows of its server's history.

    Attributes:
        timeline: The timeline that commits check; None before `adopt`, and where the server does
            not tell it.
        deployment: The id of the gateways that share this database. With new epochs it is a new
            one: what a copy or a lost server remembers elsewhere is never taken for this one's.
            Empty before `adopt`.
    """

    def __init__(self) -> None:
        self.timeline: str | None = None
        self.deployment = ""
        self._named = ""
        self._followed: str | None = None
        self._found: _Look | None = None

    def has_changed(self, connection: Driver) -> bool:
        """Return whether the epochs belong to another history than the server's."""
        look = _look(connection)
        return look is not None and look.known not in {None, look.now}

    def is_followed(self, connection: Driver) -> bool:
        """Return whether the server has the history that this process has followed."""
        look = _look(connection)
        if look is None or not self.deployment:
            return bool(self.deployment)
        # Another name without another server: somebody gave new epochs by hand, when this process
        # stood still and was taken for dead.
        return look.now == self._followed and look.deployment == self.deployment

    def follow(self, connection: PostgresConnection, used_epoch: int = 0) -> int:
        """Make the epochs those of the server's history, within a transaction.

        The caller calls `adopt` when it is committed.

        Args:
            connection: A connection in a transaction.
            used_epoch: The last epoch that this process knows of; the server may have lost it.

        Returns:
            How many sessions got a new epoch.
        """
        connection.driver.execute(_LOCK)
        connection.driver.execute(_NAME, [_new_name()])
        count = self._give_epochs(connection, used_epoch)
        [(self._named,)] = connection.driver.execute(_DEPLOYMENT).fetchall()
        return count

    def _give_epochs(self, connection: PostgresConnection, used_epoch: int) -> int:
        look = self._found = _look(connection.driver)
        if look is None or look.known == look.now:
            return 0
        if look.known is None:
            connection.driver.execute(_NOTE, [look.now])
            return 0
        count = self.renew(connection, used_epoch)
        log.warning(
            "PostgreSQL was promoted, restored or replaced, and may have lost commits: every "
            "session has a new epoch",
            before=look.known,
            now=look.now,
            sessions=count,
        )
        return count

    def renew(self, connection: PostgresConnection, used_epoch: int = 0) -> int:
        """Give every session a new epoch, within a transaction; return how many these are.

        The arguments are those of `follow`.
        """
        [(number,)] = connection.driver.execute(_RAISE, [used_epoch]).fetchall()
        count = give_new_epochs(connection, int(number))
        connection.driver.execute(_RENAME, [_new_name()])
        look = _look(connection.driver)
        if look is not None:
            connection.driver.execute(_NOTE, [look.now])
        return count

    def adopt(self) -> None:
        """Let commits go to the timeline that was followed."""
        self.deployment = self._named
        if self._found is not None:
            self._followed, self.timeline = self._found.now, self._found.timeline


def _new_name() -> str:
    return token_hex(8)


def take_epoch(connection: Driver) -> int:
    """Return an epoch that nobody gets again: max(the server's ms, last + 1)."""
    cursor = connection.execute(_TAKE)
    while cursor.description is None and cursor.nextset():
        pass
    [(epoch,)] = cursor.fetchall()
    return int(epoch)


def _look(connection: Driver) -> _Look | None:
    """Return what the server tells; None where it does not tell its history."""
    try:
        with connection.transaction():  # a savepoint, where there is a transaction
            row = connection.execute(_LOOK).fetchone()
    except _NOT_TOLD:
        return None
    return None if row is None else _Look(*row)
