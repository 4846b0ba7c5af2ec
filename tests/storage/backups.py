"""Makes and restores backups in tests, and reads what was restored with a store of its own."""

from pathlib import Path

from bamboo_gateway.storage.backup.manifest import Manifest
from bamboo_gateway.storage.backup.source import BackupSource
from bamboo_gateway.storage.backup.target import BackupTarget
from bamboo_gateway.storage.commits import Record
from bamboo_gateway.storage.jsonl.backup import copy_sessions
from bamboo_gateway.storage.jsonl.restore import restore_sessions
from bamboo_gateway.storage.jsonl.store import JsonlStore
from tests.storage.writing import StepClock, everything


def back_up(data_dir: Path, to: Path) -> Manifest:
    """Make a backup of a data directory, as the command does."""
    with BackupTarget(to, "jsonl", StepClock()) as target:
        sessions, last_epoch = copy_sessions(data_dir, target)
        return target.finish(sessions=sessions, last_epoch=last_epoch)


def restore(backup: Path, data_dir: Path, now_ms: int | None = None) -> None:
    """Restore a backup into an empty directory."""
    clock = StepClock() if now_ms is None else StepClock(now_ms)
    restore_sessions(BackupSource(backup), data_dir, clock)


async def restored(backup: Path, data_dir: Path) -> dict[str, list[Record]]:
    """Restore a backup; return the logs that a store reads from it."""
    restore(backup, data_dir)
    sessions = [file.session_id for file in BackupSource(backup).manifest.files]
    store = JsonlStore(data_dir, StepClock())
    await store.open()
    try:
        return {one: await everything(store, one) for one in sessions if one is not None}
    finally:
        await store.aclose()
