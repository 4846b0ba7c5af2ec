"""Make the store that `storage_url` names. A new backend is one package and a case here."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.backup import unfinished
from bamboo_gateway.storage.base import SessionStore, StoreUnusable

if TYPE_CHECKING:
    from bamboo_gateway.storage.backup.manifest import Manifest
    from bamboo_gateway.storage.backup.source import BackupSource
    from bamboo_gateway.storage.backup.target import BackupTarget
    from bamboo_gateway.storage.keys import ApiKeys
    from bamboo_gateway.storage.reports import Finding
    from bamboo_gateway.storage.sql.schema_change import SchemaChange

Progress = Callable[[int, int], None]


def make_store(settings: Settings, clock: Clock) -> SessionStore:
    """Make the store that `storage_url` names; do not open it yet.

    Raises:
        StoreUnusable: This build has no such store, or a restore of a backup was not finished.
    """
    _check_whole(settings)
    scheme = settings.storage.scheme
    match scheme:
        case "jsonl":
            from bamboo_gateway.storage.jsonl.store import JsonlStore

            assert settings.storage_dir is not None
            return JsonlStore(
                settings.storage_dir,
                clock,
                durability=settings.durability,
                checkpoint_interval_seconds=settings.checkpoint_interval_seconds,
                index_enabled=settings.index_enabled,
            )
        case "sqlite":
            from bamboo_gateway.storage.sql.sqlite.database import SqliteDatabase
            from bamboo_gateway.storage.sql.sqlite.store import SqliteStore

            assert settings.sqlite_file is not None
            return SqliteStore(
                SqliteDatabase(settings.sqlite_file, clock, durability=settings.durability),
                clock,
                checkpoint_interval_seconds=settings.checkpoint_interval_seconds,
            )
        case "postgresql":
            with _driver_of_postgresql():
                from bamboo_gateway.storage.sql.postgresql.database import make_database
                from bamboo_gateway.storage.sql.postgresql.store import PostgresStore

            return PostgresStore(
                make_database(settings.storage.secret, settings.storage_password_file),
                clock,
                checkpoint_interval_seconds=settings.checkpoint_interval_seconds,
            )
        case "memory":
            from bamboo_gateway.storage.memory import MemoryStore

            return MemoryStore(clock)
        case _:
            assert_never(scheme)


def make_api_keys(settings: Settings) -> "ApiKeys":
    """Return the API keys of the database that `storage_url` names, which a gateway may have open.

    It is for commands; all of it blocks, and a change makes the tables that the database lacks.

    Raises:
        StoreUnusable: There is no such store, or it keeps no keys.
    """
    if not settings.keeps_keys_in_store:
        raise StoreUnusable(f"storage_url `{settings.storage.scheme}:` keeps no keys.")
    with _driver_of_postgresql():
        from bamboo_gateway.storage.sql.postgresql.keys import keys_of
        from bamboo_gateway.storage.sql.postgresql.target import Target

    return keys_of(Target(settings.storage.secret, settings.storage_password_file))


def migrate_schema(settings: Settings, to: str | None, *, is_dry: bool) -> "SchemaChange":
    """Change the schema of the database that `storage_url` names; no process may have it open.

    This blocks: it is for `bamboo migrate schema`, which runs in a process of its own.

    Args:
        settings: Name the database.
        to: The version to reach; None is the newest.
        is_dry: Change nothing, and return the SQL.

    Raises:
        StoreBusy: A process owns the data.
        StoreUnusable: There is no such store, or it has no schema, or not this version.
    """
    scheme = settings.storage.scheme
    match scheme:
        case "postgresql":
            with _driver_of_postgresql():
                from bamboo_gateway.storage.sql.postgresql.migrate import migrate
                from bamboo_gateway.storage.sql.postgresql.target import Target

            target = Target(settings.storage.secret, settings.storage_password_file)
            return migrate(target, to, is_dry=is_dry)
        case "sqlite":
            from bamboo_gateway.storage.sql.sqlite.migrate import migrate as migrate_file

            assert settings.sqlite_file is not None
            return migrate_file(settings.sqlite_file, to, is_dry=is_dry)
        case "jsonl" | "memory":
            raise StoreUnusable(f"storage_url `{scheme}:` has no schema: there is nothing to do.")
        case _:
            assert_never(scheme)


def give_new_epochs(settings: Settings) -> int:
    """Give every session of the database that `storage_url` names a new epoch; return how many.

    This blocks: it is for `bamboo migrate new-epochs`, which runs in a process of its own.

    Raises:
        StoreBusy: A gateway uses the database.
        StoreUnusable: It cannot be used, or is no PostgreSQL database.
    """
    if settings.storage.scheme != "postgresql":
        raise StoreUnusable(
            f"storage_url is `{settings.storage.scheme}:`, and this is for PostgreSQL. "
            "`bamboo doctor --new-epochs` gives new epochs in other stores."
        )
    with _driver_of_postgresql():
        from bamboo_gateway.storage.sql.postgresql import migrate
        from bamboo_gateway.storage.sql.postgresql.database import make_database

    return migrate.give_new_epochs(
        make_database(settings.storage.secret, settings.storage_password_file)
    )


@contextmanager
def _driver_of_postgresql() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise StoreUnusable(
            "storage_url names PostgreSQL, and its driver is not installed: pip install "
            "'bamboo-gateway[postgresql]'."
        ) from error


def check_store(
    settings: Settings,
    clock: Clock,
    *,
    repair: bool = False,
    new_epochs: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> "list[Finding]":
    """Check the store that `storage_url` names; no process may have it open.

    This blocks: it is for `bamboo doctor`, which runs in a process of its own.

    Args:
        settings: Name the store.
        clock: The clock for new epochs.
        repair: Repair what is found.
        new_epochs: Give every session a new epoch, after a backup was restored.
        progress: Called with the number of sessions examined and their total.

    Raises:
        StoreBusy: A process owns the data.
        StoreUnusable: There is no such store, or it keeps nothing.
    """
    _check_whole(settings)
    scheme = settings.storage.scheme
    match scheme:
        case "jsonl":
            from bamboo_gateway.storage.jsonl.doctor import check

            assert settings.storage_dir is not None
            return check(
                settings.storage_dir,
                clock,
                repair=repair,
                new_epochs=new_epochs,
                progress=progress,
            )
        case "sqlite":
            from bamboo_gateway.storage.sql.sqlite.doctor import check as check_sqlite

            assert settings.sqlite_file is not None
            return check_sqlite(
                settings.sqlite_file,
                clock,
                repair=repair,
                new_epochs=new_epochs,
                progress=progress,
            )
        case "postgresql":
            with _driver_of_postgresql():
                from bamboo_gateway.storage.sql.postgresql.database import make_database
                from bamboo_gateway.storage.sql.postgresql.doctor import check as check_database

            return check_database(
                make_database(settings.storage.secret, settings.storage_password_file),
                settings.data_dir.expanduser() / "quarantine",
                clock,
                repair=repair,
                new_epochs=new_epochs,
                progress=progress,
            )
        case "memory":
            raise StoreUnusable(
                "storage_url `memory:` keeps nothing, so there is nothing to check."
            )
        case _:
            assert_never(scheme)


def _check_whole(settings: Settings) -> None:
    if settings.storage_dir is not None:
        unfinished.check_whole(settings.storage_dir)


def back_up(
    settings: Settings, to: Path, clock: Clock, progress: Progress | None = None
) -> "Manifest":
    """Make a backup of the store that `storage_url` names; a gateway may have it open.

    This blocks, and only reads what the gateway writes: it is for a process of its own.

    Raises:
        BackupRefused: The target exists, or the store makes its backups in another way.
        StoreUnusable: There is no such store, or something in it cannot be read.
        OSError: A file cannot be read or written.
    """
    from bamboo_gateway.storage.backup.target import BackupRefused, BackupTarget

    _check_whole(settings)
    scheme = settings.storage.scheme
    match scheme:
        case "jsonl":
            from bamboo_gateway.storage.jsonl.backup import check_place, copy_sessions

            assert settings.storage_dir is not None
            check_place(settings.storage_dir, to)
            with BackupTarget(to, scheme, clock) as target:
                sessions, last_epoch = copy_sessions(settings.storage_dir, target, progress)
                _copy_others(settings, target)
                return target.finish(sessions=sessions, last_epoch=last_epoch)
        case "sqlite":
            from bamboo_gateway.storage.sql.sqlite.backup import copy_database

            assert settings.sqlite_file is not None
            with BackupTarget(to, scheme, clock) as target:
                sessions, last_epoch = copy_database(settings.sqlite_file, target, progress)
                _copy_others(settings, target)
                return target.finish(sessions=sessions, last_epoch=last_epoch)
        case "postgresql":
            with _driver_of_postgresql():
                from bamboo_gateway.storage.sql.postgresql.target import Target

            database = Target(settings.storage.secret, settings.storage_password_file)
            raise BackupRefused(
                "PostgreSQL makes its own backups, also while the gateway runs: "
                f"`{database.dump_command('bamboo.dump')}`, or continuous archiving for any point "
                "in time. After restoring one, run `bamboo doctor --new-epochs`. The page `Back up "
                "and restore` of the documentation has each step."
            )
        case "memory":
            raise BackupRefused("storage_url `memory:` keeps nothing, so there is no backup of it.")
        case _:
            assert_never(scheme)


def _copy_others(settings: Settings, target: "BackupTarget") -> None:
    """Copy what lies beside the sessions: the keys' digests and the audit log.

    The ticket secret is not in a backup: whoever has it can make logins for every user. A restored
    gateway makes a new one, and people log in again.
    """
    if settings.keys_path is not None:
        target.copy(settings.keys_path, "keys.json")
    audit, data_dir = settings.audit_path, settings.storage_dir
    if audit is not None and data_dir is not None and audit.parent.resolve() == data_dir.resolve():
        target.copy(audit, "audit.jsonl", whole_lines=True)


def open_backup(path: Path) -> "BackupSource":
    """Open a backup for reading.

    Raises:
        BackupRefused: There is no whole backup at this path.
        BackupDamaged: It is not what was written.
    """
    from bamboo_gateway.storage.backup.source import BackupSource

    return BackupSource(path)


def restore_backup(
    settings: Settings, source: "BackupSource", clock: Clock, progress: Progress | None = None
) -> None:
    """Restore a backup into the empty store that `storage_url` names. This blocks.

    Raises:
        BackupRefused: The store is not empty, or of another kind than the backup's.
        BackupDamaged: The backup is not what was written. Nothing of it is in the store.
        StoreBusy: A process has the store open.
        OSError: A file cannot be read or written.
    """
    from bamboo_gateway.storage.backup.target import BackupRefused

    kind, scheme = source.manifest.store, settings.storage.scheme
    if scheme == kind == "jsonl":
        from bamboo_gateway.storage.jsonl.restore import restore_sessions

        assert settings.storage_dir is not None
        restore_sessions(source, settings.storage_dir, clock, progress)
        return
    if scheme == kind == "sqlite":
        from bamboo_gateway.storage.sql.sqlite.backup import restore_database

        assert settings.sqlite_file is not None
        restore_database(source, settings.sqlite_file, clock, progress)
        return
    raise BackupRefused(
        f"This is the backup of a store `{kind}:`, and storage_url is `{scheme}:`. Restore it with "
        f"`--storage-url {kind}:`; `bamboo migrate data` then copies it to any other store."
    )
