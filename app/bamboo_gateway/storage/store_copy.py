"""Copies the sessions of the store that one URL names to that of another: `bamboo migrate data`."""

from anyio import to_thread

from bamboo_gateway.domain.clock import SystemClock
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import StoreUnusable, SupportsAlone, SupportsMigration
from bamboo_gateway.storage.factory import make_store
from bamboo_gateway.storage.migration.beside import copy_beside
from bamboo_gateway.storage.migration.migrate import Migrated, Progress, migrate, survey


async def copy_store(
    source: Settings, target: Settings, progress: Progress, *, is_dry: bool = False
) -> Migrated:
    """Copy all sessions of one store to another, for `bamboo migrate data`.

    Args:
        source: Name the store that has the sessions.
        target: Name the store to copy them to.
        progress: Told how far it is.
        is_dry: Change nothing, and return what would be copied.

    Raises:
        StoreBusy, StoreUnusable: One of them cannot be used, or the target is not empty.
        BambooError: As `migration.migrate.migrate`.
    """
    clock = SystemClock()
    _check_exists(source)
    made, empty = make_store(source, clock), make_store(target, clock)
    if isinstance(empty, SupportsMigration):
        await empty.check_vacant(source.storage_place)
    if isinstance(made, SupportsAlone):
        made.be_alone()
    await made.open()
    try:
        found = await survey(made)
        if not found.sessions and not found.values:
            raise StoreUnusable(f"{source.storage} has no sessions: there is nothing to copy.")
        if is_dry:
            return found
        done = await migrate(
            made, lambda: make_store(target, clock), source.storage_place, progress
        )
    finally:
        await made.aclose()
    if source.storage.scheme == target.storage.scheme == "jsonl":
        assert source.storage_dir is not None
        assert target.storage_dir is not None
        done.beside = await to_thread.run_sync(copy_beside, source.storage_dir, target.storage_dir)
    return done


def _check_exists(settings: Settings) -> None:
    """Refuse a store that opening would create.

    Raises:
        StoreUnusable: There is none.
    """
    storage, directory = settings.storage, settings.storage_dir
    if storage.path is not None and not storage.path.exists():
        raise StoreUnusable(f"There is no {storage.path}.")
    if directory is not None and not directory.is_dir():
        raise StoreUnusable(f"There is no directory {directory}.")
