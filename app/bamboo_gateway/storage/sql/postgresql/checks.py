"""What diagnostics say of a PostgreSQL server: its version, what it promises, how large it is."""

from typing import Final

from bamboo_gateway.domain.limits import MiB
from bamboo_gateway.storage.reports import StoreCheck
from bamboo_gateway.storage.sql.postgresql.connections import Driver

_FACTS: Final = """\
SELECT current_setting('server_version'), pg_is_in_recovery(), current_setting('fsync'),
  current_setting('full_page_writes'), current_setting('synchronous_commit'),
  current_setting('synchronous_standby_names'), pg_database_size(current_database())"""


def server_checks(connection: Driver) -> list[StoreCheck]:
    """Ask the server what it is."""
    row = connection.execute(_FACTS).fetchone()
    assert row is not None
    version, is_standby, fsync, full_pages, synchronous, standbys, size = row
    return [
        _database(str(version), is_standby=bool(is_standby)),
        _durability(str(fsync), str(full_pages), str(synchronous), has_standbys=bool(standbys)),
        StoreCheck("database size", "ok", f"{int(size) // MiB} MiB"),
    ]


def _database(version: str, *, is_standby: bool) -> StoreCheck:
    seen = f"PostgreSQL {version} answers"
    if is_standby:
        action = "name the primary in storage_url, or promote this server"
        return StoreCheck("database", "fail", f"{seen}, and is a read-only standby", action)
    return StoreCheck("database", "ok", seen)


def _durability(fsync: str, full_pages: str, synchronous: str, *, has_standbys: bool) -> StoreCheck:
    standbys = "with" if has_standbys else "without"
    seen = (
        f"fsync = {fsync}, full_page_writes = {full_pages}, synchronous_commit = {synchronous}, "
        f"{standbys} synchronous standbys"
    )
    off = [
        name
        for name, value in (
            ("fsync", fsync),
            ("full_page_writes", full_pages),
            ("synchronous_commit", synchronous),
        )
        if value == "off"
    ]
    if off:
        action = f"turn on {' and '.join(off)}: a crash may take what was acknowledged"
        return StoreCheck("durability", "warn", seen, action)
    return StoreCheck("durability", "ok", seen)
