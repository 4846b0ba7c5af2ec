"""API keys in the database: all gateways that use it have the same ones.

The row `keys_version` of `meta` has a number that every change raises. So a gateway sees by one row
whether there is anything new. While it is 0 there never was a key, and those of a keys file may be
taken over.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import psycopg
from typing_extensions import override

from bamboo_gateway.domain.api_keys import ApiKey
from bamboo_gateway.storage.keys import ApiKeys
from bamboo_gateway.storage.sql.postgresql import schema
from bamboo_gateway.storage.sql.postgresql.connections import Driver, connect
from bamboo_gateway.storage.sql.postgresql.errors import unusable
from bamboo_gateway.storage.sql.postgresql.target import Target

if TYPE_CHECKING:
    from bamboo_gateway.domain.callers import Right

_VERSION: Final = "SELECT number FROM meta WHERE name = 'keys_version'"
_KEYS: Final = """\
SELECT id, digest, user_id, rights, name, created_at, expires_at, revoked_at FROM api_keys
ORDER BY created_at, id"""
# Each of the two locks the row until the transaction ends: a change sees all of the one before.
_RAISE: Final = "UPDATE meta SET number = number + 1 WHERE name = 'keys_version'"
_BEGIN: Final = "UPDATE meta SET number = 1 WHERE name = 'keys_version' AND number = 0"
_REMOVE: Final = "DELETE FROM api_keys WHERE id = ANY(%s)"
_PUT: Final = """\
INSERT INTO api_keys
  (id, digest, user_id, rights, name, created_at, expires_at, revoked_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (id) DO UPDATE SET digest = excluded.digest, user_id = excluded.user_id,
  rights = excluded.rights, name = excluded.name, created_at = excluded.created_at,
  expires_at = excluded.expires_at, revoked_at = excluded.revoked_at"""

Lend = Callable[[], AbstractContextManager[Driver]]


class KeysInDatabase(ApiKeys):
    """The keys in the table `api_keys`."""

    def __init__(self, place: str, reading: Lend, writing: Lend) -> None:
        """Make it; nothing is connected.

        Args:
            place: The database, without a password.
            reading: Lends a connection for reading.
            writing: Lends a connection in a transaction, which ends with the block.
        """
        self.place = place
        self._reading = reading
        self._writing = writing

    @override
    def version(self) -> int:
        try:
            with self._reading() as driver:
                row = driver.execute(_VERSION).fetchone()
        except _NoTablesError:
            return 0
        return 0 if row is None else int(row[0])

    @override
    def read(self) -> tuple[ApiKey, ...]:
        try:
            with self._reading() as driver:
                return _read(driver)
        except _NoTablesError:
            return ()

    @override
    def change(self, change: Callable[[Sequence[ApiKey]], Sequence[ApiKey]]) -> None:
        with self._writing() as driver:
            driver.execute(_RAISE)
            before = {key.id: key for key in _read(driver)}
            after = {key.id: key for key in change(tuple(before.values()))}
            gone = [key_id for key_id in before if key_id not in after]
            if gone:
                driver.execute(_REMOVE, [gone])
            _put(driver, [key for key in after.values() if before.get(key.id) != key])

    @override
    def take_over(self, keys: Sequence[ApiKey]) -> bool:
        with self._writing() as driver:
            if not driver.execute(_BEGIN).rowcount:
                return False
            _put(driver, keys)
        return True


class _NoTablesError(Exception):
    """No gateway has used this database yet."""


def keys_of(target: Target) -> KeysInDatabase:
    """Return the keys of a database that this process has not opened, for commands.

    Each call connects for itself. A change makes the tables in a database that has none yet.
    """

    @contextmanager
    def lent(*, is_change: bool) -> Iterator[Driver]:
        try:
            with closing(connect(target)) as driver:
                revision = schema.revision_of(driver)
                if revision is not None:
                    schema.check(revision)
                elif is_change:
                    schema.move(lambda: connect(target))
                else:
                    raise _NoTablesError
                with driver.transaction():
                    yield driver
        except psycopg.Error as error:
            raise unusable(target.shown, error) from error

    return KeysInDatabase(target.shown, lambda: lent(is_change=False), lambda: lent(is_change=True))


def _read(driver: Driver) -> tuple[ApiKey, ...]:
    return tuple(_key_of(*row) for row in driver.execute(_KEYS).fetchall())


def _put(driver: Driver, keys: Sequence[ApiKey]) -> None:
    with driver.cursor() as cursor:
        cursor.executemany(_PUT, [_row_of(key) for key in keys])


def _key_of(
    key_id: str, digest: bytes, user_id: str | None, rights: str, name: str, *times: int | None
) -> ApiKey:
    created_at, expires_at, revoked_at = times
    assert created_at is not None
    known = cast("list[Right]", rights.split(",") if rights else [])
    return ApiKey(
        key_id, bytes(digest), user_id, frozenset(known), name, created_at, expires_at, revoked_at
    )


def _row_of(key: ApiKey) -> tuple[Any, ...]:
    return (
        key.id,
        key.digest,
        key.user_id,
        ",".join(sorted(key.rights)),
        key.name,
        key.created_at,
        key.expires_at,
        key.revoked_at,
    )
