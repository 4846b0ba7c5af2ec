"""Make the store that `storage_url` names. A new backend is one package and a case here."""

from collections.abc import Callable
from typing import TYPE_CHECKING, assert_never

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import SessionStore, StoreUnusable

if TYPE_CHECKING:
    from bamboo_gateway.storage.reports import Finding


def make_store(settings: Settings, clock: Clock) -> SessionStore:
    """Make the store that `storage_url` names; do not open it yet.

    Raises:
        StoreUnusable: This build has no such store.
    """
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
        case "sqlite" | "postgresql":
            raise StoreUnusable(f"storage_url `{scheme}:` is not supported yet.")
        case "memory":
            from bamboo_gateway.storage.memory import MemoryStore

            return MemoryStore(clock)
        case _:
            assert_never(scheme)


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
        case "sqlite" | "postgresql":
            raise StoreUnusable(f"storage_url `{scheme}:` is not supported yet.")
        case "memory":
            raise StoreUnusable(
                "storage_url `memory:` keeps nothing, so there is nothing to check."
            )
        case _:
            assert_never(scheme)
