"""Make the store that `storage_url` names. A new backend is one package and one line here."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import SessionStore, StoreUnusable

if TYPE_CHECKING:
    from bamboo_gateway.storage.jsonl.doctor import Finding


def make_store(settings: Settings, clock: Clock) -> SessionStore:
    """Make the store that `storage_url` names; do not open it yet.

    Raises:
        StoreUnusable: The URL names no known store.
    """
    match settings.storage_url:
        case "jsonl:":
            from bamboo_gateway.storage.jsonl.store import JsonlStore

            return JsonlStore(
                settings.data_dir,
                clock,
                durability=settings.durability,
                checkpoint_interval_seconds=settings.checkpoint_interval_seconds,
                index_enabled=settings.index_enabled,
            )
        case "memory:":
            from bamboo_gateway.storage.memory import MemoryStore

            return MemoryStore(clock)
        case unknown:
            raise StoreUnusable(
                f"storage_url {unknown!r} is not supported: use `jsonl:` (files) or `memory:`."
            )


def check_store(
    settings: Settings,
    clock: Clock,
    *,
    repair: bool = False,
    new_epochs: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> "list[Finding]":
    """Examine the files of the store that `storage_url` names; no process may have it open.

    This blocks: it is for `bamboo doctor`, which runs in a process of its own.

    Args:
        settings: Name the store and its directory.
        clock: The clock for new epochs.
        repair: Repair what is found.
        new_epochs: Give every session a new epoch, after a backup was restored.
        progress: Called with the number of sessions examined and their total.

    Raises:
        StoreBusy: A process owns the data.
        StoreUnusable: There is no such store, or it keeps no files.
    """
    match settings.storage_url:
        case "jsonl:":
            from bamboo_gateway.storage.jsonl.doctor import check

            return check(
                settings.data_dir,
                clock,
                repair=repair,
                new_epochs=new_epochs,
                progress=progress,
            )
        case other:
            raise StoreUnusable(
                f"storage_url {other!r} keeps no files, so there is nothing to examine."
            )
